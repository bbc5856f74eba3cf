"""Pixel values: uint8 in the pipeline and on disk, float32 in [-1, 1] on the device."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from vision.ops.resize import IMAGENET_MEAN, IMAGENET_STD, normalise

PixelScale = Literal["symmetric", "unit", "imagenet"]
"""[-1, 1]; [0, 1]; or normalised by the mean and deviation of ImageNet."""


def to_float(image: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """0..255 to [-1, 1], float32."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(image: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """[-1, 1] to 0..255 by rounding to the nearest; values outside are clipped. The inverse of :func:`to_float`."""
    return jnp.round((jnp.clip(image, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


def scaled(image: Float[Array, "b h w c"], scale: PixelScale) -> Float[Array, "b h w c"]:
    """Images in [-1, 1] as a network takes them; those of "imagenet" have three channels."""
    if scale == "unit":
        return (image + 1.0) / 2.0
    return normalise(image, IMAGENET_MEAN, IMAGENET_STD) if scale == "imagenet" else image
