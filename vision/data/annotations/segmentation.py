"""COCO's segmentations: polygons, and run lengths of masks (RLE), plain or as text; their boxes and their pixels."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from vision.data.annotations.fields import Entry, finite, is_number, shown
from vision.errors import UserError
from vision.ops import rle
from vision.ops.rle import Rle

Corners = tuple[float, float, float, float]

LONGEST_OUTLINE = 2**20
"""Pixels of the outline of a polygon, in and outside of its image: filling takes memory in proportion."""


def box_of_segmentation(entry: Entry) -> Corners:
    """The smallest box around the segmentation of an annotation: (x0, y0, x1, y1) in pixels.

    Raises:
        UserError: there is none, or it is neither a list of polygons nor run lengths that fill their size.
    """
    segmentation = entry.value("segmentation")
    if isinstance(segmentation, dict):
        x0, y0, x1, y1 = rle.box(_rle_of_mask(segmentation, entry)).tolist()
        return x0, y0, x1, y1
    points = [number for polygon in _polygons(segmentation, entry) for number in polygon]
    x, y = points[::2], points[1::2]
    return min(x), min(y), max(x), max(y)


def rle_of_segmentation(entry: Entry, height: int, width: int) -> Rle:
    """The run lengths of the segmentation of an annotation, in an image of a size; parts outside of it are cut off.

    A segmentation may cover no pixel, as a polygon thinner than one or outside of the image: nothing is found by it,
    so a reader drops the instance and counts it.

    Raises:
        UserError: as for `box_of_segmentation`; a mask is of another size; an outline is longer than
            `LONGEST_OUTLINE`.
    """
    segmentation = entry.value("segmentation")
    if isinstance(segmentation, dict):
        found = _rle_of_mask(segmentation, entry)
        if (found.height, found.width) != (height, width):
            raise entry.refused(f"a mask of {found.height}x{found.width} pixels in an image of {height}x{width}")
        return found
    return rle_of_polygons(_polygons(segmentation, entry), height, width, entry.refused)


def rle_of_polygons(
    polygons: Sequence[Sequence[float]], height: int, width: int, refused: Callable[[str], UserError]
) -> Rle:
    """The run lengths of the union of polygons in an image of a size; parts outside of it are cut off.

    Args:
        polygons: x0, y0, x1, y1, ... in pixels, finite, each of three or more points.
        height: of the image.
        width: of the image.
        refused: the error that the annotation has the text that it is given.

    Raises:
        UserError: an outline is longer than `LONGEST_OUTLINE`.
    """
    for polygon in polygons:
        points = np.array(polygon, np.float64).reshape(-1, 2)
        with np.errstate(over="ignore"):
            steps = np.abs(points - np.roll(points, 1, axis=0)).max(1)
            # a point far away has long steps from it, unless all points are there
            if steps.sum() + np.abs(points).max() > LONGEST_OUTLINE:
                raise refused(
                    f"a polygon whose outline is longer than {LONGEST_OUTLINE:,} pixels or as far away: "
                    f"{shown(polygon)}"
                )
    return rle.of_polygons(polygons, height, width)


def mask_of_segmentation(entry: Entry, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """The pixels of the segmentation of an annotation, in an image of a size; see `rle_of_segmentation`."""
    return rle.decode(rle_of_segmentation(entry, height, width))


def _polygons(segmentation: Any, entry: Entry) -> list[list[float]]:
    """Polygons of three or more points."""
    if not isinstance(segmentation, list) or not segmentation:
        raise entry.refused(f"a segmentation that is neither polygons nor a mask: {shown(segmentation)}")
    polygons: list[list[float]] = []
    for polygon in segmentation:
        numbers = [finite(each) for each in polygon] if isinstance(polygon, list) else []
        known = [each for each in numbers if each is not None]
        if len(numbers) < 6 or len(numbers) % 2 or len(known) < len(numbers):
            raise entry.refused(f"a polygon that is not three or more pairs of finite numbers: {shown(polygon)}")
        polygons.append(known)
    return polygons


def _rle_of_mask(mask: dict[str, Any], entry: Entry) -> Rle:
    """Run lengths that fill their size."""
    size, counts = mask.get("size"), mask.get("counts")
    sides = (
        isinstance(size, list)
        and len(size) == 2
        and all(is_number(each) and 1 <= each < 2**15 and each == int(each) for each in size)
    )
    if not sides or size is None:
        raise entry.refused(f"a mask whose size is not a height and a width in pixels: {shown(size)}")
    height, width = (int(each) for each in size)
    unfit = entry.refused(f"a mask whose run lengths do not add up to {height}x{width}: {shown(counts)}")
    if isinstance(counts, list):
        whole = all(is_number(each) and 0 <= each <= height * width and each == int(each) for each in counts)
        if not whole or sum(counts) != height * width:
            raise unfit
        return rle.of_run_lengths([int(each) for each in counts], height, width)
    lengths = rle.run_lengths_of_text(counts) if isinstance(counts, str) else None
    if lengths is None:
        raise entry.refused(f"a mask whose run lengths are not understood: {shown(counts)}")
    if lengths.min() < 0 or lengths.max() > height * width or lengths.sum() != height * width:
        raise unfit
    return Rle(height, width, str(counts).encode())
