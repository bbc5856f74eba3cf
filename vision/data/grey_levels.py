"""Any of Pillow's modes in 8-bit RGB; deep greys are scaled where the range of their values is known.

8 bits are taken as they are. Of 16 bits the upper byte is taken, of the 12 bits that a TIFF declares the upper 8.
Floats within [0, 1] are scaled to [0, 255]. The range of 32-bit integers and of other floats is not known, so they are
refused. 16-bit values that all are below 4096 look like 12 bits that nothing declares; a scale that depends on the
values would differ from image to image, so they are taken as 16 bits and reported.
"""

from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from vision.data.notices import notice

# Rows of a transparent image composed at once, in pixels: images of usual size in one piece.
_STRIP = 2**24
# The tag of TIFF.
_BITS_PER_SAMPLE = 258


def rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in 8-bit RGB, transparency on white.

    Raises:
        ValueError: the range of a deep grey is not known.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A deep grey in mode L."""
    bits = bits_of_grey(image)
    values = np.asarray(image)
    low, high = values.min(), values.max()  # nan if there is one
    if image.mode == "F":
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"its floats reach from {low:g} to {high:g}, a range that nothing declares: save them within [0, 1] or "
                "as 8 or 16 bits"
            )
        return Image.fromarray(np.round(values * np.float32(255)).astype(np.uint8))
    if bits is None:
        raise ValueError("its values have 32 bits or a sign, and nothing declares their range: save 8 or 16 bits")
    if bits == 16 and 255 < high < 4096:
        file = Path(getattr(image, "filename", "") or "an image")
        notice(
            f"{file} has 16-bit values up to {high}, which look like 12 bits: it is read as 16 bits, nearly black; if "
            "the camera has 12 bits, multiply the values of all images by 16",
            kind=f"12 bits in {file.parent}",
        )
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8))


def bits_of_grey(image: Image.Image) -> int | None:
    """How many bits the unsigned integers of a grey image deeper than 8 bits have; None where nothing says."""
    if image.mode.startswith("I;16"):
        declared = image.tag_v2.get(_BITS_PER_SAMPLE) if isinstance(image, TiffImagePlugin.TiffImageFile) else None
        return 12 if declared == (12,) else 16
    return 16 if image.mode == "I" and image.format == "PPM" else None  # Pillow scales PPM's values to 16 bits


def _on_white(image: Image.Image) -> Image.Image:
    """A transparent image composed on white, some rows at a time, so that a large one needs no four copies."""
    rows = max(1, _STRIP // image.width)
    if image.height <= rows:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    whole = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(_on_white(strip), (0, top))
    return whole
