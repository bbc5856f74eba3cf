"""Masks of objects in original images, from logits at a quarter of the square that a network was given; on the host.

Cell (r, c) of the logits covers the pixels [4 c, 4 c + 4) x [4 r, 4 r + 4) of the square, and its value is that at the
middle. Interpolated between the middles of cells at the exact place of every pixel of the original image, a border is
finer than the cells: it is resized once, from the logits, and not a second time from pixels of the square.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32

from vision.ops.rle import Rle, encode


@runtime_checkable
class Placement(Protocol):
    """Where an image lies in the square that a network was given, as :class:`vision.data.letterbox.Letterbox` says."""

    @property
    def width(self) -> int:
        """Of the image, in pixels."""
        ...

    @property
    def height(self) -> int:
        """Of the image, in pixels."""
        ...

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y): pixels of the square per pixel of the image."""
        ...

    @property
    def offset(self) -> tuple[int, int]:
        """(x, y) of the image's upper left corner in the square, in pixels."""
        ...


def prototype_masks(
    logits: Float32[np.ndarray, "n H W"],
    boxes: Float[np.ndarray, "n 4"],
    placement: Placement,
    *,
    cell: int = 4,
) -> list[Rle]:
    """The masks of an image's objects, each of the size of the original image (see :func:`prototype_mask`)."""
    return [encode(prototype_mask(*each, placement, cell=cell)) for each in zip(logits, boxes, strict=True)]


def prototype_mask(
    logits: Float32[np.ndarray, "H W"], box: Float[np.ndarray, "4"], placement: Placement, *, cell: int = 4
) -> Bool[np.ndarray, "h w"]:
    """The pixels of the original image whose centre is in the box and where the interpolated logit is above 0.

    Interpolation is bilinear; beyond the middles of the outermost cells the logits go on as they are. The array is in
    Fortran's order, that of run lengths.

    Args:
      logits: of the square, before they are cropped.
      box: corners in pixels of the square, whose left and upper borders belong to it; it may reach beyond the image.
      placement: where the image lies in the square.
      cell: pixels of the square along each side of a cell.
    """
    made = np.zeros((placement.width, placement.height), bool)
    sides = (placement.width, placement.height)
    columns, rows = (
        _axis(float(box[k]), float(box[k + 2]), sides[k], placement.scale[k], placement.offset[k]) for k in (0, 1)
    )
    down = _between(logits, rows, placement.scale[1], placement.offset[1], cell)
    made[columns, rows] = _between(down.T, columns, placement.scale[0], placement.offset[0], cell) > 0
    return made.T


def _axis(low: float, high: float, extent: int, scale: float, offset: int) -> slice:
    """The pixels of the image along one axis whose centres are at ``low`` or after it, and before ``high``."""
    first, last = (int(np.clip(np.ceil((at - offset) / scale - 0.5), 0, extent)) for at in (low, high))
    return slice(first, max(first, last))


def _between(
    logits: Float32[np.ndarray, "cells n"], pixels: slice, scale: float, offset: int, cell: int
) -> Float32[np.ndarray, "k n"]:
    """Linear interpolation along the first axis at the centres of the pixels."""
    centre = (np.arange(pixels.start, pixels.stop) + 0.5) * scale + offset
    place = np.clip(centre / cell - 0.5, 0, len(logits) - 1)
    before = place.astype(np.int64)
    share = (place - before).astype(np.float32)[:, None]
    # copies of whole rows; a product with a matrix of weights takes four times as long for large masks
    logits = np.ascontiguousarray(logits)
    made = logits[before]
    made += share * (logits[np.minimum(before + 1, len(logits) - 1)] - made)
    return made
