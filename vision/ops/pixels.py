"""Pixel values: uint8 in the pipeline and on disk, float32 in [-1, 1] on the device."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def to_float(image: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """0..255 to [-1, 1], float32."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(image: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """[-1, 1] to 0..255 by rounding to the nearest; values outside are clipped. The inverse of :func:`to_float`."""
    return jnp.round((jnp.clip(image, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
