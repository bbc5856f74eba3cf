"""Sheets of images with the predictions of a classifier: its worst mistakes, and its predictions for files."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from vision.report import lettering
from vision.report.lettering import Font, broken, cut

_TILE = 160  # pixels: the largest side of an enlarged or reduced image
_GAP = 12  # pixels between and around tiles
_FONT_SIZE, _LINE = 13, 17
_BAR_HEIGHT, _GUESS_LINE = 4, 24
_TITLE_LINES = 4
_INK, _PALE, _TRUE, _WRONG = (34, 34, 34), (110, 110, 110), (0, 114, 178), (190, 70, 0)
_BAR, _TRACK = (86, 150, 200), (232, 232, 232)

_Piece = tuple[str, tuple[int, int, int]]  # a text and its RGB colour


def worst_mistakes(
    truths: Int[np.ndarray, " n"],
    predictions: Int[np.ndarray, " n"],
    confidences: Float[np.ndarray, " n"],
    max_mistakes: int,
) -> Int[np.ndarray, " m"]:
    """Indices of the at most ``max_mistakes`` most confident mistakes, the most confident first.

    Equal confidences keep their order. A caller with more images than memory needs to read only these.
    """
    wrong = np.flatnonzero(truths != predictions)
    return wrong[np.argsort(-confidences[wrong], kind="stable")[:max_mistakes]]


def mistakes_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ _"]],
    truths: Int[np.ndarray, " m"],
    predictions: Int[np.ndarray, " m"],
    confidences: Float[np.ndarray, " m"],
    class_names: Sequence[str] = (),
    *,
    mistakes: int,
    total: int,
    columns: int = 8,
) -> UInt8[np.ndarray, "H W 3"]:
    """Mistakes, each with its true class (blue), the predicted one (orange) and the confidence.

    Images are enlarged by an integer factor with nearest neighbour to at most 160x160 pixels; larger ones are reduced.
    The caption is "truth → prediction 0.98", on up to four lines if it is too long for one, and then truncated.

    Args:
        images: the mistakes to show, usually the `worst_mistakes`: uint8 [h w 3] or [h w 1] each.
        truths: their true classes.
        predictions: their predicted classes.
        confidences: probabilities of the predicted classes, in [0, 1].
        class_names: one for each class; if empty, numbers are shown.
        mistakes: the total number of mistakes, for the title.
        total: how many images were evaluated, for the title.
        columns: images per row.

    Raises:
        ValueError: the arrays differ in length, an image is predicted right, a class has no name, or ``columns`` is not
            positive.
    """
    if not len(images) == len(truths) == len(predictions) == len(confidences):
        raise ValueError(
            f"{len(images)} images, {len(truths)} truths, {len(predictions)} predictions and {len(confidences)} "
            "confidences: give one of each for every image."
        )
    if columns < 1:
        raise ValueError(f"A sheet of {columns} columns is empty.")
    if np.any(truths == predictions):
        raise ValueError("An image on the sheet of mistakes is predicted right.")
    font, bold = lettering.font(_FONT_SIZE), lettering.font(_FONT_SIZE, bold=True)
    if not len(images):
        return _titled([], 1, f"no mistakes among {total:,} images", bold)
    if class_names and max(truths.max(), predictions.max()) >= len(class_names):
        raise ValueError(f"A class has no name: there are only {len(class_names)} names.")
    names = list(class_names) or [str(label) for label in range(1 + int(max(truths.max(), predictions.max())))]
    rows = list(zip(truths.tolist(), predictions.tolist(), confidences.tolist(), strict=True))
    captions = [_mistake(names[truth], names[guess], f"{confidence:.2f}", font) for truth, guess, confidence in rows]
    height = max(map(len, captions))
    cells = [_captioned(_fitted(image), lines, height, font) for image, lines in zip(images, captions, strict=True)]
    shown = f", the {len(images)} most confident of them" if len(images) < mistakes else ""
    title = f"{mistakes:,} of {total:,} images wrong{shown}: true class → predicted class, confidence"
    return _titled(cells, columns, title, bold)


def prediction_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ _"]],
    top: Sequence[Sequence[tuple[str, float]]],
    titles: Sequence[str] = (),
    *,
    columns: int = 6,
) -> UInt8[np.ndarray, "H W 3"]:
    """Images of any size, each with its most likely classes and bars of their probabilities.

    Args:
        images: uint8 [h w 3] or [h w 1] each; enlarged or reduced as in `mistakes_sheet`.
        top: for each image, names and probabilities in [0, 1], the most likely first.
        titles: one for each image, shown above it, such as the file's name; none if empty.
        columns: images per row.

    Raises:
        ValueError: there are no images, or the numbers of images, lists of predictions and titles differ.
    """
    if not len(images) or columns < 1:
        raise ValueError(f"A sheet of {len(images)} images in {columns} columns is empty.")
    if len(top) != len(images) or (titles and len(titles) != len(images)):
        raise ValueError(
            f"{len(images)} images, {len(top)} lists of predictions and {len(titles)} titles do not match."
        )
    font, bold = lettering.font(_FONT_SIZE), lettering.font(_FONT_SIZE, bold=True)
    guesses = max(map(len, top))
    cells = [
        _guessed(_fitted(image), list(of), titles[i] if titles else None, guesses, font, bold)
        for i, (image, of) in enumerate(zip(images, top, strict=True))
    ]
    return _titled(cells, columns, "", bold)


def _mistake(truth: str, guess: str, confidence: str, font: Font) -> list[list[_Piece]]:
    """The caption on one line if it fits, else the two names on separate lines, at most two each."""
    one = [(truth, _TRUE), (" → ", _PALE), (guess, _WRONG), (f" {confidence}", _PALE)]
    if font.getlength("".join(text for text, _ in one)) <= _TILE:
        return [one]
    guesses = broken(guess, font, _TILE - font.getlength(f"→  {confidence}"), 2)
    lines = [[(line, _TRUE)] for line in broken(truth, font, _TILE, 2)] + [[(line, _WRONG)] for line in guesses]
    lines[-len(guesses)].insert(0, ("→ ", _PALE))
    lines[-1].append((f" {confidence}", _PALE))
    return lines


def _captioned(tile: Image.Image, lines: list[list[_Piece]], height: int, font: Font) -> Image.Image:
    """An image centred in its cell with its caption below, with room for ``height`` lines."""
    cell = Image.new("RGB", (_TILE, _TILE + 3 + height * _LINE), "white")
    cell.paste(tile, ((_TILE - tile.width) // 2, _TILE - tile.height))
    draw = ImageDraw.Draw(cell)
    for k, line in enumerate(lines):
        x = (_TILE - sum(font.getlength(text) for text, _ in line)) / 2
        for text, colour in line:
            draw.text((x, _TILE + 3 + k * _LINE), text, fill=colour, font=font)
            x += font.getlength(text)
    return cell


def _guessed(
    tile: Image.Image, guesses: list[tuple[str, float]], title: str | None, rows: int, font: Font, bold: Font
) -> Image.Image:
    """A title, an image, and a line and a bar for each prediction."""
    above = 0 if title is None else _LINE + 2
    cell = Image.new("RGB", (_TILE, above + _TILE + 4 + rows * _GUESS_LINE), "white")
    draw = ImageDraw.Draw(cell)
    if title is not None:
        draw.text((0, 0), cut(title, font, _TILE, front=True), fill=_PALE, font=font)
    cell.paste(tile, ((_TILE - tile.width) // 2, above + (_TILE - tile.height) // 2))
    for k, (name, probability) in enumerate(guesses):
        y = above + _TILE + 4 + k * _GUESS_LINE
        style = bold if k == 0 else font
        number = f"{probability:.2f}"
        edge = _TILE - font.getlength(number)
        draw.text((0, y), cut(name, style, edge - 6), fill=_INK, font=style)
        draw.text((edge, y), number, fill=_PALE, font=font)
        bar = y + _GUESS_LINE - _BAR_HEIGHT - 3
        draw.rectangle((0, bar, _TILE - 1, bar + _BAR_HEIGHT - 1), fill=_TRACK)
        filled = round(_TILE * min(max(probability, 0.0), 1.0))
        if filled:
            draw.rectangle((0, bar, filled - 1, bar + _BAR_HEIGHT - 1), fill=_BAR)
    return cell


def _titled(cells: list[Image.Image], columns: int, title: str, bold: Font) -> UInt8[np.ndarray, "H W 3"]:
    """Cells of one size row by row below a title, which is wrapped to the width of the sheet."""
    columns = min(columns, max(len(cells), 1))
    width, height = cells[0].size if cells else (2 * _TILE, 0)
    sheet_width = _GAP + columns * (width + _GAP)
    lines = broken(title, bold, sheet_width - 2 * _GAP, _TITLE_LINES) if title else []
    top = _GAP + len(lines) * _LINE + (6 if lines and cells else 0)
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (sheet_width, top + rows * (height + _GAP) + (0 if cells else _GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for k, line in enumerate(lines):
        draw.text((_GAP, _GAP - 2 + k * _LINE), line, fill=_INK, font=bold)
    for i, cell in enumerate(cells):
        row, column = divmod(i, columns)
        sheet.paste(cell, (_GAP + column * (width + _GAP), top + row * (height + _GAP)))
    return np.array(sheet)


def _fitted(image: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """Enlarged by an integer factor (nearest neighbour) or reduced with antialiasing, so that it fits a tile."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"A sheet needs uint8 images [h, w, 1 or 3], not {image.dtype} {list(image.shape)}.")
    tile = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
    longer = max(tile.size)
    if longer <= _TILE:
        factor = _TILE // longer
        return tile.resize((tile.width * factor, tile.height * factor), Image.Resampling.NEAREST)
    size = (max(1, round(side * _TILE / longer)) for side in tile.size)
    return tile.resize((next(size), next(size)), Image.Resampling.LANCZOS)
