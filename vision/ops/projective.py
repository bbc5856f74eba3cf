"""Projective maps of the plane: sampling images through 3x3 matrices, and mapping boxes by them.

Positions are (x, y) in pixels, with the image's corners at (0, 0) and (width, height), as for boxes; the centre of the
first pixel is at (1/2, 1/2). A matrix maps (x, y, 1) to (x', y', w'), which represents the point (x' / w', y' / w')
(Hartley & Zisserman 2004, section 2.3). Unlike in `vision.ops.geometry`, matrices are those of the visible motion: they
map a point of the image to its position in the result.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

Number = Float[Array, "*b"] | float
"""One number for all samples, or one for each."""


class Tap(NamedTuple):
    """The contribution of one neighbour along an axis to a bilinear sample."""

    offset: Int[Array, "..."]
    """The axis's contribution to the flat index of the pixel."""
    weight: Float[Array, "..."]
    """Its weight, 0 where the neighbour is outside."""


def matrix(
    a: Number = 1.0,
    b: Number = 0.0,
    c: Number = 0.0,
    d: Number = 0.0,
    e: Number = 1.0,
    f: Number = 0.0,
    g: Number = 0.0,
    h: Number = 0.0,
) -> Float[Array, "*b 3 3"]:
    """((a, b, c), (d, e, f), (g, h, 1)), of numbers or of one number for each sample; the identity by default."""
    entries = jnp.broadcast_arrays(*(jnp.asarray(x, jnp.float32) for x in (a, b, c, d, e, f, g, h, 1.0)))
    return jnp.stack(entries, axis=-1).reshape(*entries[0].shape, 3, 3)


def compose(*matrices: Float[Array, "..."]) -> Float[Array, "*b 3 3"]:
    """The product of [*b 3 3] or [3 3] matrices: the last one acts first."""
    product = matrices[0]
    for factor in matrices[1:]:
        product = jnp.matmul(product, factor, precision=jax.lax.Precision.HIGHEST)
    return product


def inverses(matrices: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3 3"]:
    """The inverse matrices, by Cramer's rule: its columns are cross products of the rows, over the determinant."""
    first, second, third = (matrices[..., row, :] for row in range(3))
    columns = jnp.stack([jnp.cross(second, third), jnp.cross(third, first), jnp.cross(first, second)], axis=-1)
    determinant = jnp.sum(first * columns[..., 0], axis=-1)
    return columns / determinant[..., None, None]


def project(points: Float[Array, "*b n 2"], matrices: Float[Array, "*b 3 3"]) -> Float[Array, "*b n 2"]:
    """Map points (x, y) by the matrices. The image of a point on the horizon (w' = 0) is not finite."""
    x, y = points[..., 0], points[..., 1]
    row = lambda k: matrices[..., k, 0, None] * x + matrices[..., k, 1, None] * y + matrices[..., k, 2, None]
    return jnp.stack([row(0), row(1)], axis=-1) / row(2)[..., None]


def project_boxes(boxes: Float[Array, "*b n 4"], matrices: Float[Array, "*b 3 3"]) -> Float[Array, "*b n 4"]:
    """The smallest boxes around the four mapped corners of each box (x0, y0, x1, y1); not clipped.

    For boxes in front of the horizon (w' > 0 at all corners), these contain everything in the original boxes.
    """
    x0, y0, x1, y1 = (boxes[..., k] for k in range(4))
    corners = [project(jnp.stack(corner, axis=-1), matrices) for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
    moved = jnp.stack(corners, axis=-2)
    return jnp.concatenate([jnp.min(moved, axis=-2), jnp.max(moved, axis=-2)], axis=-1)


def sources(
    matrices: Float[Array, "b 3 3"], rows: Num[Array, " h"], columns: Num[Array, " w"], *, separable: bool = False
) -> tuple[Float[Array, "b #h w"], Float[Array, "b h #w"]]:
    """Positions in the image of the centres of the result's pixels.

    Args:
      matrices: from the image to the result.
      rows: numbers of the pixels' rows in the result, from 0.
      columns: those of their columns.
      separable: a promise that the matrices only scale and translate along the axes, so that x depends only on the
        column and y only on the row.

    Returns:
      x and y, [b h w] both, or if separable [b 1 w] and [b h 1]. They are far outside of any image for points behind
      the horizon.
    """
    back = inverses(matrices)[..., None, None]
    row, column = rows[:, None] + 0.5, columns[None, :] + 0.5
    if separable:
        return back[:, 0, 0] * column + back[:, 0, 2], back[:, 1, 1] * row + back[:, 1, 2]
    x, y, w = (back[:, k, 0] * column + back[:, k, 1] * row + back[:, k, 2] for k in range(3))
    # The inverse's w is one over the matrix's, so that it is positive in front of the horizon
    front = w > 0
    w = jnp.where(front, w, 1.0)
    return jnp.where(front, x / w, -1e6), jnp.where(front, y / w, -1e6)


def neighbours(position: Float[Array, "*shape"], length: int, stride: int) -> tuple[Tap, Tap]:
    """The two pixels of a line around each position, whose centres are at 1/2, 3/2, ..., and their weights.

    Args:
      position: along the axis.
      length: pixels of the line.
      stride: how far apart its pixels are in memory.
    """
    # Positions far outside would overflow integers
    index = jnp.clip(position - 0.5, -2.0, length + 1.0)
    low = jnp.floor(index)

    def tap(at: Float[Array, "*shape"], weight: Float[Array, "*shape"]) -> Tap:
        inside = (at >= 0) & (at < length)
        return Tap(jnp.clip(at, 0, length - 1).astype(jnp.int32) * stride, jnp.where(inside, weight, 0.0))

    return tap(low, 1.0 - (index - low)), tap(low + 1.0, index - low)


def bilinear(
    rows: tuple[Tap, Tap],
    columns: tuple[Tap, Tap],
    pixels: Callable[[Int[Array, "b h w"]], Float[Array, "b h w c"]],
    *,
    fill: float,
) -> Float[Array, "b h w c"]:
    """The weighted mean of four pixels for each pixel of the result; ``fill`` gets the missing weight.

    Where the taps of rows are [b h 1] and those of columns [b 1 w], everything that depends on one axis is computed
    once per line; on CPUs this is twice as fast as taps of [b h w].

    Args:
      rows: the upper and the lower neighbour.
      columns: the left and the right one.
      pixels: the values at places, which are sums of a row's and a column's offset.
      fill: what is outside.
    """
    mixed = 0.0
    for row in rows:
        line = 0.0
        for column in columns:
            line = line + column.weight[..., None] * pixels(row.offset + column.offset)
        mixed = mixed + row.weight[..., None] * line
    inside = (rows[0].weight + rows[1].weight) * (columns[0].weight + columns[1].weight)
    return mixed + fill * (1.0 - inside)[..., None]


def projective_warp(
    images: Float[Array, "b h w c"],
    matrices: Float[Array, "b 3 3"],
    size: tuple[int, int],
    *,
    fill: float = 0.0,
    separable: bool = False,
) -> Float[Array, "b H W c"]:
    """Each image transformed by its matrix, in a window of ``size`` (height, width); bilinear, not antialiased.

    Args:
      images: float32 of any range.
      matrices: from the image to the result; not singular.
      size: height and width of the result.
      fill: what is outside of the image; it is mixed in within half a pixel of the border.
      separable: see :func:`sources`.
    """
    _, height, width, channels = images.shape
    x, y = sources(matrices, jnp.arange(size[0]), jnp.arange(size[1]), separable=separable)
    flat = images.reshape(-1, height * width, channels)
    take = jax.vmap(lambda of, at: of.at[at].get(mode="promise_in_bounds"))
    return bilinear(neighbours(y, height, width), neighbours(x, width, 1), lambda place: take(flat, place), fill=fill)
