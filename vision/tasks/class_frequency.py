"""How frequent the classes of a segmentation are, and weights that balance them (Eigen & Fergus 2015)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, Int64

from vision.errors import UserError


@dataclass(frozen=True, eq=False)
class ClassPixels:
    """Pixels of a data set, for each of k classes."""

    pixels: Int64[np.ndarray, " k"]
    """Of the class."""
    around: Int64[np.ndarray, " k"]
    """Of any class, in the images in which the class is present."""


def class_pixels(maps: Iterable[Int[np.ndarray, "_ _"]], *, classes: int, ignore: int | None) -> ClassPixels:
    """Count the pixels of truth maps.

    Args:
      maps: one for each image, of any sizes.
      classes: k.
      ignore: the value of void pixels, which are not counted; None if there are none.

    Raises:
      UserError: a pixel is neither of a class nor void.
    """
    pixels, around = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for place, each in enumerate(maps):
        known = each.reshape(-1) if ignore is None else each[each != ignore]
        if len(known) and not 0 <= known.min() <= known.max() < classes:
            wrong = known[(known < 0) | (known >= classes)][0]
            raise UserError(
                f"the map {place} has a pixel of the class {wrong}, which is outside [0, {classes}) and not the value "
                f"of void ({ignore})"
            )
        counts = np.bincount(known, minlength=classes)
        pixels += counts
        around += np.where(counts > 0, len(known), 0)
    return ClassPixels(pixels, around)


def median_frequency(counts: ClassPixels) -> Float32[np.ndarray, " k"]:
    """Weights median(f) / f(c), where f(c) is the share of class c in the images in which it is present.

    The median is over the classes that have pixels; a class without any, of which there is nothing to learn, has
    weight 1.

    Raises:
      UserError: no class has a pixel.
    """
    present = counts.pixels > 0
    if not present.any():
        raise UserError("no pixel has a class, so classes cannot be weighted by their frequency")
    frequency = counts.pixels[present] / counts.around[present]
    weights = np.ones(len(present), np.float32)
    weights[present] = np.median(frequency) / frequency
    return weights
