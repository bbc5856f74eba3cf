"""Arrays of a fixed number of boxes: which are kept after a transform, and how they and maps of them are packed."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer

from vision.data.augment.instances import renumbered
from vision.ops.boxes import area


def worth_keeping(
    complete: Float[Array, "*b n 4"],
    visible: Float[Array, "*b n 4"],
    *,
    least_side: float,
    least_area: float,
    largest_ratio: float,
) -> Bool[Array, "*b n"]:
    """Whether enough is visible of boxes that a transform has moved partly out of the image.

    Args:
      complete: the transformed boxes (x0, y0, x1, y1) in pixels, before clipping.
      visible: their visible parts.
      least_side: least width and height of the visible box, in pixels. A box of zero extent is never kept.
      least_area: least area of the visible box, as a share of the complete one's area.
      largest_ratio: largest ratio of the visible box's longer to its shorter side.
    """
    sides = visible[..., 2:] - visible[..., :2]
    shorter, longer = jnp.min(sides, axis=-1), jnp.max(sides, axis=-1)
    large = (shorter > 0) & (shorter >= least_side) & (longer <= largest_ratio * shorter)
    return large & (area(visible) >= least_area * area(complete))


def packed(
    boxes: Float[Array, "b m 4"],
    labels: Int[Array, "b m"],
    valid: Bool[Array, "b m"],
    max_boxes: int,
    dropped: Int[Array, " b"],
    instances: Integer[Array, "b h w"] | None = None,
) -> dict[str, Array]:
    """Move each sample's valid boxes to the front of an array of ``max_boxes`` entries.

    Where all fit, they keep their order. Where more are valid, the largest are kept, in descending order of area.

    Args:
      boxes: (x0, y0, x1, y1) in pixels.
      labels: one per box.
      valid: which entries are boxes.
      max_boxes: of each sample.
      dropped: how many boxes of each sample were dropped before.
      instances: a map of which entry each pixel belongs to, 1 + k for the k-th, and 0 for none.

    Returns:
      "boxes" [b max_boxes 4], "labels" and "valid" [b max_boxes], zeros where there is no box, and "dropped_boxes" [b]:
      ``dropped`` plus the boxes that are dropped here. With ``instances``, "instances" int32 [b h w] is the map of the
      packed boxes, 0 where a box was not kept.
    """
    count = jnp.sum(valid, axis=-1, dtype=jnp.int32)
    missing = max(max_boxes - boxes.shape[1], 0)
    rank = jnp.where((count > max_boxes)[:, None], area(boxes), 1.0)
    # Stable, so that equal areas keep their order; invalid entries come last
    order = jnp.argsort(jnp.where(valid, -rank, jnp.inf), axis=-1, stable=True)[:, :max_boxes]
    kept = jnp.take_along_axis(valid, order, axis=-1)
    own = jnp.where(kept[..., None], jnp.take_along_axis(boxes, order[..., None], axis=1), 0.0)
    labels = jnp.where(kept, jnp.take_along_axis(labels, order, axis=-1), 0)
    empty = lambda of: jnp.pad(of, [(0, 0), (0, missing)] + [(0, 0)] * (of.ndim - 2))
    dropped = dropped + jnp.maximum(count - max_boxes, 0)
    out = {"boxes": empty(own), "labels": empty(labels), "valid": empty(kept), "dropped_boxes": dropped}
    return out if instances is None else {**out, "instances": renumbered(instances, order, kept, valid.shape[1])}
