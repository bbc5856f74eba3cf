"""Boxes of COCO's segmentations: polygons, and run lengths of masks (RLE), plain or as text."""

import re
from typing import Any

from vision.data.annotations.fields import Entry, finite, is_number, shown

# What the decoder, which is written in C and checks nothing, can read: groups of at most seven characters.
_RUN_LENGTHS = re.compile(r"(?:[P-o]{0,6}[0-O])+")

Corners = tuple[float, float, float, float]


def box_of_segmentation(entry: Entry) -> Corners:
    """The smallest box around the segmentation of an annotation: (x0, y0, x1, y1) in pixels.

    Raises:
        UserError: there is none, or it is neither a list of polygons nor run lengths that fill their size.
    """
    segmentation = entry.fields["segmentation"]
    if isinstance(segmentation, dict):
        return _box_of_mask(segmentation, entry)
    if not isinstance(segmentation, list) or not segmentation:
        raise entry.refused(f"a segmentation that is neither polygons nor a mask: {shown(segmentation)}")
    points: list[float] = []
    for polygon in segmentation:
        numbers = [finite(each) for each in polygon] if isinstance(polygon, list) else []
        if len(numbers) < 6 or len(numbers) % 2 or None in numbers:
            raise entry.refused(f"a polygon that is not three or more pairs of finite numbers: {shown(polygon)}")
        points += [each for each in numbers if each is not None]
    x, y = points[::2], points[1::2]
    return min(x), min(y), max(x), max(y)


def _box_of_mask(mask: dict[str, Any], entry: Entry) -> Corners:
    from pycocotools import mask as coco  # only few files need it

    size, counts = mask.get("size"), mask.get("counts")
    sides = (
        isinstance(size, list)
        and len(size) == 2
        and all(is_number(each) and 1 <= each < 2**15 and each == int(each) for each in size)
    )
    if not sides or size is None:
        raise entry.refused(f"a mask whose size is not a height and a width in pixels: {shown(size)}")
    height, width = (int(each) for each in size)
    if isinstance(counts, list):
        whole = all(is_number(each) and 0 <= each <= height * width and each == int(each) for each in counts)
        if not whole or sum(counts) != height * width:
            raise entry.refused(f"a mask whose run lengths do not add up to {height}x{width}: {shown(counts)}")
        plain: Any = {"size": [height, width], "counts": [int(each) for each in counts]}
        encoded: Any = coco.frPyObjects(plain, height, width)
    elif isinstance(counts, str) and _RUN_LENGTHS.fullmatch(counts):
        encoded = {"size": [height, width], "counts": counts.encode()}
    else:
        raise entry.refused(f"a mask whose run lengths are not understood: {shown(counts)}")
    x, y, wide, tall = (float(each) for each in coco.toBbox(encoded))
    if not (0 <= x <= x + wide <= width and 0 <= y <= y + tall <= height):
        raise entry.refused(f"a mask whose run lengths do not fit its size of {height}x{width}: {shown(counts)}")
    return x, y, x + wide, y + tall
