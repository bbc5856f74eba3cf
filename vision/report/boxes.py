"""Images with predicted and true boxes or masks, one by one or on a sheet.

Predicted boxes have a solid frame in the colour of their class and a tag with its name and the confidence. True boxes
have a thin frame, dashed in white and that colour, so that it is visible on any background. Masks have an outline
instead of a frame: predicted ones in the colour of their class, which also covers them, true ones in white.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8
from PIL import Image, ImageDraw

from vision.ops.outlines import mask_outline
from vision.report import lettering
from vision.report.lettering import Font, cut

# Okabe and Ito (2008) without black: distinguishable with any colour vision
_PALETTE = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0), (86, 180, 233), (204, 121, 167), (240, 228, 66))
_INK, _PALE, _WHITE = (34, 34, 34), (110, 110, 110), (255, 255, 255)
_OPACITY = 0.4  # of the colour of a mask
_SMALLEST = 320  # pixels of the longer side: smaller images are enlarged, so that tags fit
_SMALLEST_FONT = 11
_GAP = 12  # pixels between and around the tiles of a sheet
_CAPTION_FONT, _LINE = 13, 17
_MAX_IN_LEGEND = 20

_Area = tuple[float, float, float, float]
_Piece = tuple[str, tuple[int, ...], str]
_FRAMES: tuple[_Piece, ...] = (("found", _PALE, "solid"), ("true", _PALE, "dashed"))
_MASKS: tuple[_Piece, ...] = (("true", _WHITE, "outlined"),)


@dataclass(frozen=True, eq=False)
class ImageWithBoxes:
    """An image and the boxes to draw on it. Boxes are (x0, y0, x1, y1) in its pixels."""

    image: UInt8[np.ndarray, "h w 3"]
    predicted: Float32[np.ndarray, "n 4"]
    """Predicted boxes; the first ones get the best positions for their tags."""
    predicted_labels: Int32[np.ndarray, " n"]
    """Classes."""
    scores: Float32[np.ndarray, " n"] | None
    """Confidences, in [0, 1]; None for tags without a number."""
    true: Float32[np.ndarray, "m 4"]
    """True boxes."""
    true_labels: Int32[np.ndarray, " m"]
    """Classes."""
    caption: tuple[str, ...] = ()
    """Lines below the image on a sheet, the first one bold."""
    predicted_masks: Bool[np.ndarray, "n h w"] | None = None
    """Shown in place of the frames of the predicted boxes."""
    true_masks: Bool[np.ndarray, "m h w"] | None = None
    """Shown in place of the frames of the true boxes."""


def class_colours(classes: int) -> UInt8[np.ndarray, "{classes} 3"]:
    """A different colour (RGB) for each class: seven that suit any colour vision, then lighter and darker ones."""
    rounds = math.ceil(classes / len(_PALETTE))
    # 0, then alternately towards black and white, with increasing distance
    steps = [(-1 if turn % 2 else 1) * 0.65 * ((turn + 1) // 2) / max(rounds // 2, 1) for turn in range(rounds)]
    colours = [
        [channel + ((255 - channel) * step if step > 0 else channel * step) for channel in colour]
        for step in steps
        for colour in _PALETTE
    ]
    return np.array(colours[:classes]).round().astype(np.uint8).reshape(classes, 3)


def image_with_boxes(marked: ImageWithBoxes, class_names: Sequence[str]) -> UInt8[np.ndarray, "H W 3"]:
    """The image with its boxes marked.

    The image keeps its size, but one with a longer side of less than 320 pixels is enlarged by an integer factor
    (nearest neighbour). Lines and letters scale with the image. A tag is placed above, below or in its box, within the
    image and without overlap with other tags; without room for it, only the number is shown, or nothing.
    """
    factor = max(1, math.ceil(_SMALLEST / max(marked.image.shape[:2])))
    image = np.repeat(np.repeat(marked.image, factor, 0), factor, 1)
    return np.array(_rendered(Image.fromarray(image), marked, factor, class_names))


def context(
    image: UInt8[np.ndarray, "h w 3"], box: Float32[np.ndarray, " 4"]
) -> tuple[UInt8[np.ndarray, "s t 3"], Float32[np.ndarray, " 2"]]:
    """A square around a box, of twice its longer side and at least 48 pixels, and the square's corner.

    Returns:
        the square, moved inwards or reduced where it reaches outside the image; and the (x, y) of its upper left corner
        in pixels of the image.
    """
    height, width = image.shape[:2]
    side = math.ceil(max(48.0, 2 * float(max(box[2] - box[0], box[3] - box[1]))))
    corner = []
    for low, high, limit in ((box[0], box[2], width), (box[1], box[3], height)):
        corner.append(min(max(round(float(low + high) / 2 - side / 2), 0), max(limit - side, 0)))
    x, y = corner
    return image[y : y + side, x : x + side].copy(), np.array([x, y], np.float32)


def boxes_sheet(
    sections: Sequence[tuple[str, Sequence[ImageWithBoxes]]], class_names: Sequence[str], *, columns: int, tile: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Images with boxes in rows, below a legend of frames and colours; each section is a block of rows with a heading.

    Images are enlarged or reduced so that the longer side has ``tile`` pixels. The legend shows up to 20 classes.

    Args:
        sections: heading, and images; a section without images is only its heading.
        class_names: one for each class.
        columns: images per row.
        tile: pixels of their longer side.

    Raises:
        ValueError: there is no section, or ``columns`` or ``tile`` is not positive.
    """
    if not sections or columns < 1 or tile < 1:
        raise ValueError(f"A sheet of {len(sections)} sections in {columns} columns of {tile} pixels is empty.")
    font, bold = lettering.font(_CAPTION_FONT), lettering.font(_CAPTION_FONT, bold=True)
    columns = max(1, min(columns, max(len(images) for _, images in sections)))
    width = max(_GAP + columns * (tile + _GAP), 480)
    every = [each for _, images in sections for each in images]
    masked = any(each.predicted_masks is not None for each in every)
    outlined = any(each.true_masks is not None and len(each.true_masks) for each in every)
    frames = _MASKS if outlined else () if masked else _FRAMES
    blocks = [_legend(class_names, width, font, frames)]
    for heading, images in sections:
        blocks.append(_heading(heading, width, bold))
        cells = [_cell(each, class_names, tile, font, bold) for each in images]
        for start in range(0, len(cells), columns):
            row = cells[start : start + columns]
            block = Image.new("RGB", (width, max(cell.height for cell in row) + _GAP), "white")
            for column, cell in enumerate(row):
                block.paste(cell, (_GAP + column * (tile + _GAP), 0))
            blocks.append(block)
    sheet = Image.new("RGB", (width, sum(block.height for block in blocks)), "white")
    y = 0
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height
    return np.array(sheet)


def _rendered(image: Image.Image, marked: ImageWithBoxes, scale: float, class_names: Sequence[str]) -> Image.Image:
    """Draws on ``image``, which is that of ``marked`` at another scale."""
    longer = max(image.size)
    line = max(2, round(longer / 320))
    font = lettering.font(max(_SMALLEST_FONT, round(longer / 42)))
    colours = [(*colour,) for colour in class_colours(len(class_names)).tolist()]
    if marked.predicted_masks is not None:
        chosen = [colours[label] for label in marked.predicted_labels.tolist()]
        image = _covered(image, marked.predicted_masks[::-1], chosen[::-1], line, opacity=_OPACITY)
    if marked.true_masks is not None:
        image = _covered(image, marked.true_masks, [_WHITE] * len(marked.true_masks), max(1, line // 2), opacity=0.0)
    draw = ImageDraw.Draw(image)
    if marked.predicted_masks is None:
        for box, label in zip(
            (marked.predicted * scale).tolist()[::-1], marked.predicted_labels.tolist()[::-1], strict=True
        ):
            draw.rectangle(_inside(box, image.size), outline=colours[label], width=line)
    if marked.true_masks is None:
        for box, label in zip((marked.true * scale).tolist(), marked.true_labels.tolist(), strict=True):
            _dashed(draw, _inside(box, image.size), colours[label], max(1, line // 2), 3 * line)
    placed: list[_Area] = []
    alone = len(class_names) == 1 and marked.predicted_masks is not None  # the name would hide many small masks
    names = ["" if alone else str(class_names[label]) for label in marked.predicted_labels.tolist()]
    scores = [""] * len(names) if marked.scores is None else [f"{score:.2f}" for score in marked.scores.tolist()]
    texts = [(f"{name} {score}".strip(), score) for name, score in zip(names, scores, strict=True)]
    rows = zip((marked.predicted * scale).tolist(), marked.predicted_labels.tolist(), texts, strict=True)
    for box, label, text in rows:
        _tag(draw, image.size, box, text, colours[label], font, placed)
    return image


def _covered(
    image: Image.Image,
    masks: Bool[np.ndarray, "n h w"],
    colours: Sequence[tuple[int, ...]],
    line: int,
    *,
    opacity: float,
) -> Image.Image:
    """The image under masks of its proportions, each with an outline."""
    pixels = np.array(image)
    for mask, colour in zip(masks, colours, strict=True):
        large = np.array(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
        tint = np.array(colour, np.float32)
        pixels[large] = np.round((1 - opacity) * pixels[large] + opacity * tint).astype(np.uint8)
        pixels[mask_outline(large, line)] = tint
    return Image.fromarray(pixels)


def _inside(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The first and last pixels of a box, clipped to the image."""
    width, height = size
    x0, y0 = (min(max(round(low), 0), side - 1) for low, side in zip(box[:2], size, strict=True))
    return x0, y0, max(x0, min(round(box[2]) - 1, width - 1)), max(y0, min(round(box[3]) - 1, height - 1))


def _dashed(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: tuple[int, ...], line: int, dash: int
) -> None:
    """A frame of alternating white and coloured dashes."""
    x0, y0, x1, y1 = box
    draw.rectangle(box, outline=colour, width=line)
    for x in range(x0, x1 + 1, 2 * dash):
        for y in (y0, y1 - line + 1):
            draw.rectangle((x, y, min(x + dash - 1, x1), y + line - 1), fill="white")
    for y in range(y0, y1 + 1, 2 * dash):
        for x in (x0, x1 - line + 1):
            draw.rectangle((x, y, x + line - 1, min(y + dash - 1, y1)), fill="white")


def _tag(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Sequence[float],
    texts: Sequence[str],
    colour: tuple[int, ...],
    font: Font,
    placed: list[_Area],
) -> None:
    """Draws the first of the texts, if any, that fits at its box without overlapping ``placed`` tags."""
    ascent, descent = font.getmetrics()
    pad = max(1, font.size // 6)
    height = ascent + descent + pad
    for text in filter(None, texts):
        width = font.getlength(text) + 2 * pad
        x = min(max(round(box[0]), 0), size[0] - math.ceil(width))
        for y in (round(box[1]) - height, round(box[3]), round(box[1]), round(box[3]) - height):
            area = (x, y, x + width, y + height)
            if x < 0 or y < 0 or area[3] > size[1] or any(_touch(area, other) for other in placed):
                continue
            draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
            draw.text((x + pad, y + pad // 2), text, fill=_readable(colour), font=font)
            placed.append(area)
            return


def _touch(one: _Area, other: _Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _readable(colour: Sequence[int]) -> tuple[int, int, int]:
    """White or black, whichever has more contrast (relative luminance of WCAG 2.1)."""
    linear = [(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in (v / 255 for v in colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else (255, 255, 255)


def _cell(marked: ImageWithBoxes, class_names: Sequence[str], tile: int, font: Font, bold: Font) -> Image.Image:
    """An image with its boxes, with its caption below."""
    height, width = marked.image.shape[:2]
    scale = tile / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    kind = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    image = _rendered(Image.fromarray(marked.image).resize(size, kind), marked, scale, class_names)
    cell = Image.new("RGB", (tile, size[1] + (4 + len(marked.caption) * _LINE if marked.caption else 0)), "white")
    cell.paste(image, ((tile - size[0]) // 2, 0))
    draw = ImageDraw.Draw(cell)
    for number, text in enumerate(marked.caption):
        style, colour = (bold, _INK) if number == 0 else (font, _PALE)
        draw.text((0, size[1] + 3 + number * _LINE), cut(text, style, tile), fill=colour, font=style)
    return cell


def _legend(class_names: Sequence[str], width: int, font: Font, frames: Sequence[_Piece]) -> Image.Image:
    """The meaning of frames and, for few classes, of colours."""
    pieces = list(frames)
    if len(class_names) <= _MAX_IN_LEGEND:
        colours = class_colours(len(class_names)).tolist()
        pieces += [(name, (*colour,), "filled") for name, colour in zip(class_names, colours, strict=True)]
    places, x, y = [], _GAP, 0
    for text, _, _ in pieces:
        wide = 26 + math.ceil(font.getlength(text)) + 16
        if x > _GAP and x + wide > width:
            x, y = _GAP, y + _LINE + 3
        places.append((x, y + _GAP))
        x += wide
    legend = Image.new("RGB", (width, y + 2 * _GAP + _LINE), "white")
    draw = ImageDraw.Draw(legend)
    for (text, colour, kind), (x, y) in zip(pieces, places, strict=True):
        swatch = (x, y + 2, x + 19, y + 14)
        if kind == "dashed":
            _dashed(draw, swatch, colour, 1, 4)
        else:
            fill = {"filled": colour, "outlined": _PALE}.get(kind)
            draw.rectangle(swatch, outline=colour, fill=fill, width=2)
        draw.text((x + 26, y), cut(text, font, width - x - 26 - _GAP), fill=_INK, font=font)
    return legend


def _heading(text: str, width: int, bold: Font) -> Image.Image:
    heading = Image.new("RGB", (width, _LINE + 10), "white")
    ImageDraw.Draw(heading).text((_GAP, 2), cut(text, bold, width - 2 * _GAP), fill=_INK, font=bold)
    return heading
