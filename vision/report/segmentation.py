"""Semantic segmentation in images: overlays, maps of errors, sheets with a legend, bars of the classes."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image, ImageDraw

from vision.report import lettering
from vision.report.lettering import Font, cut

_INK, _PALE = (34, 34, 34), (110, 110, 110)
_RIGHT, _WRONG, _VOID = (226, 232, 236), (213, 94, 0), (70, 70, 70)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_GAP = 10  # pixels between and around tiles
_FONT_SIZE, _LINE = 13, 17
_SMALLEST = 160  # pixels of the longer side: smaller images are enlarged on sheets
_SWATCH = 12
_MAX_IN_LEGEND = 40
_DOTS_PER_INCH = 110

Colours = UInt8[np.ndarray, "k 3"]


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Integer[np.ndarray, "h w"],
    colours: Colours,
    *,
    opacity: float = 0.6,
) -> UInt8[np.ndarray, "h w 3"]:
    """The image in grey under the colours of its classes, and a line between classes.

    Args:
      image: RGB.
      mask: classes; pixels of a value without a colour, such as void, stay as they are in the image.
      colours: one for each class.
      opacity: of the colours, in [0, 1].
    """
    known = mask < len(colours)
    over = colours[np.where(known, mask, 0)]
    # in its own colours the image would change those of the classes
    grey = image @ _LUMA
    mixed = np.round((1 - opacity) * grey[..., None] + opacity * over.astype(np.float32)).astype(np.uint8)
    mixed[_borders(mask) & known] = 255
    return np.where(known[..., None], mixed, image)


def error_map(
    truth: UInt8[np.ndarray, "h w"], predicted: UInt8[np.ndarray, "h w"], *, void: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels that are right (pale), wrong (vermilion) or without a class (dark)."""
    out = np.empty((*truth.shape, 3), np.uint8)
    out[:] = _RIGHT
    out[truth != predicted] = _WRONG
    out[truth == void] = _VOID
    return out


def coloured(mask: UInt8[np.ndarray, "h w"], colours: Colours) -> UInt8[np.ndarray, "h w 3"]:
    """Every pixel in the colour of its class; those without one are black."""
    full = np.zeros((256, 3), np.uint8)
    full[: len(colours)] = colours
    return full[mask]


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """An image with its true and its predicted classes."""

    image: UInt8[np.ndarray, "h w 3"]
    predicted: UInt8[np.ndarray, "h w"]
    truth: UInt8[np.ndarray, "h w"] | None = None
    """None where it is not known."""
    caption: str = ""


def segmentation_sheet(
    images: Sequence[SegmentedImage], class_names: Sequence[str], colours: Colours, *, title: str, void: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Rows of image, truth, prediction and errors (or of image and prediction), below a legend.

    Args:
      images: at least one; small ones are enlarged by nearest neighbour.
      class_names: one for each class.
      colours: one for each class.
      title: of the sheet.
      void: value of pixels without a class.

    Raises:
      ValueError: there is no image.
    """
    return tile_sheet([_tiles(each, colours, void=void) for each in images], class_names, colours, title=title)


def tile_sheet(
    images: Sequence[Mapping[str, UInt8[np.ndarray, "h w 3"]]],
    class_names: Sequence[str],
    colours: Colours,
    *,
    title: str,
) -> UInt8[np.ndarray, "H W 3"]:
    """A row for each image of tiles of its size, by their captions, below a legend.

    Args:
      images: at least one; small ones are enlarged by nearest neighbour.
      class_names: one for each class.
      colours: one for each class.
      title: of the sheet.

    Raises:
      ValueError: there is no image.
    """
    if not images:
        raise ValueError("A sheet of no images is empty.")
    font, bold = lettering.font(_FONT_SIZE), lettering.font(_FONT_SIZE, bold=True)
    rows = [_row(each, font) for each in images]
    width = max(_GAP + max(row.width for row in rows), 480)
    blocks = [_titled(title, width, bold), _legend(list(class_names), colours, width, font), *rows]
    sheet = Image.new("RGB", (width, sum(block.height for block in blocks) + _GAP), "white")
    y = 0
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height
    return np.array(sheet)


def labelled_overlay(
    image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], class_names: Sequence[str], colours: Colours
) -> UInt8[np.ndarray, "H W 3"]:
    """The overlay of one image at its own size, above a legend of the classes that it has."""
    present = [int(label) for label in np.unique(mask) if label < len(colours)]
    return with_legend(overlay(image, mask, colours), [class_names[label] for label in present], colours[present])


def with_legend(
    image: UInt8[np.ndarray, "h w 3"], class_names: Sequence[str], colours: Colours
) -> UInt8[np.ndarray, "H W 3"]:
    """An image, enlarged if it is small, above a legend."""
    shown = Image.fromarray(image)
    factor = _factor(image)
    shown = shown.resize((shown.width * factor, shown.height * factor), Image.Resampling.NEAREST)
    width = max(shown.width, 240)
    legend = _legend(class_names, colours, width, lettering.font(_FONT_SIZE))
    out = Image.new("RGB", (width, shown.height + legend.height), "white")
    out.paste(shown, (0, 0))
    out.paste(legend, (0, shown.height))
    return np.array(out)


def class_bars(
    iou: Float[np.ndarray, " k"],
    class_names: Sequence[str],
    colours: Colours,
    *,
    title: str,
    label: str = "intersection over union",
) -> UInt8[np.ndarray, "H W 3"]:
    """A bar for each class, the best first; classes without a number (nan) are left out, and counted in the title."""
    # imported here, since matplotlib takes longer than all else that a short run does before its first step
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = [int(i) for i in np.argsort(-np.nan_to_num(iou, nan=-1.0), kind="stable") if not np.isnan(iou[i])]
    missing = len(iou) - len(order)
    figure = Figure(figsize=(6.0, 0.9 + 0.24 * max(len(order), 2)), dpi=_DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = np.arange(len(order))
    values = [float(iou[i]) for i in order]
    axes.barh(places, values, color=[tuple(colours[i] / 255) for i in order], edgecolor="#777777", linewidth=0.5)
    for place, value in enumerate(values):
        axes.text(value + 0.01, place, f"{value:.3f}", va="center", fontsize=8, color="#444444")
    axes.set_yticks(places, labels=[class_names[i] for i in order], fontsize=8)
    for text in axes.get_yticklabels():
        text.set_parse_math(False)  # a name may contain a dollar sign
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xlabel(label, fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    more = f"\n{missing} classes occur neither in truth nor in predictions" if missing else ""
    axes.set_title(title + more, loc="left", fontsize=10, fontweight="bold")
    encoded = io.BytesIO()
    canvas.print_figure(encoded, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    return np.array(Image.open(encoded).convert("RGB"))


def _borders(mask: Integer[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The first pixel of a class behind another one, in rows and columns."""
    out = np.zeros(mask.shape, bool)
    out[1:] |= mask[1:] != mask[:-1]
    out[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    return out


def _factor(image: UInt8[np.ndarray, "h w 3"]) -> int:
    return max(1, math.ceil(_SMALLEST / max(image.shape[:2])))


def _tiles(each: SegmentedImage, colours: Colours, *, void: int) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    tiles = {each.caption or "image": each.image}
    if each.truth is not None:
        tiles["truth"] = overlay(each.image, each.truth, colours)
    tiles["prediction"] = overlay(each.image, each.predicted, colours)
    if each.truth is not None:
        tiles["errors"] = error_map(each.truth, each.predicted, void=void)
    return tiles


def _row(tiles: Mapping[str, UInt8[np.ndarray, "h w 3"]], font: Font) -> Image.Image:
    first = next(iter(tiles.values()))
    factor = _factor(first)
    height, width = (side * factor for side in first.shape[:2])
    row = Image.new("RGB", (len(tiles) * (width + _GAP) + _GAP, height + _LINE + _GAP), "white")
    draw = ImageDraw.Draw(row)
    for column, (name, tile) in enumerate(tiles.items()):
        x = _GAP + column * (width + _GAP)
        row.paste(Image.fromarray(tile).resize((width, height), Image.Resampling.NEAREST), (x, 0))
        draw.text((x, height + 1), cut(name, font, width), fill=_PALE, font=font)
    return row


def _titled(title: str, width: int, font: Font) -> Image.Image:
    block = Image.new("RGB", (width, _GAP + _LINE + 4), "white")
    ImageDraw.Draw(block).text((_GAP, _GAP - 2), cut(title, font, width - 2 * _GAP), fill=_INK, font=font)
    return block


def _legend(class_names: Sequence[str], colours: Colours, width: int, font: Font) -> Image.Image:
    """Squares of colour with names, in as many lines as are necessary."""
    names = [str(name) for name in class_names[:_MAX_IN_LEGEND]]
    items: list[tuple[str, tuple[int, ...]]] = [
        (name, tuple(int(c) for c in colours[i])) for i, name in enumerate(names)
    ]
    if len(class_names) > len(names):
        items.append((f"and {len(class_names) - len(names)} more", (255, 255, 255)))
    x, y = _GAP, 4
    placed = []
    for name, colour in items:
        wide = _SWATCH + 5 + math.ceil(font.getlength(name)) + 14
        if x + wide > width and x > _GAP:
            x, y = _GAP, y + _LINE
        placed.append((x, y, name, colour))
        x += wide
    block = Image.new("RGB", (width, y + _LINE + 6), "white")
    draw = ImageDraw.Draw(block)
    for left, top, name, colour in placed:
        draw.rectangle((left, top + 2, left + _SWATCH, top + 2 + _SWATCH), fill=colour, outline=(150, 150, 150))
        draw.text((left + _SWATCH + 5, top), name, fill=_INK, font=font)
    return block
