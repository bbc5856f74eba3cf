"""Image files: the one place where a file, of whatever content, becomes an image.

A file is opened by the formats that `SUFFIXES` names and by no other, whatever its own suffix says: a PNG named a.jpg
is read, PostScript named a.jpg is not. Its size is compared with a limit before anything is decoded, and only its first
frame or page is decoded. Everything that goes wrong is an `ImageError` of one sentence.
"""

import contextlib
import io
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image, ImageOps

from vision.data.grey_levels import rgb
from vision.errors import UserError

SUFFIXES: Mapping[str, str] = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".avif": "AVIF",
}
"""Suffixes of image files, in lower case, and Pillow's names of their formats; other files are ignored."""
FORMATS = tuple(dict.fromkeys(SUFFIXES.values()))
"""The formats that any image file may have."""
MAX_PIXELS = 64_000_000
"""Default limit of width times height: more than the photographs of cameras and telephones have."""

# Bytes of images being decoded at once, by all threads of a process; an image that needs more is decoded alone.
_BUDGET_BYTES = 2**30
# Smaller images are not counted: 16 threads decode them in a fraction of the budget.
_SMALL = 1_000_000
# Pillow's limit is one for the process and cannot be raised for one data set; `opened` has its own for each image.
Image.MAX_IMAGE_PIXELS = None
# Blocks of more than 32 MiB go back to the system when an image is freed; Pillow's own size of 16 MiB stays with the
# thread that decoded it, so that 16 threads, one after the other, would hold 16 large images.
Image.core.set_block_size(2**26)


class ImageError(UserError):
    """An image file that cannot be decoded, or that is too large."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason
        """The cause alone, for a list of files: "it is empty"."""


@contextlib.contextmanager
def opened(
    file: Path | io.BytesIO, *, max_pixels: int = MAX_PIXELS, name: str | None = None, adjustable: bool = True
) -> Iterator[Image.Image]:
    """An image to decode within a ``with`` block; whatever is raised there is the image's fault.

    Args:
        file: a path, or the bytes of a file.
        max_pixels: the limit of width times height.
        name: what messages call the file; None for its path.
        adjustable: whether the limit can be raised with the option ``--data.max-pixels``, which the message then names.

    Yields:
        Pillow's image, of which only the header has been read, with its first frame selected.

    Raises:
        ImageError: the file cannot be read, has another format than `FORMATS`, has more pixels than ``max_pixels``, or
            is damaged.
    """
    called = str(file) if name is None else name
    try:
        if isinstance(file, Path) and file.exists() and not file.is_file():
            raise ValueError("it is not a file")
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                reason = f"{width}x{height} pixels, more than the limit of {max_pixels:,}"
                raising = f", or raise the limit with --data.max-pixels {width * height}" if adjustable else ""
                advice = f"reduce it{raising}"
                raise ImageError(f"{called} has {reason}: {advice}.", f"{reason}; {advice}")
            with _BUDGET.reserved(_needed_bytes(image)):
                yield image
    except UserError:
        raise
    # Pillow's decoders raise almost anything for damaged files: struct.error, KeyError, ZeroDivisionError, MemoryError
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{called} cannot be decoded ({reason}); repair or remove it.", reason) from error


def upright(image: Image.Image) -> Image.Image:
    """An image of `opened`, decoded: after EXIF rotation, in 8-bit RGB as `vision.data.grey_levels.rgb` makes it."""
    ImageOps.exif_transpose(image, in_place=True)  # a copy would lose the format, which tells the range of deep greys
    return rgb(image)


class _Budget:
    """Bytes that threads reserve before they use them."""

    def __init__(self, total: int):
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def reserved(self, amount: int) -> Iterator[None]:
        """Waits until this many bytes are free, or all, if it is more."""
        share = min(amount, self._total)
        if share == 0:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._free >= share)
            self._free -= share
        try:
            yield
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()


_BUDGET = _Budget(_BUDGET_BYTES)


def _needed_bytes(image: Image.Image) -> int:
    """About how much memory it takes to decode an image into RGB, 0 for small ones; Pillow has 4 bytes for a pixel."""
    pixels = image.width * image.height
    if pixels <= _SMALL:
        return 0
    each = 8 if image.mode in ("1", "L", "P", "RGB") else 12
    if image.format in ("WEBP", "AVIF"):
        each += 12  # the decoders' own canvases
    elif image.format == "TIFF" or image.info.get("progressive"):
        each += 6  # a strip may be the whole image; progressive JPEGs keep all coefficients
    return pixels * each
