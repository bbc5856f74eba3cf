"""Pictures of restored images: what went in, what came out and the truth, with an enlarged detail; and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageDraw

from vision.report import lettering

_WHOLE, _DETAIL, _GAP, _LINE = 256, 256, 6, 16
_LARGE = 1_000_000  # pixels of an image that is searched whole
_INK, _FAINT, _FRAME = (40, 40, 40), (120, 120, 120), (230, 40, 40)

Picture = UInt8[np.ndarray, "_ _ 3"]
Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""


@dataclass(frozen=True, eq=False)
class Restored:
    """Versions of one image, of equal size, by name: "bicubic", "restored", "truth"."""

    versions: Mapping[str, Picture]
    """The last one is shown whole too."""
    captions: Mapping[str, str]
    """What is said below a version, such as its PSNR; "" for nothing."""


def detail_box(image: Picture, side: int) -> Box:
    """The square of ``side`` pixels, or less in a smaller image, in which the image varies most."""
    # of a large image every few pixels are enough, and need little memory
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / _LARGE)))
    grey = image[::step, ::step].astype(np.float32).mean(-1)
    energy = np.zeros_like(grey, np.float64)
    energy[:-1] += np.abs(np.diff(grey, axis=0))
    energy[:, :-1] += np.abs(np.diff(grey, axis=1))
    height, width = (max(1, min(side // step, length)) for length in grey.shape)
    total = np.pad(energy, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    top, left = (int(place) * step for place in np.unravel_index(int(np.argmax(sums)), sums.shape))
    height, width = (min(side, length) for length in image.shape[:2])
    return min(top, image.shape[0] - height), min(left, image.shape[1] - width), height, width


def restoration_sheet(images: Sequence[Restored], *, side: int = 48) -> Picture:
    """A row an image: the last version whole with a frame, and a detail of each version, enlarged by whole pixels."""
    rows = []
    for shown in images:
        truth = list(shown.versions.values())[-1]
        box = detail_box(truth, side)
        details = {
            f"{name}  {shown.captions.get(name, '')}".rstrip(): cut(version, box)
            for name, version in shown.versions.items()
        }
        rows.append(detail_row(truth, box, details))
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


def cut(image: Shaped[np.ndarray, "_ _ c"], box: Box) -> Shaped[np.ndarray, "_ _ c"]:
    """The part of an image in a box."""
    top, left, height, width = box
    return image[top : top + height, left : left + width]


def detail_row(whole: Picture, box: Box, details: Mapping[str, Picture]) -> Picture:
    """An image with a frame around a box, and next to it versions of what is in the box, enlarged, with captions."""
    tiles = [("", _with_frame(whole, box))]
    for caption, detail in details.items():
        factor = max(1, _DETAIL // max(detail.shape[:2]))
        tiles.append((caption, detail.repeat(factor, 0).repeat(factor, 1)))
    tall = max(tile.shape[0] for _, tile in tiles)
    canvas = np.full((tall + _LINE + 2 * _GAP, sum(tile.shape[1] + _GAP for _, tile in tiles) + _GAP, 3), 255, np.uint8)
    sheet, x = Image.fromarray(canvas), _GAP
    draw, font = ImageDraw.Draw(sheet), lettering.font(12)
    for text, tile in tiles:
        sheet.paste(Image.fromarray(tile), (x, _GAP))
        draw.text((x, _GAP + tall + 2), lettering.cut(text, font, tile.shape[1]), fill=_INK, font=font)
        x += tile.shape[1] + _GAP
    return np.array(sheet)


def _with_frame(image: Picture, box: Box) -> Picture:
    """The image at a size for sheets, with a frame around the box."""
    scale = min(_WHOLE / max(image.shape[:2]), 2.0)
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    picture = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    top, left, height, width = (round(value * scale) for value in box)
    ImageDraw.Draw(picture).rectangle((left, top, left + width - 1, top + height - 1), outline=_FRAME, width=2)
    return np.array(picture)


def number_table(
    values: Float[np.ndarray, "r k"], *, rows: Sequence[str], columns: Sequence[str], title: str, digits: int = 2
) -> Picture:
    """A table of numbers as a picture, in each row the largest in bold.

    Args:
      values: one for each row and column; nan leaves a cell empty.
      rows: their names.
      columns: their names.
      title: above it.
      digits: after the decimal point.
    """
    plain, bold = lettering.font(13), lettering.font(13, bold=True)
    texts = [["" if np.isnan(value) else f"{value:.{digits}f}" for value in row] for row in values.tolist()]
    first = 24 + round(max(plain.getlength(name) for name in rows))
    widths = [
        24 + round(max(bold.getlength(text) for text in (name, *(row[place] for row in texts))))
        for place, name in enumerate(columns)
    ]
    width = max(first + sum(widths), 24 + round(bold.getlength(title)))
    sheet = Image.new("RGB", (width, 24 * (len(rows) + 2) + 12), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((12, 8), title, fill=_INK, font=bold)
    ends = first + np.cumsum(widths)
    for name, end in zip(columns, ends.tolist(), strict=True):
        draw.text((end - 12, 32), name, fill=_FAINT, font=plain, anchor="ra")
    for number, (name, row, numbers) in enumerate(zip(rows, texts, values, strict=True), start=2):
        draw.text((12, 8 + 24 * number), name, fill=_INK, font=plain)
        best = np.nanargmax(numbers) if not np.isnan(numbers).all() else -1
        for place, (text, end) in enumerate(zip(row, ends.tolist(), strict=True)):
            font = bold if place == best else plain
            draw.text((end - 12, 8 + 24 * number), text, fill=_INK, font=font, anchor="ra")
    return np.array(sheet)
