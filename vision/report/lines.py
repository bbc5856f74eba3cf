"""Plots of a quantity against another, a line for each name, with intervals."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Okabe and Ito (2008), distinguishable with any colour vision
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
_MARKERS = "osD^vPX*"
_DOTS_PER_INCH = 110

Point = tuple[float, float, float]
"""(x, y, half the width of its interval, 0 for none)."""


@dataclass(frozen=True, kw_only=True)
class LinePlot:
    """One plot of a picture."""

    lines: Mapping[str, Sequence[Point]]
    """Points of each, in order of x; those that are not finite are left out."""
    title: str
    x: str
    """Name of the horizontal axis."""
    y: str
    """Name of the vertical axis; "" where the title has it."""
    x_log: bool = False
    """Whether the horizontal axis is logarithmic, with a tick at each value of x."""
    y_log: bool = False
    """Whether the vertical axis is logarithmic."""
    levels: Mapping[str, float] = field(default_factory=dict)
    """Horizontal lines by name, such as a floor."""


def line_plots(plots: Sequence[LinePlot], *, columns: int = 3) -> UInt8[np.ndarray, "h w 3"]:
    """Plots as one picture, row by row; where all have lines of the same names, with one legend below them."""
    from matplotlib.figure import Figure

    columns = min(columns, len(plots))
    rows = -(-len(plots) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.8 * rows), dpi=_DOTS_PER_INCH, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.08)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    shared = len(plots) > 1 and len({tuple(plot.lines) for plot in plots}) == 1
    for axes, plot in zip(places, plots, strict=False):
        _plotted(axes, plot, legend=not shared)
    if shared:  # next to the plots: inside it would cover lines
        handles, labels = places[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2 * columns), frameon=False)
    for axes in places[len(plots) :]:
        axes.set_axis_off()
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return np.asarray(Image.open(written).convert("RGB"))


def _plotted(axes: Any, plot: LinePlot, *, legend: bool) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    for number, (name, points) in enumerate(plot.lines.items()):
        finite = [point for point in points if np.isfinite(point[:2]).all()]
        if not finite:
            continue
        xs, ys, widths = (np.asarray(values, np.float64) for values in zip(*finite, strict=True))
        axes.errorbar(
            xs,
            ys,
            yerr=widths if widths.any() else None,
            label=name,
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=1.6,
            capsize=3,
        )
    for name, level in plot.levels.items():
        axes.axhline(level, color="#777777", linewidth=1, linestyle="--")
        axes.annotate(
            name, (0.995, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="#555555", size=9
        )
    if plot.x_log:
        axes.set_xscale("log")
        ticks = sorted({point[0] for points in plot.lines.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    if plot.y_log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    axes.set_title(plot.title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if legend:
        axes.legend(frameon=False)
