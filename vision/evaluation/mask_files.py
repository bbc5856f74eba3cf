"""Predicted instances written to files: maps of their numbers, polygons, crops with a transparent background."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from vision.atomic import write_atomically
from vision.data.annotations.index_masks import save_mask
from vision.metrics.detection.average_precision import ImageDetections
from vision.metrics.segmentation.mask_average_precision import masks_of
from vision.ops import rle
from vision.report.boxes import class_colours

Polygon = Float32[np.ndarray, "n 2"]
"""Points (x, y) in pixels of the image, whose corners are at (0, 0) and (width, height); the last joins the first."""

_BYTE = 255  # instances that a map of bytes can number


def polygons(mask: Bool[np.ndarray, "h w"]) -> list[Polygon]:
    """The outer outlines of the parts of a mask, the largest part first; holes are left out.

    The outline runs halfway between the centres of pixels in and outside of the mask, so that filled again it covers
    the mask but for single pixels at sharp corners.
    """
    import contourpy  # a part of matplotlib, which takes long to import

    bordered = np.pad(mask.astype(np.float32), 1)
    generator = contourpy.contour_generator(z=bordered, fill_type=contourpy.FillType.OuterOffset)
    filled: Any = generator.filled(0.5, np.inf)
    parts = []
    for points, offsets in zip(*filled, strict=True):
        outer = points[offsets[0] : offsets[1] - 1] - 0.5  # the first one is repeated at the end; the border is 1 wide
        parts.append(_without_straight(outer).astype(np.float32))
    return sorted(parts, key=lambda part: -_area(part))


def _without_straight(points: np.ndarray) -> np.ndarray:
    """The same outline without points on the straight line between their neighbours."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    bends = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return points[bends]


def _area(points: np.ndarray) -> float:
    """Of a polygon, by the shoelace formula."""
    x, y = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
    return abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) / 2


def polygon_lines(found: ImageDetections, width: int, height: int) -> list[str]:
    """For each instance its class, counted from 0, and the points x y of the outline of its largest part.

    They are fractions of the image's width and height, as `vision.data.annotations.box_text` reads them. A mask without
    a pixel has no line.
    """
    lines = []
    for mask, label in zip(masks_of(found), found.labels.tolist(), strict=True):
        outlines = polygons(rle.decode(mask))
        if outlines:
            points = (outlines[0] / np.array([width, height], np.float32)).reshape(-1).tolist()
            lines.append(" ".join([str(label), *(f"{value:.6f}" for value in points)]))
    return lines


def segmentations(found: ImageDetections) -> tuple[list[dict[str, Any]], list[list[list[float]]]]:
    """Of each instance its mask as COCO's results have it, and its polygons as COCO's annotations have them."""
    masks = masks_of(found)
    packed = [{"size": [each.height, each.width], "counts": each.counts.decode()} for each in masks]
    outlines = [[part.reshape(-1).round(2).tolist() for part in polygons(rle.decode(each))] for each in masks]
    return packed, outlines


def save_instance_map(path: Path, found: ImageDetections, *, height: int, width: int) -> None:
    """A PNG whose value is the number of the instance at each pixel, 0 where there is none.

    Number k is the k-th of the detections by falling confidence, the more confident one where they overlap. Up to 255
    instances it is a palette image of bytes; beyond, one of 16 bits.
    """
    order = np.argsort(-found.scores, kind="stable")
    masks = masks_of(found)
    numbers = np.zeros((height, width), np.uint16)
    for number, place in reversed(list(enumerate(order.tolist(), start=1))):
        numbers[rle.decode(masks[place])] = number
    if len(order) <= _BYTE:
        colours = np.concatenate([np.zeros((1, 3), np.uint8), class_colours(max(len(order), 1))])
        save_mask(path, numbers.astype(np.uint8), colours)
    else:
        _save(path, Image.fromarray(numbers))


def save_cutout(path: Path, image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]) -> None:
    """The smallest part of the image with the mask, transparent outside of it; nothing for a mask without pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha = np.where(mask[box], 255, 0).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(path, Image.fromarray(np.dstack([image[box], alpha])))


def _save(path: Path, image: Image.Image) -> None:
    encoded = io.BytesIO()
    image.save(encoded, "PNG", optimize=True)
    write_atomically(path, encoded.getvalue())
