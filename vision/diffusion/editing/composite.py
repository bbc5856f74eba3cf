"""The last step of every edit inside a mask: outside of it the pixels of the original come back, bit for bit."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

Weight = Float[Array, "#b h w 1"]
"""How much of the edit each pixel shows, in [0, 1]: a mask, or a mask with soft borders."""


def composited(
    original: UInt8[Array, "b h w c"], edited: UInt8[Array, "b h w c"], weight: Weight
) -> UInt8[Array, "b h w c"]:
    """Weight edited + (1 - weight) original, rounded; where the weight is exactly 0, the pixels of ``original``.

    Latent methods are composited in pixels too, since an autoencoder changes every pixel a little.
    """
    mixed = weight * edited.astype(jnp.float32) + (1.0 - weight) * original.astype(jnp.float32)
    return jnp.where(weight == 0.0, original, jnp.round(mixed).astype(jnp.uint8))


def region(weight: Weight) -> Float[Array, "#b h w 1"]:
    """Where anything of the edit will show, as 0 or 1: the region that is generated. Soft borders are left to the end.

    A soft border that were blended in each step would shift the noise level of the blend, whose two sides have
    independent noise.
    """
    return (weight > 0.0).astype(jnp.float32)
