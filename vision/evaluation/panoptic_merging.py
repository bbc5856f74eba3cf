"""Panoptic segments from what a network finds: things by their scores, stuff around them; all on the host.

The rule of Kirillov et al. 2019 ("Panoptic Segmentation", section 6; "Panoptic Feature Pyramid Networks", section 3.2).
Classes of segments are those of things, then those of stuff.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from vision.data.annotations.cleaning import AnnotatedImage
from vision.data.instance_maps import THINGS, nearest_pixels
from vision.data.letterbox import Letterbox
from vision.metrics.detection.average_precision import ImageDetections
from vision.metrics.segmentation.mask_average_precision import masks_of, true_masks
from vision.metrics.segmentation.panoptic import VOID, Segments
from vision.ops import rle
from vision.ranges import Fraction, NonNegativeInt


@dataclass(frozen=True)
class MergingConfig:
    """How things and stuff become segments; the defaults are the published ones for COCO."""

    confidence: Fraction = 0.5
    """Things of smaller scores are left out."""
    visible: Fraction = 0.5
    """A thing is left out if less than this share of its mask is not covered by things of higher scores."""
    least_stuff: NonNegativeInt = 64 * 64
    """A region of stuff of fewer pixels than this becomes void."""

    @property
    def words(self) -> str:
        """For protocols."""
        return (
            f"things of confidence {self.confidence:g} or more in the order of their scores, each with at least "
            f"{self.visible:g} of its mask visible, then stuff of {self.least_stuff:,} pixels or more"
        )


def merged(
    found: ImageDetections, semantic: UInt8[np.ndarray, "h w"], config: MergingConfig, *, things: int
) -> Segments:
    """The segments of an image: no two overlap, and pixels of none are void.

    Args:
      found: things with masks of the size of the image.
      semantic: `THINGS`, or 1 + the class of stuff.
      config: the rule.
      things: number of classes of things.
    """
    made = np.zeros(semantic.shape, np.int32)
    labels: list[int] = []
    masks = masks_of(found)
    for place in np.argsort(-found.scores, kind="stable").tolist():
        if found.scores[place] < config.confidence:
            break
        mask = rle.decode(masks[place])
        left = mask & (made == VOID)
        visible = int(left.sum())
        if visible and visible >= config.visible * int(mask.sum()):
            labels.append(int(found.labels[place]))
            made[left] = len(labels)
    free = made == VOID
    areas = np.bincount(semantic[free], minlength=256)
    areas[THINGS] = 0
    for value in np.flatnonzero(areas >= max(config.least_stuff, 1)).tolist():
        labels.append(things + value - 1)
        made[free & (semantic == value)] = len(labels)
    return Segments(made, np.arange(1, len(labels) + 1), np.array(labels, np.int64))


def true_segments(image: AnnotatedImage, *, things: int) -> Segments:
    """The segments of the truth; ``things`` is the number of classes of things.

    Raises:
      ValueError: masks or stuff were not read.
    """
    if image.stuff is None:
        raise ValueError(f"the stuff of the image {image.image_id} was not read")
    masks = (*true_masks(image), *image.stuff.masks)
    made = np.zeros((image.height, image.width), np.int32)
    for number, mask in enumerate(masks, start=1):
        made[rle.decode(mask)] = number
    return Segments(
        made,
        np.arange(1, len(masks) + 1),
        np.concatenate([image.labels, things + image.stuff.labels]).astype(np.int64),
        np.concatenate([image.crowd, np.zeros(len(image.stuff.labels), bool)]),
    )


def from_square(square: UInt8[np.ndarray, "s s"], box: Letterbox) -> UInt8[np.ndarray, "h w"]:
    """A map of classes at the size of the image, from its square; each pixel has what is at its centre."""
    (width, height), (x, y) = box.size, box.offset
    rows, columns = nearest_pixels(box.height, height), nearest_pixels(box.width, width)
    return square[y + rows[:, None], x + columns]
