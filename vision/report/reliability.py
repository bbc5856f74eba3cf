"""The reliability diagram: accuracy against confidence, with a histogram of confidence."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

_DOTS_PER_INCH = 110
_INK, _PALE, _LINES = "#222222", "#666666", "#999999"
# Blue and vermilion of Okabe and Ito (2008), distinguishable with any colour vision
_ACCURACY, _CONFIDENCE = "#0072b2", "#d55e00"
# Fill and hatching of the gap between accuracy and confidence
_OVERCONFIDENT, _UNDERCONFIDENT = ("#f6cdaf", "#e08a4d"), ("#9fcbe6", "#3b93c6")


@runtime_checkable
class Bins(Protocol):
    """The part of a `vision.metrics.recognition.calibration.Calibration` that is plotted."""

    @property
    def expected_calibration_error(self) -> float:
        """In [0, 1]."""
        ...

    @property
    def counts(self) -> Int[np.ndarray, " m"]:
        """Images in each bin; bin i of m holds confidences in (i / m, (i + 1) / m]."""
        ...

    @property
    def confidence(self) -> Float[np.ndarray, " m"]:
        """Mean confidence in each bin, in [0, 1]; nan in an empty one."""
        ...

    @property
    def accuracy(self) -> Float[np.ndarray, " m"]:
        """Fraction of images in each bin that are right; nan in an empty one."""
        ...


def reliability_diagram(bins: Bins) -> UInt8[np.ndarray, "h w 3"]:
    """Plots the reliability diagram of Guo et al. 2017, figure 1, with a histogram of confidence below.

    Each bar is the accuracy in a bin of confidence; the gap between it and the bin's mean confidence (a black line) is
    shaded: it is the classifier's over- or underconfidence. The bars of a perfectly calibrated classifier end on the
    diagonal. Empty bins have no bar.

    Raises:
        ValueError: there are no images.
    """
    total = int(bins.counts.sum())
    if total == 0:
        raise ValueError("A reliability diagram needs at least one image.")
    # Imported here, since importing matplotlib takes longer than everything else that a short run does before step one.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    number = len(bins.counts)
    left, width = np.arange(number) / number, 1 / number
    used = bins.counts > 0
    accuracy, confidence = np.where(used, bins.accuracy, 0), np.where(used, bins.confidence, 0)
    mean_accuracy = float(np.sum(bins.counts * accuracy) / total)
    mean_confidence = float(np.sum(bins.counts * confidence) / total)

    figure = Figure(figsize=(4.6, 5.6), dpi=_DOTS_PER_INCH, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))

    bar = {"align": "edge", "linewidth": 0.6, "edgecolor": "white"}
    upper.bar(left[used], accuracy[used], width, color=_ACCURACY, label="accuracy", **bar)
    for gaps, colours, label in (
        (used & (confidence > accuracy), _OVERCONFIDENT, "overconfident"),
        (used & (confidence < accuracy), _UNDERCONFIDENT, "underconfident"),
    ):
        if gaps.any():
            shaded = {"align": "edge", "facecolor": colours[0], "edgecolor": colours[1], "hatch": "////"}
            height = (confidence - accuracy)[gaps]
            upper.bar(left[gaps], height, width, bottom=accuracy[gaps], linewidth=0.0, label=label, **shaded)
    upper.hlines(confidence[used], left[used], left[used] + width, color=_INK, linewidth=1.2, label="mean confidence")
    upper.plot([0, 1], [0, 1], "--", color=_LINES, linewidth=1.0, zorder=0.5)
    upper.set_ylim(0, 1.02)
    upper.set_ylabel("accuracy in the bin")
    upper.legend(loc="upper left", frameon=False, fontsize=8, labelcolor=_PALE)
    upper.set_title(
        f"ECE {100 * bins.expected_calibration_error:.2f} % in {number} bins",
        loc="left",
        fontsize=10,
        fontweight="bold",
        color=_INK,
    )

    lower.bar(left, 100 * bins.counts / total, width, color="#b9c7d3", **bar)
    highest = 100 * float(bins.counts.max()) / total
    lower.set_ylim(0, 1.15 * highest)
    for mean, name, colour, style in (
        (mean_accuracy, "accuracy", _ACCURACY, "-"),
        (mean_confidence, "confidence", _CONFIDENCE, "--"),
    ):
        lower.axvline(mean, color=colour, linewidth=1.3, linestyle=style, label=f"mean {name} {100 * mean:.1f} %")
    lower.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 1.32),
        ncols=2,
        frameon=False,
        fontsize=8,
        labelcolor=_PALE,
        handlelength=1.6,
    )
    lower.set_xlabel(f"confidence ({total:,} images)")
    lower.set_ylabel("% of images")
    lower.yaxis.set_major_locator(MaxNLocator(3))

    for axes in (upper, lower):
        axes.set_xlim(0, 1)
        axes.tick_params(labelsize=8, length=2.5, color=_LINES, labelcolor=_PALE)
        axes.xaxis.label.set(size=9, color=_PALE)
        axes.yaxis.label.set(size=9, color=_PALE)
        axes.grid(True, axis="y", color="#e8e8e8", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_LINES)
    lower.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])
