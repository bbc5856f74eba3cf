"""Boxes of an image in arrays of a fixed size."""

import numpy as np
from jaxtyping import Float32, Int, Int32


def largest_boxes(boxes: Float32[np.ndarray, "n 4"], max_boxes: int) -> Int[np.ndarray, " k"]:
    """Which boxes `padded_boxes` keeps, in ascending order."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return np.sort(np.argsort(-area, kind="stable")[:max_boxes])


def padded_boxes(
    boxes: Float32[np.ndarray, "n 4"], labels: Int32[np.ndarray, " n"], max_boxes: int
) -> dict[str, np.ndarray]:
    """Boxes padded to ``max_boxes``; if there are more, the largest are kept, in their order.

    Returns:
        "boxes" float32 [max_boxes 4], "labels" int32 [max_boxes] and "valid" bool [max_boxes], the valid ones first,
        padded with zeros.
    """
    kept = largest_boxes(boxes, max_boxes)
    empty = max_boxes - len(kept)
    return {
        "boxes": np.pad(boxes[kept], ((0, empty), (0, 0))),
        "labels": np.pad(labels[kept], (0, empty)),
        "valid": np.arange(max_boxes) < len(kept),
    }
