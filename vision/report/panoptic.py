"""Panoptic segments in images: each in a shade of its own of the colour of its class, with borders."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Integer, UInt8

from vision.report.segmentation import Colours, overlay, tile_sheet, with_legend

_STEP, _SHADES = 0.16, 7  # shades differ by this share of white or black; after that number they recur


@dataclass(frozen=True, eq=False)
class SegmentsOfImage:
    """The n segments of an image."""

    places: Integer[np.ndarray, "h w"]
    """Which segment each pixel is of, from 0; n for none."""
    labels: Int[np.ndarray, " n"]
    """The class of each."""


@dataclass(frozen=True, eq=False)
class PanopticImage:
    """An image with its true and its predicted segments."""

    image: UInt8[np.ndarray, "h w 3"]
    predicted: SegmentsOfImage
    truth: SegmentsOfImage
    caption: str
    """Below the image."""


def segment_colours(labels: Int[np.ndarray, " n"], colours: Colours) -> UInt8[np.ndarray, "n 3"]:
    """The colour of each segment: of the first of a class its own, of others lighter and darker by turns."""
    made = np.zeros((len(labels), 3), np.uint8)
    for place, label in enumerate(labels.tolist()):
        earlier = int((labels[:place] == label).sum()) % _SHADES
        share = _STEP * ((earlier + 1) // 2)
        towards = 255.0 if earlier % 2 else 0.0
        made[place] = np.round((1 - share) * colours[label].astype(np.float32) + share * towards)
    return made


def panoptic_overlay(
    image: UInt8[np.ndarray, "h w 3"], segments: SegmentsOfImage, colours: Colours
) -> UInt8[np.ndarray, "h w 3"]:
    """The image in grey under its segments, with a line between them; void stays as it is in the image."""
    return overlay(image, segments.places, segment_colours(segments.labels, colours))


def labelled_segments(
    image: UInt8[np.ndarray, "h w 3"], segments: SegmentsOfImage, class_names: Sequence[str], colours: Colours
) -> UInt8[np.ndarray, "H W 3"]:
    """The overlay of one image at its own size, above a legend of the classes that it has."""
    present = [int(label) for label in np.unique(segments.labels)]
    shown = panoptic_overlay(image, segments, colours)
    return with_legend(shown, [class_names[label] for label in present], colours[present])


def panoptic_sheet(
    images: Sequence[PanopticImage], class_names: Sequence[str], colours: Colours, *, title: str
) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of image, truth and prediction below a legend; arguments and errors as of ``tile_sheet``."""
    rows = [
        {
            each.caption: each.image,
            "truth": panoptic_overlay(each.image, each.truth, colours),
            "prediction": panoptic_overlay(each.image, each.predicted, colours),
        }
        for each in images
    ]
    return tile_sheet(rows, class_names, colours, title=title)
