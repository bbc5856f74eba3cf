"""Letterboxing: an image resized by its longer side, centred in a square, and padded with grey."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from vision.data.grey_levels import rgb
from vision.errors import UserError
from vision.inference import Preprocessing

PAD = 114
"""Value of the padding in every channel."""


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies in the square, and the mapping of boxes between the two.

    The longer side becomes ``resolution`` and the other is rounded to whole pixels, so the scales of the two axes may
    differ slightly. The image's corners lie exactly on the corners of the part of the square that it fills.

    Raises:
        UserError: a side is shorter than a pixel.
    """

    width: int
    """Of the image, in pixels."""
    height: int
    """Of the image, in pixels."""
    resolution: int
    """Size of the square in pixels."""

    def __post_init__(self):
        if min(self.width, self.height, self.resolution) < 1:
            raise UserError(
                f"An image of {self.width}x{self.height} pixels cannot be put into a square of {self.resolution}: "
                "all sides must have at least one pixel."
            )

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image in the square, in pixels; at least 1."""
        longer = max(self.width, self.height)
        width, height = (max(1, round(side * self.resolution / longer)) for side in (self.width, self.height))
        return width, height

    @property
    def offset(self) -> tuple[int, int]:
        """(x, y) of its upper left corner in the square, in pixels; odd padding is larger at the right or bottom."""
        width, height = self.size
        return (self.resolution - width) // 2, (self.resolution - height) // 2

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y): pixels of the square per pixel of the image."""
        width, height = self.size
        return width / self.width, height / self.height

    def to_square(self, boxes: Float[np.ndarray, "*n 4"]) -> Float32[np.ndarray, "*n 4"]:
        """Boxes (x0, y0, x1, y1), from pixels of the image to pixels of the square."""
        return (np.asarray(boxes, np.float64) * (self.scale * 2) + self.offset * 2).astype(np.float32)

    def from_square(self, boxes: Float[np.ndarray, "*n 4"]) -> Float32[np.ndarray, "*n 4"]:
        """Boxes (x0, y0, x1, y1), from pixels of the square to pixels of the image; not clipped to it."""
        return ((np.asarray(boxes, np.float64) - self.offset * 2) / (self.scale * 2)).astype(np.float32)


def letterboxed(image: Image.Image, resolution: int) -> UInt8[np.ndarray, "{resolution} {resolution} 3"]:
    """An image of any of Pillow's modes in the square of `Letterbox`, in RGB.

    Pillow resizes bilinearly, with antialiasing when it reduces the size. EXIF data is ignored.

    Raises:
        UserError: a resolution of less than 1.
    """
    box = Letterbox(image.width, image.height, resolution)
    square = np.full((resolution, resolution, 3), PAD, np.uint8)
    (width, height), (x, y) = box.size, box.offset
    square[y : y + height, x : x + width] = np.asarray(rgb(image).resize((width, height), Image.Resampling.BILINEAR))
    return square


def preprocessing(resolution: int) -> Preprocessing:
    """What :func:`letterboxed` does."""
    return Preprocessing(
        resize="longer side", side=resolution, interpolation="bilinear", fit="pad around the centre", padding=PAD
    )
