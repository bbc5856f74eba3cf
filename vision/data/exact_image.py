"""Image files at the depth that they have, with their transparency: what restoration reads and writes.

Elsewhere an image is 8-bit RGB on white (`vision.data.image_file`). Here grey stays grey, an alpha channel is kept, and
files of more than 8 bits keep them, in 16: PNG of any kind, and grey TIFF and PGM. Pillow reduces PNG files of deep
colours to 8 bits, so that they are read with pypng; deep colours of TIFF and PPM become 8 bits.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageOps

from vision.atomic import write_atomically
from vision.data.grey_levels import bits_of_grey, rgb
from vision.data.image_file import MAX_PIXELS, opened

Values = UInt8[np.ndarray, "h w _"] | UInt16[np.ndarray, "h w _"]

_ORIENTATION = 0x0112  # the tag of EXIF


@dataclass(frozen=True, eq=False)
class ExactImage:
    """An image upright, as its file has it."""

    pixels: Values
    """Grey [h w 1] or RGB [h w 3], of 8 or 16 bits."""
    alpha: Values | None = None
    """Opacity [h w 1], of as many bits; None where there is none."""

    @property
    def bits(self) -> int:
        """8 or 16."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def words(self) -> str:
        """In words, "RGB of 8 bits with alpha"."""
        kind = "grey" if self.pixels.shape[-1] == 1 else "RGB"
        return f"{kind} of {self.bits} bits{' with alpha' if self.alpha is not None else ''}"


def read_exact(file: Path, *, max_pixels: int = MAX_PIXELS) -> ExactImage:
    """An image file, upright.

    Args:
      file: of any format of `vision.data.image_file`.
      max_pixels: limit of its width times height.

    Raises:
      ImageError: as for `vision.data.image_file.opened`.
    """
    with opened(file, max_pixels=max_pixels) as image:
        tiles = getattr(image, "tile", ())  # how Pillow reads the file: "RGB;16B"
        if image.format == "PNG" and tiles and "16" in str(tiles[0][3]):
            turn = image.getexif().get(_ORIENTATION, 1)
            image.load()  # a damaged file is recognised here, within the limits that Pillow has
            return _deep(file, turn)
        bits = bits_of_grey(image) if image.mode.startswith("I") else None  # before it is turned, which loses the tags
        ImageOps.exif_transpose(image, in_place=True)
        if bits is not None:
            return ExactImage(np.asarray(image).astype(np.uint16)[..., None] << (16 - bits))
        alpha = None
        if image.has_transparency_data:
            image = image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA")
            alpha = np.asarray(image.getchannel("A"))[..., None]
            image = image.convert("L" if image.mode == "LA" else "RGB")
        pixels = np.asarray(image.convert("L") if image.mode in ("1", "L") else rgb(image))
        return ExactImage(pixels if pixels.ndim == 3 else pixels[..., None], alpha)


def write_exact(path: Path, image: ExactImage) -> None:
    """Write a PNG of the image's depth, atomically."""
    parts = [image.pixels] if image.alpha is None else [image.pixels, image.alpha]
    values = np.concatenate(parts, axis=-1)
    encoded = io.BytesIO()
    if image.bits == 16:
        import png

        height, width, _ = values.shape
        greyscale = image.pixels.shape[-1] == 1
        writer = png.Writer(width, height, greyscale=greyscale, alpha=image.alpha is not None, bitdepth=16)
        writer.write_packed(encoded, (row.astype(">u2").tobytes() for row in values))
    else:
        Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values).save(encoded, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, encoded.getvalue())


def _deep(file: Path, turn: int) -> ExactImage:
    """A PNG of 16 bits; raises what pypng raises where it is damaged."""
    import png

    with file.open("rb") as opened_file:
        width, height, rows, info = png.Reader(file=opened_file).read()
        values = np.empty((height, width, info["planes"]), np.uint16)
        for at, row in enumerate(rows):
            values[at] = np.frombuffer(row, np.uint16).reshape(width, -1)
    values = np.ascontiguousarray(_upright(values, turn))
    colours = 1 if info["greyscale"] else 3
    return ExactImage(values[..., :colours], values[..., colours:] if info["alpha"] else None)


def _upright(values: np.ndarray, turn: int) -> np.ndarray:
    """An array after the orientation of EXIF, 1 to 8."""
    if turn in (5, 6, 7, 8):
        values = np.swapaxes(values, 0, 1)
    if turn in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values[::-1] if turn in (3, 4, 7, 8) else values
