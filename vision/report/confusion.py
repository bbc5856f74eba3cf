"""Plots of the confusion matrix, for two to a thousand classes."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from vision.units import count

_MAX_CLASSES = 100  # more names than this are illegible in one plot
_MAX_CONFUSED = 40  # classes shown of a matrix with more
_MAX_WITH_COUNTS = 20  # up to this number the counts are written into the cells
_LONGEST_NAME = 24  # letters
_DOTS_PER_INCH = 110
_INK, _PALE = "#222222", "#777777"
# From white for cells of zero to the blue and the vermilion of Okabe and Ito (2008)
_BLUES = ("#ffffff", "#9cc8e6", "#0072b2")
_ORANGES = ("#ffffff", "#f6b98a", "#d55e00")


def most_confused(matrix: Int[np.ndarray, "k k"], max_classes: int) -> Int[np.ndarray, " n"]:
    """At most ``max_classes`` classes, in increasing order, whose submatrix has the most frequent confusions.

    Pairs of classes are taken in descending order of their confusions in both directions, the first of equals first,
    until there are ``max_classes`` classes. Pairs that were never confused are not taken, so there may be fewer.
    """
    either = np.triu(matrix + matrix.T, 1)
    rows, columns = np.nonzero(either)
    chosen: set[int] = set()
    for pair in np.argsort(-either[rows, columns], kind="stable"):
        wider = chosen | {int(rows[pair]), int(columns[pair])}
        if len(wider) > max_classes:
            break
        chosen = wider
    return np.array(sorted(chosen), np.int64)


def confusion_plot(
    matrix: Int[np.ndarray, "k k"], class_names: Sequence[str] = (), *, title: str | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Plots a confusion matrix; cells are coloured by their share of the row, that is of the images of a class.

    The diagonal (correct, blue) and the other cells (wrong, orange) have separate scales, since the errors of a good
    classifier would be invisible on the scale of the diagonal. For up to 20 classes, cells show their counts. For more
    than 100 classes only those of the most frequent confusions are shown, see `most_confused`, as stated in the title.

    Args:
        matrix: images by true class (row) and predicted class (column), not negative.
        class_names: one for each class; if empty, numbers are shown. Long names are shortened.
        title: title of the plot; by default the share of images that are right.

    Raises:
        ValueError: the matrix has no images or negative counts, or there are names for another number of classes.
    """
    classes = len(matrix)
    if matrix.min() < 0 or matrix.sum() == 0:
        raise ValueError("A confusion matrix needs non-negative counts and at least one image.")
    if class_names and len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class names for {classes} classes: give one for each, or none.")
    names = [_shortened(name) for name in class_names] or [str(label) for label in range(classes)]
    total, right = int(matrix.sum()), int(np.trace(matrix))
    title = f"{100 * right / total:.2f} % of {total:,} images right" if title is None else title
    # Rows are normalised before classes are selected: a cell is a share of all images of its class
    sizes = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, sizes, out=np.full(matrix.shape, np.nan), where=sizes > 0)
    if classes > _MAX_CLASSES:
        shown = most_confused(matrix, _MAX_CONFUSED)
        which = f"the {len(shown)} most confused"
        if not shown.size:
            shown, which = np.arange(_MAX_CONFUSED), f"the first {_MAX_CONFUSED}"
        matrix, shares, names = matrix[np.ix_(shown, shown)], shares[np.ix_(shown, shown)], [names[i] for i in shown]
        title += f"\n{which} of {classes:,} classes"
    return _plotted(matrix, shares, names, title)


def _plotted(
    matrix: Int[np.ndarray, "k k"], shares: Float[np.ndarray, "k k"], names: list[str], title: str
) -> UInt8[np.ndarray, "h w 3"]:
    # Imported here, since importing matplotlib takes longer than everything else that a short run does before step one.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    classes = len(names)
    with_counts = classes <= _MAX_WITH_COUNTS
    # Inches per cell: room for four digits, or for one line of small type
    cell = max(0.45, 2.4 / classes) if with_counts else max(0.115, min(0.22, 8 / classes))
    points = 9.0 if with_counts else min(9.0, 0.72 * 72 * cell)
    side = cell * classes
    # The figure is only the matrix; names and scales lie outside and enlarge the image when it is saved
    figure = Figure(figsize=(side, side), dpi=_DOTS_PER_INCH, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_facecolor("#dcdcdc")  # visible where a class has no images

    diagonal = np.eye(classes, dtype=bool)
    wrong = shares[~diagonal & np.isfinite(shares)]
    worst = max(float(wrong.max()) if wrong.size else 0.0, 0.001)
    length = min(1.2, 0.36 * side)
    for top, cells, colours, most, label in (
        (side, diagonal, _BLUES, 1.0, "right"),
        (0.5 * side, ~diagonal, _ORANGES, worst, "wrong"),
    ):
        shown = np.ma.masked_where(~cells | ~np.isfinite(shares), 100 * shares)
        colour_map = LinearSegmentedColormap.from_list(label, colours)
        image = axes.imshow(shown, cmap=colour_map, vmin=0, vmax=100 * most, interpolation="nearest", aspect="auto")
        place = ((side + 0.15) / side, (top - 0.25 - length) / side, 0.12 / side, length / side)
        bar = figure.colorbar(image, cax=figure.add_axes(place))
        bar.set_ticks([0, 100 * most], labels=["0", f"{100 * most:.3g} %"])
        bar.ax.tick_params(labelsize=8, length=0, labelcolor=_PALE)
        bar.ax.set_title(label, fontsize=8, color=_PALE, loc="left", pad=7)
        bar.ax.spines[:].set_color("#bbbbbb")
    if with_counts:
        _write_counts(axes, matrix, shares / np.where(diagonal, 1.0, worst))
    for axis, turn in ((axes.xaxis, 90 if max(map(len, names)) > 3 else 0), (axes.yaxis, 0)):
        axis.set_ticks(range(classes), labels=names, rotation=turn, fontsize=points, color=_INK)
        for text in axis.get_ticklabels():
            text.set_parse_math(False)  # a name may contain a dollar sign
    axes.tick_params(length=0)
    axes.set_xlabel("predicted class", fontsize=9.5, color=_PALE)
    axes.set_ylabel("true class", fontsize=9.5, color=_PALE)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(np.arange(1, classes) - 0.5, minor=True)
    axes.grid(which="minor", color="#e6e6e6", linewidth=0.8 if with_counts else 0.3)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_color("#bbbbbb")
    encoded = io.BytesIO()
    canvas.print_figure(encoded, format="png", dpi=_DOTS_PER_INCH, bbox_inches="tight", pad_inches=0.1)
    return np.array(Image.open(encoded).convert("RGB"))


def _write_counts(axes: Any, matrix: Int[np.ndarray, "k k"], darkness: Float[np.ndarray, "k k"]) -> None:
    """Writes counts into the cells that are not zero, in white on dark cells."""
    for row, column in zip(*np.nonzero(matrix), strict=True):
        number = int(matrix[row, column])
        text = str(number) if number < 10_000 else count(number)
        colour = "white" if darkness[row, column] > 0.7 else _INK
        size = 8.5 if len(text) < 5 else 7.0
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1].rstrip() + "…"
