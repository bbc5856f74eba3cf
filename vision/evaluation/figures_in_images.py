"""Finding the figures in images of the shapes world without a trained detector: regions of strong colour.

Backgrounds are muted and the colours of figures are not, so that a figure is a connected region of pixels with a strong
colour of one kind. Each region is cut out, what else is in its square is painted over, and the shape classifier says
what it is. Nothing here has seen a generated image. Figures of one colour that touch are one region, so that scenes
whose figures overlap are read less well; what real images get is the ceiling of any number that is made with this.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy import ndimage

from vision.data.shapes.world import PALETTE

CHROMA = 60
"""Least difference of the largest and the smallest channel of a pixel of a figure, in levels; backgrounds have less."""
LEAST_AREA = 0.01
"""Least share of the image of a region that is a figure."""
MARGIN = 0.3
"""Around a figure, as a share of its longer side, in what is cut out."""


@dataclass(frozen=True, eq=False)
class Found:
    """A figure."""

    centre: Float[np.ndarray, " 2"]
    """(x, y) of its box's centre, as shares of the image's sides."""
    box: Float[np.ndarray, " 4"]
    """(x0, y0, x1, y1) of the smallest box around it, as shares of the image's sides."""
    crop: UInt8[np.ndarray, "s s 3"]
    """A square around it without other figures."""


def figures_in(image: UInt8[np.ndarray, "h w 3"], *, side: int) -> list[Found]:
    """The figures of an image, the largest first; each cut out as a square of ``side`` pixels."""
    levels = image.astype(np.int32)
    strong: Any = levels.max(-1) - levels.min(-1) > CHROMA
    kind = np.where(strong, _nearest_colour(levels) + 1, 0)
    background = np.median(image[~strong], axis=0) if (~strong).any() else np.full(3, 255.0)
    regions: list[tuple[int, np.ndarray]] = []
    for colour in np.unique(kind[kind > 0]):
        labelled: Any = ndimage.label(kind == colour, structure=np.ones((3, 3)))
        numbers, count = labelled
        regions += [(int((numbers == index).sum()), numbers == index) for index in range(1, count + 1)]
    large = [each for each in regions if each[0] >= LEAST_AREA * strong.size]
    large.sort(key=lambda each: -each[0])
    return [_found(image, mask, strong, background, side) for _, mask in large]


def _nearest_colour(levels: np.ndarray) -> np.ndarray:
    """The colour of the palette whose hue is nearest: by the direction of what is above the smallest channel."""
    unit = lambda values: values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6)
    # orange and yellow, blue and purple differ by less than their shades in brightness, which directions leave out
    palette = unit(np.array([rgb for _, rgb in PALETTE], np.float64))
    return np.argmax(unit(levels.astype(np.float64)) @ palette.T, axis=-1)


def _found(image: np.ndarray, mask: np.ndarray, strong: np.ndarray, background: np.ndarray, side: int) -> Found:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    centre = np.array([(left + right) / 2, (top + bottom) / 2])
    near: Any = ndimage.binary_dilation(mask, np.ones((3, 3)))
    around: Any = ndimage.binary_dilation(strong & ~near, np.ones((3, 3)))
    others = around & ~near
    clean = np.where(others[..., None], background, image).astype(np.uint8)
    half = (0.5 + MARGIN) * max(bottom - top, right - left)
    wide = int(np.ceil(half)) + 1
    padded = np.pad(clean, ((wide, wide), (wide, wide), (0, 0)), constant_values=0)
    # beyond the border of the image the background goes on
    inside = np.pad(np.ones(mask.shape, bool), wide)
    padded = np.where(inside[..., None], padded, background).astype(np.uint8)
    x, y = centre + wide
    box = (x - half, y - half, x + half, y + half)
    crop = Image.fromarray(padded).resize((side, side), Image.Resampling.BILINEAR, box=box)
    sides = np.array(mask.shape[::-1])
    return Found(centre / sides, np.array([left, top, right, bottom]) / np.tile(sides, 2), np.asarray(crop))
