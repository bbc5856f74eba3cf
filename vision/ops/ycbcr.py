"""Luma and colour differences of ITU-R Recommendation BT.601, for images in [0, 1].

Two conventions are in use. *Studio range*, MATLAB's ``rgb2ycbcr``: luma takes 219 of 255 levels from 16, colour
differences 224 around 128; super-resolution is measured on this luma. *Full range*, JPEG's (JFIF): all use 255 levels.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.errors import UserError

Range = Literal["studio", "full"]

_RED, _BLUE = 0.299, 0.114
_GREEN = 1.0 - _RED - _BLUE
# BT.601: Y, (B - Y) / 1.772 and (R - Y) / 1.402
_FULL = np.array(
    [
        [_RED, _GREEN, _BLUE],
        [-_RED / (2 - 2 * _BLUE), -_GREEN / (2 - 2 * _BLUE), 0.5],
        [0.5, -_GREEN / (2 - 2 * _RED), -_BLUE / (2 - 2 * _RED)],
    ]
)
# MATLAB's rgb2ycbcr, for results of 0 to 255 (Poynton 1996, "A Technical Introduction to Digital Video", p. 175)
_STUDIO = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255.0
_MATRICES = {"studio": _STUDIO, "full": _FULL}
_OFFSETS = {"studio": np.array([16.0, 128.0, 128.0]) / 255.0, "full": np.array([0.0, 128.0, 128.0]) / 255.0}


def rgb_to_ycbcr(images: Float[Array, "*shape 3"], *, value_range: Range = "studio") -> Float[Array, "*shape 3"]:
    """Luma Y and colour differences Cb and Cr, of red, green and blue in [0, 1]; not rounded.

    Returns:
      as shares of 255 levels: for "studio", Y in [16, 235] / 255 and Cb, Cr in [16, 240] / 255; for "full" all are in
      [0, 1], grey being 128 / 255.
    """
    return _product(images, _MATRICES[value_range]) + jnp.asarray(_OFFSETS[value_range], images.dtype)


def ycbcr_to_rgb(images: Float[Array, "*shape 3"], *, value_range: Range = "studio") -> Float[Array, "*shape 3"]:
    """The inverse of :func:`rgb_to_ycbcr`; neither clipped nor rounded."""
    offset = jnp.asarray(_OFFSETS[value_range], images.dtype)
    return _product(images - offset, np.linalg.inv(_MATRICES[value_range]))


def luma(images: Float[Array, "*shape c"]) -> Float[Array, "*shape 1"]:
    """The studio-range luma of RGB in [0, 1]; a single channel is taken to be such luma and returned as it is.

    Raises:
      UserError: images that have neither one nor three channels.
    """
    if images.shape[-1] == 1:
        return images
    if images.shape[-1] != 3:
        raise UserError(f"luma needs images of 1 or 3 channels, got {images.shape[-1]}")
    return _product(images, _STUDIO[:1]) + jnp.asarray(_OFFSETS["studio"][0], images.dtype)


def _product(images: Array, matrix: np.ndarray) -> Array:
    return jnp.einsum("...c,dc->...d", images, jnp.asarray(matrix, images.dtype), precision=jax.lax.Precision.HIGHEST)
