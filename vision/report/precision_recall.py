"""Plots of a detector: precision against recall per class, and precision, recall and F1 against confidence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

_DOTS_PER_INCH = 110
_INK, _PALE, _LINES = "#222222", "#666666", "#999999"
_BLUE, _ORANGE, _GREEN = "#0072b2", "#d55e00", "#009e73"
# Okabe and Ito (2008) without yellow, which is invisible on white
_PALETTE = (_BLUE, "#e69f00", _GREEN, _ORANGE, "#56b4e9", "#cc79a7")
_STYLES = ("-", "--")
_MAX_NAMED = len(_PALETTE) * len(_STYLES)
_LONGEST_NAME = 24  # letters


def precision_recall_plot(
    precision: Float[np.ndarray, "k r"],
    recalls: Float[np.ndarray, " r"],
    ap50: Float[np.ndarray, " k"],
    class_names: Sequence[str],
) -> UInt8[np.ndarray, "h w 3"]:
    """Plots precision against recall at an IoU of 0.5, for each class that has boxes and their mean.

    Up to 12 classes have individual colours and line styles and are in the legend, by decreasing AP50. If there are
    more, all are thin and grey, and only the mean is in the legend.

    Args:
        precision: of each class at each recall, in [0, 1]; nan for a class without boxes.
        recalls: in [0, 1].
        ap50: of each class, in [0, 1]; nan for one without boxes.
        class_names: one for each class.

    Raises:
        ValueError: no class has boxes, or the number of names differs from that of classes.
    """
    some = np.flatnonzero(~np.isnan(ap50))
    if not some.size or len(class_names) != len(ap50):
        raise ValueError(f"{len(class_names)} names for {len(ap50)} classes, {some.size} of them with boxes.")
    canvas, axes = _axes()
    named = len(some) <= _MAX_NAMED
    for number, label in enumerate(some[np.argsort(-ap50[some], kind="stable")].tolist()):
        style: dict[str, Any] = {"color": "#bbbbbb", "linewidth": 0.7}
        if named:
            # by class, so that the boxes of the first six have the same colours (boxes.class_colours); else by rank
            line, colour = divmod(label if len(ap50) <= _MAX_NAMED else number, len(_PALETTE))
            text = f"{100 * ap50[label]:.1f} {_shortened(str(class_names[label]))}"
            style = {"color": _PALETTE[colour], "linestyle": _STYLES[line], "linewidth": 1.6, "label": text}
        axes.plot(recalls, precision[label], **style)
    mean = f"{100 * ap50[some].mean():.1f} mean of {len(some)} classes"
    if len(some) > 1:
        axes.plot(recalls, precision[some].mean(0), color=_INK, linewidth=2.4, label=mean)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    title = f"AP50 {100 * ap50[some].mean():.1f} %: precision and recall at IoU 0.5"
    legend = _with_title(axes, title, loc="lower left")
    legend.set_title("AP50 in %", prop={"size": 8})
    legend.get_title().set_color(_PALE)
    return _pixels(canvas)


def confidence_plot(
    confidences: Float[np.ndarray, " t"],
    precision: Float[np.ndarray, " t"],
    recall: Float[np.ndarray, " t"],
    f1: Float[np.ndarray, " t"],
    *,
    best: int,
) -> UInt8[np.ndarray, "h w 3"]:
    """Plots precision, recall and F1 of the detections at or above each confidence, and marks the best F1.

    Args:
        confidences: rising, in [0, 1].
        precision: in [0, 1]; nan where there are no detections.
        recall: in [0, 1].
        f1: in [0, 1].
        best: the index that is marked.

    Raises:
        ValueError: ``best`` is not an index of ``confidences``.
    """
    if not 0 <= best < len(confidences):
        raise ValueError(f"Index {best} is out of range for {len(confidences)} confidences.")
    canvas, axes = _axes()
    for values, name, colour, style in (
        (precision, "precision", _BLUE, "-"),
        (recall, "recall", _ORANGE, "--"),
        (f1, "F1", _INK, "-"),
    ):
        label = f"{name} {values[best]:.3f}"
        axes.plot(confidences, values, style, color=colour, linewidth=2.2 if name == "F1" else 1.5, label=label)
    axes.axvline(confidences[best], color=_LINES, linewidth=1.0, linestyle=":")
    axes.plot(confidences[best], f1[best], "o", color=_INK, markersize=6)
    axes.set_xlabel("confidence from which detections count")
    axes.set_ylabel("mean over classes, IoU 0.5")
    legend = _with_title(axes, f"best F1 {f1[best]:.3f}, at confidence {confidences[best]:.3f}", loc="lower center")
    legend.set_title("at the mark", prop={"size": 8})
    legend.get_title().set_color(_PALE)
    return _pixels(canvas)


def _axes() -> tuple[Any, Any]:
    """(canvas, axes) with both axes from 0 to 1."""
    # Imported here, since importing matplotlib takes longer than everything else that a short run does before step one.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 4.4), dpi=_DOTS_PER_INCH, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlim(-0.005, 1.005)
    axes.set_ylim(-0.005, 1.02)
    axes.tick_params(labelsize=8, length=2.5, color=_LINES, labelcolor=_PALE)
    axes.xaxis.label.set(size=9, color=_PALE)
    axes.yaxis.label.set(size=9, color=_PALE)
    axes.grid(True, color="#e8e8e8", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINES)
    return canvas, axes


def _with_title(axes: Any, title: str, *, loc: str) -> Any:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
    legend = axes.legend(loc=loc, fontsize=8, labelcolor=_PALE, framealpha=0.85, edgecolor="none", alignment="left")
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may contain a dollar sign
    return legend


def _pixels(canvas: Any) -> UInt8[np.ndarray, "h w 3"]:
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1].rstrip() + "…"
