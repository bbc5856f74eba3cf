"""Images of an ablation: every mean with its interval and its seeds, and learning curves with bands."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from vision.ablation.results import Results, Row
from vision.ablation.statistics import Difference, Summary, summary
from vision.ablation.study import baseline_of
from vision.report.curves import log_scaled, series
from vision.units import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Grey and blue of Okabe and Ito (2008), distinguishable with any colour vision.
_BASELINE, _POINT = "#6e6e6e", "#0072b2"
_INK, _SOFT, _FAINT = "#222222", "#444444", "#999999"
_WIDTH = 9.6  # inches
_COLUMNS = 3
_FEW = 20  # up to this number every evaluation is marked
_DOTS_PER_INCH = 110
_REFERENCE = {"color": _BASELINE, "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}
_HEADROOM = 0.6  # of the range of all seeds: bands of two seeds are so wide that they would hide everything else


@dataclass(frozen=True)
class Band:
    """A scalar over the images seen: mean and 95 % t interval over seeds; float64 [n] each."""

    images: Float[np.ndarray, " n"]
    mean: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    """NaN where there is no interval."""
    high: Float[np.ndarray, " n"]
    values: Float[np.ndarray, "seeds n"]


def band(histories: Sequence[Sequence[Mapping[str, Any]]], name: str) -> Band:
    """The band of a scalar over runs, at the images at which every one of them has it.

    Args:
      histories: the lines of metrics of each of at least one run; one without the scalar leaves nothing.
      name: the scalar, such as ``eval/class_accuracy``.
    """
    found = [dict(zip(*map(np.ndarray.tolist, series(lines, name)), strict=True)) for lines in histories]
    shared = sorted(set.intersection(*map(set, found)))
    summaries = [summary([values[images] for values in found]) for images in shared]
    ends = [each.interval or (np.nan, np.nan) for each in summaries]
    column = lambda values: np.asarray(values, np.float64)
    return Band(
        column(shared),
        column([each.mean for each in summaries]),
        column([low for low, _ in ends]),
        column([high for _, high in ends]),
        column([[values[images] for images in shared] for values in found]),
    )


def dots(rows: Sequence[Row], metric: str) -> "Figure":
    """One line per point: a small dot per seed, a large one for the mean with its interval.

    On the left the metric itself with a line at the baseline's mean; on the right the difference to the baseline of
    equal seeds, with a line at 0, where there is any.
    """
    from matplotlib.figure import Figure  # takes a second to import

    paired = any(row.difference is not None for row in rows)
    figure = Figure(
        figsize=(_WIDTH, 0.9 + 0.34 * len(rows)), dpi=_DOTS_PER_INCH, layout="constrained", facecolor="white"
    )
    panels = figure.subplots(
        1, 2 if paired else 1, squeeze=False, sharey=True, width_ratios=[3, 2] if paired else None
    )[0]
    baseline = rows[0].values
    for place, row in enumerate(rows):
        found = row.summary
        missing = "no finished trial" if found is None else "" if np.isfinite(found.mean) else "not finite"
        _draw_line(panels[0], place, list(row.values.values()), found, missing)
        if row.difference is not None:
            differences = [row.values[seed] - baseline[seed] for seed in row.values.keys() & baseline.keys()]
            _draw_line(panels[1], place, differences, row.difference, missing)
    if rows[0].summary is not None and np.isfinite(rows[0].summary.mean):
        panels[0].axvline(rows[0].summary.mean, **_REFERENCE)
    panels[0].set_yticks(range(len(rows)), [_plain(row.point.name) for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    for axes, label in zip(panels, (metric, "difference to the baseline"), strict=False):
        axes.margins(x=0.06)
        _dressed(axes, label)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
    if paired:
        panels[1].axvline(0.0, **_REFERENCE)
    return figure


def _draw_line(
    axes: Any, place: int, values: Sequence[float], found: Summary | Difference | None, missing: str
) -> None:
    """The seeds of a point, their mean and its interval, at height ``place``."""
    colour = _BASELINE if place == 0 else _POINT
    finite = [x for x in values if np.isfinite(x)]
    # seeds are plotted slightly below the mean, which would hide them
    axes.plot(finite, [place + 0.22] * len(finite), "o", color=colour, markersize=3, alpha=0.55)
    if found is None or missing:
        at = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 7.5, "color": _FAINT}
        axes.annotate(missing, (0.01, place), **at)
        return
    if found.interval is not None:
        axes.plot(found.interval, [place, place], "-", color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([found.mean], [place], "o", color=colour, markersize=6.5)


def curves(results: Results, name: str) -> "Figure | None":
    """A panel per point: its band over the images seen and the baseline's in grey; None if no run has it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    bands = {point: band([run.lines for run in seeds.values()], name) for point, seeds in results.runs.items() if seeds}
    bands = {point: found for point, found in bands.items() if len(found.images)}
    if not bands:
        return None
    first = baseline_of(results.study).name
    base = bands.pop(first, None)
    panels = list(bands.items()) or [(first, None)]
    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(
        figsize=(_WIDTH * columns / _COLUMNS, 0.3 + 2.2 * lines),
        dpi=_DOTS_PER_INCH,
        layout="constrained",
        facecolor="white",
    )
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    shown = [*bands.values(), *([base] if base is not None else [])]
    means = np.concatenate([found.mean for found in shown])
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        point, own = panels[place]
        for found, colour in ((base, _BASELINE), (own, _POINT)):
            if found is not None:
                few = len(found.images) <= _FEW
                axes.plot(
                    found.images,
                    np.where(np.isfinite(found.mean), found.mean, np.nan),
                    "o-" if few else "-",
                    color=colour,
                    linewidth=1.4,
                    markersize=3,
                )
                axes.fill_between(found.images, found.low, found.high, color=colour, alpha=0.18, linewidth=0)
                if len(found.images) == 1:  # a band of zero width is invisible
                    axes.plot(np.repeat(found.images, 2), [*found.low, *found.high], "-", color=colour, linewidth=1.4)
        if log_scaled(name, means):
            axes.set_yscale("log", nonpositive="mask")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.set_ylim(*_limits(shown, axes.get_ylim()))
        _dressed(axes, "images seen" if place + columns >= len(panels) else "")
        axes.set_title(_plain(point), loc="left", fontsize=8.5, color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
        axes.set_xlim(0, None)
    return figure


def _limits(bands: Sequence[Band], automatic: tuple[float, float]) -> tuple[float, float]:
    """The automatic limits, but not far beyond the values of the seeds."""
    values = np.concatenate([found.values.ravel() for found in bands])
    values = values[np.isfinite(values)]
    if not len(values) or values.min() == values.max():
        return automatic
    room = _HEADROOM * (values.max() - values.min())
    return max(automatic[0], values.min() - room), min(automatic[1], values.max() + room)


def _dressed(axes: Any, label: str) -> None:
    axes.set_xlabel(_plain(label), fontsize=8.5, color=_SOFT)
    axes.tick_params(labelsize=8, length=2.5, color=_FAINT, labelcolor=_SOFT)
    axes.grid(True, color="#e8e8e8", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)


def _plain(text: str) -> str:
    """``text`` without characters that matplotlib interprets as mathematics."""
    return text.replace("$", r"\$")


def as_png(figure: "Figure") -> bytes:
    """The figure as a PNG of 256 colours, which halves the file without a visible difference."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    out = io.BytesIO()
    Image.fromarray(pixels).quantize(256, kmeans=1, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def as_pdf(figure: "Figure") -> bytes:
    """The figure as a PDF, for a paper; equal figures give equal files."""
    out = io.BytesIO()
    figure.savefig(out, format="pdf", metadata={"CreationDate": None})
    return out.getvalue()


def sample_crop(path: str | Any, *, max_size: tuple[int, int] = (480, 320)) -> bytes:
    """The upper left part of an image as a JPEG of some 20 kB, cropped between images where there is a blank line.

    Grids of samples are separated by lines of one colour.

    Args:
      path: an image.
      max_size: largest width and height.

    Raises:
      OSError: it cannot be read.
    """
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    pixels = np.asarray(image)
    # cropped at twice the size, then halved, to show more images
    width, height = (_cut(pixels, axis, limit=2 * limit) for axis, limit in ((1, max_size[0]), (0, max_size[1])))
    image = image.crop((0, 0, width, height))
    image.thumbnail(max_size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82, optimize=True)
    return out.getvalue()


def _cut(pixels: np.ndarray, axis: int, *, limit: int) -> int:
    """Where to cut along an axis: at the last blank line before ``limit``, or there."""
    length = pixels.shape[axis]
    if length <= limit:
        return length
    lines = np.moveaxis(pixels, axis, 0)[: limit + 1].reshape(limit + 1, -1)
    blank = np.flatnonzero((lines == lines[:, :1]).all(1))
    # a blank line near the start is the margin, or an image of one colour
    return int(blank[-1]) + 1 if len(blank) and blank[-1] > limit // 3 else limit
