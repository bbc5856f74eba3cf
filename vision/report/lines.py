"""A plot of a quantity against another, a line for each name, with intervals."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Okabe and Ito (2008), distinguishable with any colour vision
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
_MARKERS = "osD^vPX*"
_DOTS_PER_INCH = 110

Point = tuple[float, float, float]
"""(x, y, half the width of its interval, 0 for none)."""


def line_plot(
    lines: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x: str,
    y: str,
    x_log: bool = False,
    y_log: bool = False,
    levels: Mapping[str, float] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Plot lines.

    Args:
      lines: points of each, in order of x; those that are not finite are left out.
      title: of the plot.
      x: name of the horizontal axis.
      y: name of the vertical axis.
      x_log: whether the horizontal axis is logarithmic, with a tick at each value of x.
      y_log: whether the vertical axis is logarithmic.
      levels: horizontal lines by name, such as a floor.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, NullLocator

    figure = Figure(figsize=(7.0, 4.4), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(lines.items()):
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
    for name, level in (levels or {}).items():
        axes.axhline(level, color="#777777", linewidth=1, linestyle="--")
        axes.annotate(
            name, (0.995, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="#555555", size=9
        )
    if x_log:
        axes.set_xscale("log")
        ticks = sorted({point[0] for points in lines.values() for point in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    if y_log:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return np.asarray(Image.open(written).convert("RGB"))
