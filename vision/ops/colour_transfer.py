"""Colours of one image for another: Gatys et al. 2016, "Preserving Color in Neural Artistic Style Transfer"."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.ops.ycbcr import rgb_to_ycbcr, ycbcr_to_rgb

_LEAST = 1e-5
"""The variance below which a direction of colours counts as constant, where pixels are in [0, 1]."""


def with_colours_of(image: Float[Array, "b h w 3"], source: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """The luma of an image with the colour differences of another one of its size (section 3), in [0, 1].

    The luma is JPEG's, of BT.601 and full range. Luma and colours together may lie outside of RGB and are clipped.
    """
    luma = rgb_to_ycbcr(image, value_range="full")[..., :1]
    colours = rgb_to_ycbcr(source, value_range="full")[..., 1:]
    return jnp.clip(ycbcr_to_rgb(jnp.concatenate([luma, colours], axis=-1), value_range="full"), 0.0, 1.0)


def matched_colours(image: Float[Array, "h w 3"], target: Float[Array, "H W 3"]) -> Float[Array, "h w 3"]:
    """An image with the mean and covariance of another one's colours, clipped to [0, 1].

    Colours x become A (x - mean) + mean' with A = S'^(1/2) S^(-1/2), symmetric roots of the covariances S and S'
    (section 4, eq. 1 to 3, "image analogies"). Directions in which the image has no variance stay without.
    """
    values, goal = image.reshape(-1, 3), target.reshape(-1, 3)
    mean, wanted = values.mean(0), goal.mean(0)
    matrix = _power(_covariance(goal), 0.5) @ _power(_covariance(values), -0.5)
    made = jnp.matmul(values - mean, matrix.T, precision=jax.lax.Precision.HIGHEST) + wanted
    return jnp.clip(made, 0.0, 1.0).reshape(image.shape)


def _covariance(values: Float[Array, "n 3"]) -> Float[Array, "3 3"]:
    apart = values - values.mean(0)
    return jnp.matmul(apart.T, apart, precision=jax.lax.Precision.HIGHEST) / len(values)


def _power(matrix: Float[Array, "3 3"], exponent: float) -> Float[Array, "3 3"]:
    """A power of a symmetric matrix, 0 in directions of no variance."""
    values, vectors = jnp.linalg.eigh(matrix)
    powers = jnp.where(values > _LEAST, jnp.maximum(values, _LEAST) ** exponent, 0.0)
    return (vectors * powers) @ vectors.T
