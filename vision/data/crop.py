"""Crops on the host, by Pillow, for images of varying sizes: (record, rng) -> record.

They are the ``transform`` of `vision.data.pipeline.batches` over a source of images at their original size, such as
``folder_source(path, resolution=None)``, and can be pickled for worker processes. The result's "image" is uint8 [size
size 3]; all other fields are kept. Only the cropped part of an image is resized.
"""

import functools
import math

import numpy as np
from PIL import Image

from vision.data.pipeline import Transform
from vision.data.source import Record
from vision.errors import UserError

# Rectangles sampled for an image, of which the first that fits is taken.
_ATTEMPTS = 10


def random_resized_crop(
    size: int, *, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> Transform:
    """Crop a rectangle of random area and aspect ratio and resize it to a square (Szegedy et al. 2015, section 6).

    The same distribution as `vision.data.augment.crop.random_resized_crop`. Resized by Pillow's antialiased BILINEAR.

    Args:
        size: height and width of the result, in pixels.
        scale: smallest and largest area as a share of the image's, sampled uniformly.
        ratio: smallest and largest width over height, sampled uniformly in its logarithm.

    Returns:
        a transform of records whose "image" is uint8 [h w 3].

    Raises:
        UserError: invalid values.
    """
    if size < 1 or not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
        raise UserError(
            f"A random resized crop needs a size of at least 1, a scale within (0, 1] and a positive ratio, each the "
            f"smaller first, got {size}, {scale} and {ratio}."
        )
    return functools.partial(_random_resized_crop, size=size, scale=scale, ratio=ratio)


def resize_centre_crop(size: int, *, resize: int | None = None) -> Transform:
    """Resize the shorter side and crop the centre, for evaluation (Krizhevsky et al. 2012, section 2).

    Args:
        size: height and width of the result, in pixels.
        resize: pixels of the shorter side after resizing, by Pillow's antialiased BILINEAR; by default ``size /
            0.875``, the usual 256 for 224.

    Returns:
        a transform of records whose "image" is uint8 [h w 3]; it ignores its rng.

    Raises:
        UserError: the size is less than 1 or larger than ``resize``.
    """
    shorter = round(size / 0.875) if resize is None else resize
    if not 1 <= size <= shorter:
        raise UserError(f"A crop of {size} pixels cannot be taken from a shorter side of {shorter} pixels.")
    return functools.partial(_resize_centre_crop, size=size, shorter=shorter)


def _random_resized_crop(
    record: Record,
    rng: np.random.Generator,
    *,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Record:
    height, width = record["image"].shape[:2]
    top, left, tall, wide = _rectangle(height, width, scale, ratio, rng)
    image = Image.fromarray(record["image"][top : top + tall, left : left + wide])
    return {**record, "image": np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))}


def _rectangle(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width); the largest centred rectangle of a ratio within bounds if none fits."""
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        sampled_ratio = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        tall, wide = max(1, round(math.sqrt(area / sampled_ratio))), max(1, round(math.sqrt(area * sampled_ratio)))
        if tall <= height and wide <= width:
            return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
    middle = min(max(width / height, ratio[0]), ratio[1])
    tall, wide = min(height, max(1, round(width / middle))), min(width, max(1, round(height * middle)))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def _resize_centre_crop(record: Record, rng: np.random.Generator, *, size: int, shorter: int) -> Record:
    height, width = record["image"].shape[:2]
    scale = shorter / min(height, width)
    tall, wide = (max(shorter, round(side * scale)) for side in (height, width))
    top, left = (tall - size) // 2, (wide - size) // 2
    # The crop in coordinates of the original image, possibly between its pixels, so that only the crop is resized
    rows, columns = height / tall, width / wide
    box = (left * columns, top * rows, min(width, (left + size) * columns), min(height, (top + size) * rows))
    image = Image.fromarray(record["image"])
    return {**record, "image": np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))}
