"""The inner borders of masks, of a width: a mask without its erosion (Cheng et al. 2021, Boundary IoU, section 4).

A pixel of a mask is on its border if a pixel that is not of the mask, or outside of the image, is at most ``distance``
rows and columns away: the erosion is by a square of 2 distance + 1 pixels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

BOUNDARY_RATIO = 0.02
"""The width of a border over the diagonal of the image, as published."""

_OUTSIDE = int(np.iinfo(np.int32).min)


def boundary_distance(height: int, width: int, *, ratio: float = BOUNDARY_RATIO) -> int:
    """The width of borders in an image, in pixels: the rounded share of its diagonal, and at least 1."""
    return max(round(ratio * float(np.sqrt(height**2 + width**2))), 1)


def mask_outline(mask: Bool[np.ndarray, "h w"], distance: int) -> Bool[np.ndarray, "h w"]:
    """The border of one mask, on the host."""
    from scipy import ndimage  # only evaluations and pictures of masks need it

    outline = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return outline
    # beyond the box of the mask is as little of it as beyond the image
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inner = mask[box].astype(np.uint8)
    for axis in (0, 1):
        inner = ndimage.minimum_filter1d(inner, 2 * distance + 1, axis=axis, mode="constant", cval=0)
    outline[box] = mask[box] & (inner == 0)
    return outline


def label_outlines(labels: Int[Array, "b h w"], distance: Int[Array, " b"]) -> Bool[Array, "b h w"]:
    """The pixels that are on the border of the mask of their own label; compiles.

    The cost is that of one mask, whatever the number of labels: a pixel is within d of another label exactly if it is
    within d - 1 of a pixel that touches a label other than its own.

    Args:
      labels: any integers but the smallest of int32.
      distance: of each image, in pixels, at least 1.
    """
    padded = jnp.pad(labels.astype(jnp.int32), ((0, 0), (1, 1), (1, 1)), constant_values=_OUTSIDE)
    touches = _three(_three(padded, jnp.minimum, 1), jnp.minimum, 2) != _three(
        _three(padded, jnp.maximum, 1), jnp.maximum, 2
    )

    def wider(step: Array, near: Array) -> Array:
        padded = jnp.pad(near, ((0, 0), (1, 1), (1, 1)))
        spread = _three(_three(padded, jnp.logical_or, 1), jnp.logical_or, 2)
        return jnp.where((step < distance - 1)[:, None, None], spread, near)

    return jax.lax.fori_loop(0, jnp.max(distance) - 1, wider, touches)


def _three(x: Array, operation: Callable[[Array, Array], Array], axis: int) -> Array:
    """The operation on every three neighbours in a row or a column; two shorter."""
    near = lambda start: jax.lax.slice_in_dim(x, start, x.shape[axis] - 2 + start, axis=axis)
    return operation(operation(near(0), near(1)), near(2))
