"""Grids of sample images, and PNG files."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from vision.atomic import write_atomically
from vision.report import lettering
from vision.report.lettering import broken

_TILE = 128  # pixels: the largest side of enlarged images
_SMALL = 64  # pixels: images up to this side are enlarged
_WIDEST = 1600  # pixels: grids are not enlarged beyond this, since viewers scale wider images down again
_FONT_SIZE = 12
_LINE_HEIGHT = 15
_CAPTION_LINES = 3
_TITLE_WIDTH = 160
_INK = (60, 60, 60)


def sample_grid(
    images: UInt8[np.ndarray, "n h w c"],
    *,
    columns: int,
    scale: int | None = None,
    captions: Sequence[str] | None = None,
    row_titles: Sequence[str] | None = None,
    padding: int = 2,
    background: tuple[int, int, int] = (255, 255, 255),
) -> UInt8[np.ndarray, "H W 3"]:
    """Lays images out row by row, enlarged by an integer factor with nearest neighbour.

    The top left pixel of image ``i`` lies at row ``padding + (i // columns) * (scale * h + text + padding)``
    and column ``titles + padding + (i % columns) * (scale * w + padding)``, where ``text`` is the height of
    the captions (0 without them) and ``titles`` the width of the row titles (0 without them). Cells after the last
    image are ``background``.

    Args:
        images: uint8 in [0, 255]; ``c`` is 3 (RGB) or 1 (grey).
        columns: images per row.
        scale: the factor of enlargement. None chooses one: images with a side above 64 pixels keep their size, smaller
            ones are enlarged to about 96 to 128 pixels as long as the grid is at most 1,600 pixels wide.
        captions: one short text for each image, below it on at most three lines, truncated with an ellipsis.
        row_titles: one short text for each row, on its left.
        padding: pixels between images and around all of them.
        background: RGB in [0, 255].

    Raises:
        ValueError: when the array is not uint8 [n h w 1|3], is empty, or the texts do not match its length.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"A grid needs uint8 images of shape [n, h, w, 1 or 3], not {images.dtype} {list(images.shape)}."
        )
    n, height, width, _ = images.shape
    if 0 in (n, height, width) or columns < 1:
        raise ValueError(f"A grid of {n} images of {height}x{width} pixels in {columns} columns is empty.")
    if scale is not None and scale < 1:
        raise ValueError(f"The factor of enlargement of a grid must be at least 1, not {scale}.")
    rows = -(-n // columns)
    if captions is not None and len(captions) != n:
        raise ValueError(f"{len(captions)} captions for {n} images: give one for each.")
    if row_titles is not None and len(row_titles) != rows:
        raise ValueError(f"{len(row_titles)} row titles for {rows} rows: give one for each.")

    font = lettering.font(_FONT_SIZE)
    titles = [broken(text, font, _TITLE_WIDTH, _CAPTION_LINES) for text in row_titles or ()]
    title_width = 0
    if titles:
        title_width = 8 + round(max(font.getlength(line) for lines in titles for line in lines))
    if scale is None:
        scale = _chosen_scale(height, width, columns, padding, title_width)
    texts = [broken(text, font, scale * width, _CAPTION_LINES) for text in captions or ()]
    text_height = _LINE_HEIGHT * max(map(len, texts)) if texts else 0

    step_y, step_x = scale * height + text_height + padding, scale * width + padding
    canvas = np.empty((padding + rows * step_y, title_width + padding + columns * step_x, 3), np.uint8)
    canvas[:] = background
    enlarged = images.repeat(scale, axis=1).repeat(scale, axis=2)
    corners = [(padding + i // columns * step_y, title_width + padding + i % columns * step_x) for i in range(n)]
    for (y, x), tile in zip(corners, enlarged, strict=True):
        canvas[y : y + scale * height, x : x + scale * width] = tile
    if not texts and not titles:
        return canvas

    sheet = Image.fromarray(canvas)
    draw = ImageDraw.Draw(sheet)
    # Rec. 709 luma of the background decides whether dark or light ink is legible on it.
    luma = 0.2126 * background[0] + 0.7152 * background[1] + 0.0722 * background[2]
    ink = _INK if luma > 127 else (220, 220, 220)
    for (y, x), lines in zip(corners, texts, strict=False):
        for k, line in enumerate(lines):
            draw.text((x, y + scale * height + k * _LINE_HEIGHT), line, fill=ink, font=font)
    for row, lines in enumerate(titles):
        top = padding + row * step_y + max(0, (scale * height - _LINE_HEIGHT * len(lines)) // 2)
        for k, line in enumerate(lines):
            draw.text((4, top + k * _LINE_HEIGHT), line, fill=ink, font=font)
    return np.array(sheet)


def save_png(path: str | Path, image: UInt8[np.ndarray, "h w c"], *, text: Mapping[str, str] | None = None) -> None:
    """Writes an image (uint8 in [0, 255], ``c`` 1 or 3) as an optimised PNG, atomically; ``text`` by keyword into it.

    Raises:
        ValueError: when the array is not uint8 [h w 1|3].
        OSError: when the file cannot be written; an existing file is then unchanged.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"A PNG needs uint8 of shape [h, w, 1 or 3], not {image.dtype} {list(image.shape)}.")
    chunks = PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_itxt(keyword, value)
    encoded = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        encoded, "PNG", optimize=True, pnginfo=chunks
    )
    write_atomically(path, encoded.getvalue())


def _chosen_scale(height: int, width: int, columns: int, padding: int, title_width: int) -> int:
    side = max(height, width)
    if side > _SMALL:
        return 1
    by_grid = (_WIDEST - title_width - padding * (columns + 1)) // (columns * width)
    return max(1, min(_TILE // side, by_grid))
