"""Boxes in slots of a fixed number: which are worth keeping after a motion, and how they are packed."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vision.ops.boxes import area


def worth_keeping(
    whole: Float[Array, "*b n 4"],
    visible: Float[Array, "*b n 4"],
    *,
    least_side: float,
    least_area: float,
    largest_ratio: float,
) -> Bool[Array, "*b n"]:
    """Whether enough is left of boxes that a motion has taken partly out of the picture.

    Args:
      whole: the moved boxes (x0, y0, x1, y1) in pixels, before they were clipped.
      visible: what is left of them.
      least_side: of the visible box, in pixels, both ways. A box without extent is never kept.
      least_area: of the visible box, as a share of the whole one's area.
      largest_ratio: of the visible box's longer to its shorter side.
    """
    sides = visible[..., 2:] - visible[..., :2]
    shorter, longer = jnp.min(sides, axis=-1), jnp.max(sides, axis=-1)
    large = (shorter > 0) & (shorter >= least_side) & (longer <= largest_ratio * shorter)
    return large & (area(visible) >= least_area * area(whole))


def packed(
    boxes: Float[Array, "b m 4"],
    labels: Int[Array, "b m"],
    valid: Bool[Array, "b m"],
    max_boxes: int,
    dropped: Int[Array, " b"],
) -> dict[str, Array]:
    """Put each sample's valid boxes into the first places of an array of ``max_boxes``.

    They keep their order where all fit. Where more are valid, the largest are kept, largest first.

    Args:
      boxes: (x0, y0, x1, y1) in pixels.
      labels: one a box.
      valid: which of them count.
      max_boxes: of a sample.
      dropped: how many boxes of each sample were dropped before.

    Returns:
      "boxes" [b max_boxes 4], "labels" and "valid" [b max_boxes], zeros where there is no box, and "dropped_boxes" [b]:
      ``dropped`` and the boxes that are left out here.
    """
    count = jnp.sum(valid, axis=-1, dtype=jnp.int32)
    missing = max(max_boxes - boxes.shape[1], 0)
    rank = jnp.where((count > max_boxes)[:, None], area(boxes), 1.0)
    # Stable, so that equals keep their order; the least rank of all goes last
    order = jnp.argsort(jnp.where(valid, -rank, jnp.inf), axis=-1, stable=True)[:, :max_boxes]
    kept = jnp.take_along_axis(valid, order, axis=-1)
    own = jnp.where(kept[..., None], jnp.take_along_axis(boxes, order[..., None], axis=1), 0.0)
    labels = jnp.where(kept, jnp.take_along_axis(labels, order, axis=-1), 0)
    empty = lambda of: jnp.pad(of, [(0, 0), (0, missing)] + [(0, 0)] * (of.ndim - 2))
    dropped = dropped + jnp.maximum(count - max_boxes, 0)
    return {"boxes": empty(own), "labels": empty(labels), "valid": empty(kept), "dropped_boxes": dropped}
