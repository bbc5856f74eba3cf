"""Stuff of an image (Kirillov et al. 2019, "Panoptic Segmentation"): regions of sky or grass, which are not counted."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from vision.ops.rle import Rle


@dataclass(frozen=True, eq=False)
class Stuff:
    """The n classes of stuff in an image, whose masks overlap neither each other nor those of things."""

    labels: Int32[np.ndarray, " n"]
    """Different indices into the list of classes of stuff."""
    masks: tuple[Rle, ...]
    """The pixels of each, at the size of the image."""


LazyStuff = Callable[[int, int], Stuff]
"""The stuff of an image of a height and a width in pixels, which may be known from its file alone."""
