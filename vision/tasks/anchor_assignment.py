"""Which anchors of which cells are assigned to which box: the assignment of the YOLOs by shape and place.

An anchor matches a box where neither side is four times the other's or more; the box is then matched for by the
cell of its centre and the two nearest cells beside it, one in each direction, as far as they exist. So a box has up to
nine answers a level, and none where no anchor matches.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# The cell of the centre, the nearer cell to its left or right, the nearer one above or below
CELLS = 3


class Assignment(NamedTuple):
    """Candidates of one level, m = 3 cells x a anchors x n boxes an image; only ``valid`` ones mean something."""

    row: Int[Array, "b m"]
    """Of the cell."""
    column: Int[Array, "b m"]
    """Of the cell."""
    anchor: Int[Array, "b m"]
    """Of the cell's anchors."""
    box: Int[Array, "b m"]
    """The box's place among the n."""
    valid: Bool[Array, "b m"]
    """Whether this anchor of this cell is assigned to the box."""


def assign(
    boxes: Float[Array, "b n 4"],
    valid: Bool[Array, "b n"],
    *,
    anchors: Float[Array, "a 2"],
    stride: int,
    grid: tuple[int, int],
    ratio: float = 4.0,
) -> Assignment:
    """The candidates of a level.

    Args:
      boxes: corners in pixels, within the image.
      valid: which slots hold a box.
      anchors: widths and heights in pixels.
      stride: pixels a cell.
      grid: rows and columns of cells.
      ratio: anchors match where max(w / aw, aw / w, h / ah, ah / h) is below this.

    A centre on the border of two cells belongs to the right or lower one. In the very middle of a cell, left and right
    are equally near: the right cell is taken, and the lower one.
    """
    batch, count = boxes.shape[:2]
    rows, columns = grid
    centre = (boxes[..., :2] + boxes[..., 2:]) / (2 * stride)
    cell = jnp.clip(jnp.floor(centre), 0, jnp.array([columns - 1, rows - 1])).astype(jnp.int32)
    side = jnp.where(centre - cell < 0.5, -1, 1)
    x, y = cell[..., 0], cell[..., 1]
    column = jnp.stack([x, x + side[..., 0], x], axis=1)  # [b 3 n]
    row = jnp.stack([y, y, y + side[..., 1]], axis=1)
    exists = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)

    sizes = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    share = sizes[:, None] / anchors[:, None]  # [b a n 2]
    # a box without a side matches nothing: the other ratio is infinite
    matches = (jnp.maximum(share, 1 / share) < ratio).all(-1) & valid[:, None]

    shape = (batch, CELLS, anchors.shape[0], count)
    spread = lambda x, axes: jnp.broadcast_to(jnp.expand_dims(x, axes), shape).reshape(batch, -1)
    return Assignment(
        row=spread(row, 2),
        column=spread(column, 2),
        anchor=spread(jnp.arange(anchors.shape[0]), (0, 1, 3)),
        box=spread(jnp.arange(count), (0, 1, 2)),
        valid=spread(exists, 2) & spread(matches, 1),
    )
