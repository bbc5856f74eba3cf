"""Plots of all logged scalars over the number of images seen, as small multiples in one image."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from vision.atomic import write_atomically
from vision.units import count

_NOT_SCALARS = ("step", "images", "time")
_PHASES = ("train", "eval", "val", "test")
# Blue, orange, green, vermilion, sky and purple of Okabe and Ito (2008), distinguishable with any colour vision.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00")
_PLOTTED_POINTS = 1200  # about two per pixel of a panel
_FEW_POINTS = 20  # up to this number every point is marked and nothing is smoothed
_PANEL_INCHES = (4.3, 2.55)
_DOTS_PER_INCH = 110


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot: a quantity and the scalars that measure it."""

    title: str
    """The quantity, such as ``loss``."""
    names: tuple[str, ...]
    """The scalars as they were logged, such as ``train/loss`` and ``eval/loss``."""


def panels(names: Iterable[str]) -> list[Panel]:
    """Groups scalars into plots: the same quantity in training and evaluation shares one.

    ``train/``, ``eval/``, ``val/`` and ``test/`` are phases; names that differ only in the phase share a panel. Losses
    come first, then other quantities in the order they first appear, those with an evaluation before those without, and
    finally properties of the run: learning rate, gradient norm, speeds.

    ``NAME[GROUP]`` is the same quantity for a group of runs and shares the panel of NAME. ``NAME_ci95`` has no panel:
    it is half the width of an interval around NAME, plotted there as a band. The seconds spent in each activity, which
    are shown in a table, and the parts of a measurement, such as ``eval/class_accuracy/cat``, have no panel either.
    """
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        if not (_is_half_width(name) or _is_activity(name) or _is_part(name)):
            groups.setdefault(_quantity(name), []).append(name)

    def rank(quantity: str) -> int:
        if _is_timing(quantity):
            return 5
        if _is_gradient_norm(quantity):
            return 4
        if _is_learning_rate(quantity):
            return 3
        if quantity == "loss":
            return 0
        return 1 if any(_phase(name) not in ("train", "") for name in groups[quantity]) else 2

    def by_phase(name: str) -> int:
        return _PHASES.index(_phase(name)) if _phase(name) else len(_PHASES)

    return [
        Panel(title=quantity.replace("_", " "), names=tuple(sorted(groups[quantity], key=by_phase)))
        for quantity in sorted(groups, key=rank)
    ]


def log_scaled(quantity: str, values: Float[np.ndarray, "n"]) -> bool:
    """Whether a quantity is easier to read on a logarithmic axis.

    True for learning rates and gradient norms that span more than one decade and losses that span more than one and a
    half; false for negative values and all other quantities. Zeros (a schedule's ends) are ignored for learning rates
    only.
    """
    finite = values[np.isfinite(values)]
    if _is_learning_rate(quantity):
        finite = finite[finite != 0]
        decades = 1.0
    elif _is_gradient_norm(quantity):
        decades = 1.0
    elif "loss" in quantity:
        decades = 1.5
    else:
        return False
    if finite.size == 0 or finite.min() <= 0:
        return False
    return math.log10(finite.max() / finite.min()) > decades


def series(metrics: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """One scalar's values over the images seen, as an uninterrupted run would have logged them.

    Where the number of images decreases, a run was resumed from an earlier checkpoint: its new values replace the
    earlier ones from there on.

    Returns:
        float64 [n] strictly increasing images, and float64 [n] values, finite or not.
    """
    kept: list[tuple[float, float]] = []
    for record in metrics:
        if name in record:
            images = float(record["images"])
            while kept and kept[-1][0] >= images:
                kept.pop()
            kept.append((images, float(record[name])))
    points = np.array(kept, np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def smoothed(images: Float[np.ndarray, "n"], values: Float[np.ndarray, "n"], scale: float) -> Float[np.ndarray, "n"]:
    """Averages each value with its neighbours on both sides, weighted by exp(-distance / scale).

    ``s_i = sum_j w_ij y_j / sum_j w_ij`` with ``w_ij = exp(-|x_i - x_j| / scale)`` (Nadaraya, 1964, with a
    Laplace kernel). An exponential moving average would use only earlier values and show a falling loss too high.
    Values that are not finite have no weight and are kept.

    Args:
        images: strictly increasing.
        values: finite or not.
        scale: images, positive.
    """
    result = np.array(values, np.float64)
    finite = np.flatnonzero(np.isfinite(result))
    x, y = np.asarray(images, np.float64)[finite], result[finite]
    decays = np.exp(-np.diff(x) / scale)
    # The sums over the points before and after each one are first-order recurrences, linear in time.
    totals, weights = y.copy(), np.ones_like(y)
    for order, steps in ((range(len(y)), decays), (range(len(y) - 1, -1, -1), decays[::-1])):
        total = weight = 0.0
        for i, decay in zip(order, [0.0, *steps], strict=False):
            total, weight = decay * total, decay * weight
            totals[i] += total
            weights[i] += weight
            total, weight = total + y[i], weight + 1.0
    result[finite] = totals / weights
    return result


def save_curves(path: str | Path, metrics: Sequence[Mapping[str, Any]], *, smooth: float = 0.01) -> None:
    """Plots every scalar of a run over the images seen into a PNG, written atomically.

    Each quantity has a panel (see `panels`). Long training series are plotted faintly as measured and strongly as
    `smoothed`, evaluations as measured, short series with every point marked. Values that are not finite leave a gap
    and a mark at the upper edge.

    Args:
        path: the PNG to write.
        metrics: the records of a run in the order they were written, each with ``images`` and scalars.
        smooth: the scale of smoothing as a fraction of the images seen; 0 disables it.

    Raises:
        ValueError: when ``smooth`` is negative.
        OSError: when the file cannot be written; an existing file is then unchanged.
    """
    if smooth < 0:
        raise ValueError(f"The scale of smoothing cannot be negative, but is {smooth}.")
    # Imported here, since importing matplotlib takes longer than everything else that a short run does before step one.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = panels(name for record in metrics for name in record if name not in _NOT_SCALARS)
    columns = min(3, max(1, len(shown))) if len(shown) != 4 else 2
    rows = max(1, -(-len(shown) // columns))
    size = (columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + 0.25)
    figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    if not shown:
        figure.text(0.5, 0.5, "No scalars have been logged yet.", ha="center", va="center", color="#555555")
    last_images = max((float(record["images"]) for record in metrics), default=0.0)
    for k, panel in enumerate(shown):
        axes = figure.add_subplot(rows, columns, k + 1)
        _plot_panel(axes, panel, metrics, smooth * last_images, last_images)
        if k + columns >= len(shown):
            axes.set_xlabel("images seen")
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    encoded = io.BytesIO()
    # Few colours are used: a palette halves the file without a visible difference.
    Image.fromarray(pixels).quantize(256, kmeans=1, dither=Image.Dither.NONE).save(encoded, "PNG", optimize=True)
    write_atomically(path, encoded.getvalue())


def _plot_panel(
    axes: Any, panel: Panel, metrics: Sequence[Mapping[str, Any]], scale: float, last_images: float
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    first = panel.names[0]
    quantity = _quantity(first)
    everything = []
    for name, colour in zip(panel.names, _cycled(len(panel.names)), strict=True):
        images, values = series(metrics, name)
        everything.append(values)
        label = " ".join(filter(None, (_phase(name), _group(name)))) or name
        _plot_band(axes, metrics, name, images, values, colour)
        if len(images) <= _FEW_POINTS:
            axes.plot(images, _finite(values), "o-", color=colour, markersize=3.5, linewidth=1.4, label=label)
        else:
            # A schedule has no noise, and an evaluation is reported as measured.
            noisy = scale > 0 and _phase(name) in ("train", "") and not _is_learning_rate(quantity)
            line = smoothed(images, values, scale) if noisy else values
            if noisy:
                axes.plot(*_thinned(images, _finite(values)), color=colour, linewidth=0.7, alpha=0.28)
            axes.plot(*_thinned(images, _finite(line)), color=colour, linewidth=1.5, label=label)
        lost = images[~np.isfinite(values)]
        if lost.size:
            # x in images, y as a fraction of the panel's height.
            place = axes.get_xaxis_transform()
            axes.plot(lost, np.full_like(lost, 0.985), "v", color="#b00020", markersize=4, transform=place)
            axes.text(lost[0], 0.93, " not finite", color="#b00020", fontsize=7, va="top", transform=place)

    axes.margins(y=0.08)
    values = np.concatenate(everything)
    values = values[np.isfinite(values)]
    if log_scaled(quantity, values):
        axes.set_yscale("log", nonpositive="mask")
        if _is_learning_rate(quantity):
            # The end of a decay to zero would fill the panel.
            lowest = max(values[values > 0].min(), 1e-4 * values.max())
            axes.set_ylim(lowest / 1.5, values.max() * 1.5)
        low, high = axes.get_ylim()
        steps = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0)
        axes.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _tick(y)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.ticklabel_format(axis="y", useOffset=False, style="plain")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _tick(y)))
    axes.set_xlim(0, 1.012 * last_images or 1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _tick(x)))
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", color="#222222")
    if unit := _unit(quantity):
        axes.set_ylabel(unit)
    axes.tick_params(labelsize=8, length=2.5, color="#999999", labelcolor="#444444", which="both")
    axes.xaxis.label.set(size=8.5, color="#444444")
    axes.yaxis.label.set(size=8.5, color="#444444")
    axes.grid(True, color="#e8e8e8", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    if len(panel.names) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor="#444444", handlelength=1.4, borderaxespad=0.2)
    elif _phase(first) not in ("", "train"):
        axes.set_title(_phase(first), loc="right", fontsize=8, color="#777777")


def _plot_band(
    axes: Any,
    metrics: Sequence[Mapping[str, Any]],
    name: str,
    images: Float[np.ndarray, "n"],
    values: Float[np.ndarray, "n"],
    colour: str,
) -> None:
    """Plots the interval around a mean over runs, if one was logged."""
    base, bracket, rest = name.partition("[")
    places, widths = series(metrics, f"{base}_ci95{bracket}{rest}")
    if len(places):
        around = values[np.isin(images, places)]
        widths = widths[np.isin(places, images)]
        places = places[np.isin(places, images)]
        axes.fill_between(
            places, _finite(around - widths), _finite(around + widths), color=colour, alpha=0.18, linewidth=0
        )


def _tick(number: float) -> str:
    if abs(number) >= 1000:
        text = count(number)
        digits = text.rstrip("kMGT")
        return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + text[len(digits) :]
    return f"{number:.4g}".replace("e-0", "e-")


def _cycled(n: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(n)]


def _finite(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.where(np.isfinite(values), values, np.nan)


def _thinned(
    x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
    """The lowest and the highest value of each of equally long stretches, so that no spike disappears."""
    stretches = _PLOTTED_POINTS // 2
    if len(x) <= _PLOTTED_POINTS:
        return x, y
    kept: list[int] = []
    for piece in np.array_split(np.arange(len(x)), stretches):
        # A value that is not finite is kept as a gap.
        part = y[piece]
        gaps = np.flatnonzero(np.isnan(part))
        chosen = {int(gaps[0])} if gaps.size else {int(part.argmin()), int(part.argmax())}
        kept += [int(piece[i]) for i in sorted(chosen)]
    return x[kept], y[kept]


def _phase(name: str) -> str:
    head, slash, _ = name.partition("/")
    return head if slash and head in _PHASES else ""


def _quantity(name: str) -> str:
    name = name.partition("[")[0]
    return name[len(_phase(name)) + 1 :] if _phase(name) else name


def _group(name: str) -> str:
    return name.partition("[")[2].removesuffix("]")


def _is_half_width(name: str) -> bool:
    return name.partition("[")[0].endswith("_ci95")


def _is_part(name: str) -> bool:
    return bool(_phase(name)) and "/" in _quantity(name)


def _is_activity(name: str) -> bool:
    return name.startswith("time/") and name.endswith("_seconds")


def _is_learning_rate(quantity: str) -> bool:
    return quantity.rpartition("/")[2] in ("learning_rate", "lr") or quantity.endswith("_learning_rate")


def _is_gradient_norm(quantity: str) -> bool:
    return any(part in quantity for part in ("gradient_norm", "grad_norm"))


def _is_timing(quantity: str) -> bool:
    return quantity.endswith(("_per_second", "_seconds", "_milliseconds", "_ms", "utilisation"))


def _unit(quantity: str) -> str:
    if quantity.endswith("_per_second"):
        return quantity.removesuffix("_per_second").rpartition("/")[2].replace("_", " ") + "/s"
    for suffix, unit in (("_milliseconds", "ms"), ("_ms", "ms"), ("_seconds", "s"), ("psnr", "dB")):
        if quantity.endswith(suffix):
            return unit
    return ""
