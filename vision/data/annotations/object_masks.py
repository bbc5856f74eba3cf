"""Objects in pairs of masks, as VOC has them: the number of the object at each pixel, and the class there."""

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from vision.data.annotations.cleaning import RawAnnotation
from vision.data.annotations.index_masks import VOID, mask_values, other_size
from vision.data.image_file import MAX_PIXELS
from vision.errors import UserError
from vision.ops import rle
from vision.ops.rle import Rle


def raw_of_masks(
    image: Path, number: int, objects: Path, classes: Path, *, classes_count: int, max_pixels: int = MAX_PIXELS
) -> RawAnnotation:
    """The objects of an image: the mask of each, its box, and the most frequent class at its pixels.

    In both masks 0 is background and `VOID` is void. An object whose pixels have no class, or one beyond the list, is
    of an unknown class.

    Args:
        image: the file, which is not opened.
        number: of the image.
        objects: the mask with the numbers of objects, which are numbered in ascending order and may have gaps.
        classes: the mask with classes, from 1 on.
        classes_count: how many there are.
        max_pixels: limit of width times height.

    Raises:
        UserError: a mask cannot be decoded or has colours; the two have different sizes; and, from the masks of the
            annotation, they are not of the size of the image.
    """
    which, kind = (_indices(each, max_pixels) for each in (objects, classes))
    if which.shape != kind.shape:
        raise UserError(
            f"the masks {objects} and {classes} have {_size(which)} and {_size(kind)} pixels: make them equal"
        )
    present = [int(each) for each in np.unique(which) if each not in (0, VOID)]
    found = [rle.encode(which == each) for each in present]
    values = [_most_frequent(kind[which == each]) for each in present]
    known = [1 <= value <= classes_count for value in values]
    return RawAnnotation(
        file=image,
        image_id=number,
        size=None,
        boxes=np.array([rle.box(each) for each in found], np.float64).reshape(-1, 4),
        labels=np.array([value - 1 if know else -1 for value, know in zip(values, known, strict=True)], np.int32),
        unknown=tuple(
            f"class {value}" if value else "no class" for value, know in zip(values, known, strict=True) if not know
        ),
        crowd=np.zeros(len(found), bool),
        masks=tuple(partial(_sized, each, objects, image) for each in found),
    )


def _indices(file: Path, max_pixels: int) -> Integer[np.ndarray, "h w"]:
    """The values of a mask. Raises ``UserError`` for one in RGB."""
    if not file.is_file():
        raise UserError(f"There is no mask {file}.")
    values = mask_values(file, max_pixels=max_pixels)
    if values.ndim == 3:
        raise UserError(f"the mask {file} is in RGB, where numbers are expected: save it as a palette PNG")
    return values


def _most_frequent(values: Integer[np.ndarray, " n"]) -> int:
    """Of the values that are a class; 0 if there is none, and of equally frequent ones the smallest."""
    counts = np.bincount(values)
    counts[[each for each in (0, VOID) if each < len(counts)]] = 0
    return int(counts.argmax()) if counts.any() else 0


def _sized(mask: Rle, file: Path, image: Path, height: int, width: int) -> Rle:
    if (mask.height, mask.width) != (height, width):
        raise other_size(f"the mask {file}", (mask.width, mask.height), f"its image {image}", (width, height))
    return mask


def _size(mask: Integer[np.ndarray, "h w"]) -> str:
    height, width = mask.shape
    return f"{width}x{height}"
