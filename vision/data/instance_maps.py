"""Maps of a letterboxed image: which of its boxes the instance at each pixel belongs to, and which stuff is there.

An instance map has 0 where there is no instance and 1 + k at the pixels of the k-th box. Where instances
overlap, the smaller one is on top, by the pixels of its mask at the size of the annotation: under a large one a small
one would vanish.

A semantic map, which the semantic branch of a panoptic network learns (Kirillov et al. 2019, "Panoptic Feature Pyramid
Networks", section 3.1), has `THINGS` at the pixels of all things, 1 + k at those of the k-th class of stuff, and `VOID`
elsewhere, in the padding too.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Integer, UInt8

from vision.data.annotations.index_masks import VOID
from vision.data.annotations.stuff import Stuff
from vision.data.letterbox import Letterbox
from vision.errors import UserError
from vision.ops import rle
from vision.ops.rle import Rle

THINGS = 0
"""Of semantic maps: the class that all things are one of."""


def map_dtype(max_boxes: int) -> np.dtype:
    """The smallest unsigned dtype of maps of at most ``max_boxes`` instances: uint8, or uint16 beyond 255.

    Raises:
        UserError: they are more than 65,535.
    """
    for dtype in (np.uint8, np.uint16):
        if max_boxes <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise UserError(f"an image has at most 65,535 instances with masks: --data.max-boxes is {max_boxes}")


def instance_map(masks: Sequence[Rle], box: Letterbox, dtype: np.dtype) -> Integer[np.ndarray, "s s"]:
    """The map of an image in its square, from masks at the size of the image.

    By nearest neighbour: a pixel of the square has what is at its centre in the image, mapped as `Letterbox` maps
    boxes. So a mask may lose all of its pixels, if it is small or covered.

    Args:
        masks: of the instances, in the order of their numbers; of equally large ones the later is on top.
        box: where the image lies in the square.
        dtype: as of `map_dtype`.
    """
    areas = np.array([rle.area(each) for each in masks])
    order = np.argsort(-areas, kind="stable").tolist()
    return _painted([(masks[place], 1 + place) for place in order], box, np.dtype(dtype), 0)


def semantic_map(things: Sequence[Rle], stuff: Stuff, box: Letterbox) -> UInt8[np.ndarray, "s s"]:
    """The semantic map of an image in its square, by nearest neighbour as `instance_map`.

    Args:
        things: masks of all things at the size of the image, crowds among them.
        stuff: the rest.
        box: where the image lies in the square.
    """
    regions = [(mask, 1 + label) for mask, label in zip(stuff.masks, stuff.labels.tolist(), strict=True)]
    return _painted([*regions, *((mask, THINGS) for mask in things)], box, np.dtype(np.uint8), VOID)


def _painted(
    regions: Sequence[tuple[Rle, int]], box: Letterbox, dtype: np.dtype, outside: int
) -> Integer[np.ndarray, "s s"]:
    """The number of the last of the masks at each pixel of the square, ``outside`` where there is none."""
    (width, height), (x, y) = box.size, box.offset
    columns, rows = (nearest_pixels(*sides) for sides in ((width, box.width), (height, box.height)))
    square = np.full((box.resolution, box.resolution), outside, dtype)
    inside = square[y : y + height, x : x + width]
    for mask, number in regions:
        inside[rle.decode(mask)[rows[:, None], columns]] = number
    return square


def renumbered_map(
    instances: UInt8[np.ndarray, "h w"], kept: Int[np.ndarray, " n"], dtype: np.dtype
) -> Integer[np.ndarray, "h w"]:
    """A map of only the instances ``kept``, in their order: 1 + k where ``instances`` has 1 + kept[k]."""
    table = np.zeros(np.iinfo(instances.dtype).max + 1, dtype)
    table[1 + kept] = np.arange(1, len(kept) + 1)
    return table[instances]


def nearest_pixels(resized: int, original: int) -> Int[np.ndarray, " {resized}"]:
    """Along a side, which pixel of the original is at the centre of each of the resized.

    In integers, (2 i + 1) / 2 * scale.
    """
    return (2 * np.arange(resized) + 1) * original // (2 * resized)
