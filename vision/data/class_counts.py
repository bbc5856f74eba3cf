"""How frequent the classes of masks are, and weights that balance them (Eigen & Fergus 2015)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from vision.data.annotations.index_masks import VOID
from vision.data.on_demand import OnDemandSource
from vision.data.source import ArraySource, Source
from vision.errors import UserError

COUNTED = 500
"""Images whose masks are counted where they are decoded or rendered for it."""


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """How often each of k classes occurs in masks."""

    pixels: Int64[np.ndarray, " k"]
    """Pixels of each class."""
    around: Int64[np.ndarray, " k"]
    """Pixels of any class, in the images in which the class is present."""
    void: int
    """Pixels without a class, those outside of images left out."""
    empty: int
    """Images without a pixel that has a class."""
    counted: int
    """Images that were counted."""
    total: int
    """Images of the split."""

    def text(self, names: Sequence[str]) -> str:
        """In one line: "367 images, 8.5% void; of the rest Sky 17.10%, Building 24.02%, ..."."""
        known = int(self.pixels.sum())
        shares = ", ".join(
            f"{name} {count / max(known, 1):.2%}" for name, count in zip(names, self.pixels, strict=True)
        )
        which = (
            f"{self.total:,} images"
            if self.counted == self.total
            else f"the first {self.counted:,} of {self.total:,} images"
        )
        empty = f", {self.empty} without any class" if self.empty else ""
        return f"{which}, {self.void / max(known + self.void, 1):.1%} void{empty}; of the rest {shares}"


def class_counts(source: Source, classes: int) -> ClassCounts:
    """Count the pixels of masks: of all images that are in memory, or of the first `COUNTED` of others.

    Args:
      source: samples with "semantic" uint8 [H W] and "size", of `vision.data.semantic`.
      classes: k.

    Raises:
      UserError: a pixel is neither of a class nor void.
    """
    counted = len(source)
    if not isinstance(source, ArraySource) or isinstance(source, OnDemandSource):
        counted = min(counted, COUNTED)
    pixels, around = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    void = empty = 0
    for index, record in enumerate(map(source.__getitem__, range(counted))):
        height, width = (int(side) for side in record["size"])
        found = np.bincount(np.asarray(record["semantic"])[:height, :width].reshape(-1), minlength=VOID + 1)
        own, known = found[:classes], int(found[:classes].sum())
        if found[classes:VOID].any():
            wrong = classes + int(np.flatnonzero(found[classes:VOID])[0])
            raise UserError(f"image {index} has pixels of the class {wrong}, and classes are 0 to {classes - 1}")
        pixels += own
        around += np.where(own > 0, known, 0)
        void += int(found[VOID])
        empty += known == 0
    return ClassCounts(pixels, around, void, empty, counted, len(source))


def median_frequency(counts: ClassCounts) -> Float32[np.ndarray, " k"]:
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
