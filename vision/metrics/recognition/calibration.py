"""Calibration of a classifier: calibration error, Brier score, temperature scaling.

The calibration error compares confidence with accuracy in bins of confidence (Naeini et al. 2015, "Obtaining well
calibrated probabilities using Bayesian binning"; Guo et al. 2017, "On calibration of modern neural networks"). The
metrics are sums, as in `vision.metrics.recognition.classification`: counts are exact int32, float sums are float32
within a batch and exact between batches. An image whose confidence lies within float32 rounding (1e-7) of the border of
two bins may fall on either side.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from vision.errors import UserError
from vision.metrics import running_sum

_ROWS_AT_ONCE = 4096  # float64 copies of logits stay small
_LARGEST_LOG_SCALE = 20.0  # a temperature more than a factor of 5e8 away from the scale of the logits is not a minimum


class CalibrationSums(struct.PyTreeNode):
    """Sums in m bins of confidence, without masked images.

    Attributes:
      counts: int32 [m], images whose confidence lies in the bin.
      correct: int32 [m], those of them whose most likely class is the label.
      confidence: `running_sum.RunningSum` [m], their confidences.
      brier: `running_sum.RunningSum` [], squared distances of all images.
      refused: int32 [], images with a logit that is not finite or a label that is no class.
    """

    # Types are not checked, since the fields may also be shapes or shardings.
    counts: Any
    correct: Any
    confidence: running_sum.RunningSum
    brier: running_sum.RunningSum
    refused: Any


@dataclass(frozen=True, eq=False)
class Calibration:
    """The calibration of a classifier, by `compute`."""

    count: int
    """Images evaluated."""
    expected_calibration_error: float
    """Mean over images of their bin's |accuracy - confidence|, in [0, 1]."""
    maximum_calibration_error: float
    """The largest |accuracy - confidence| of any bin that has images, in [0, 1]."""
    brier_score: float
    """Mean squared distance of the probabilities from the label's one-hot vector, in [0, 2]."""
    counts: Int[np.ndarray, " m"]
    """int64, images in each bin; bin i of m holds confidences in (i / m, (i + 1) / m]."""
    confidence: Float[np.ndarray, " m"]
    """Mean confidence in each bin; nan in an empty one."""
    accuracy: Float[np.ndarray, " m"]
    """Fraction of images in each bin that are right; nan in an empty one."""

    def scalars(self) -> dict[str, float]:
        """The numbers for the record."""
        names = ("expected_calibration_error", "maximum_calibration_error", "brier_score")
        return {name: getattr(self, name) for name in names}

    def protocol(self, data: str) -> dict[str, str]:
        """A description of how each scalar was computed; ``data`` describes the images."""
        on = f"on {self.count:,} images of {data}"
        bins = f"in {len(self.counts)} bins of equal width, {on}"
        return {
            "expected_calibration_error": f"mean |accuracy - confidence| {bins}",
            "maximum_calibration_error": f"largest |accuracy - confidence| {bins}",
            "brier_score": f"mean squared distance of the probabilities from the one-hot label, 0 to 2, {on}",
        }


def init(bins: int = 15) -> CalibrationSums:
    """Sums of no images, in bins of equal width; 15 as in Guo et al. 2017. Raises ``UserError`` without bins."""
    if bins < 1:
        raise UserError(f"confidences are sorted into at least 1 bin, not {bins}")
    none = jnp.zeros(bins, jnp.int32)
    return CalibrationSums(none, none, running_sum.zero(bins), running_sum.zero(), jnp.zeros((), jnp.int32))


def update(
    sums: CalibrationSums,
    logits: Float[Array, "b k"],
    labels: Int[Array, " b"],
    mask: Bool[Array, " b"] | None = None,
) -> CalibrationSums:
    """The sums after adding a batch; compiles, and vmaps over replicas.

    Args:
      sums: of any number of bins.
      logits: unnormalised log-probabilities, in any floating type; computed with in float32.
      labels: classes in [0, k).
      mask: False excludes an image, as padding, whatever its logits and label; by default all images are used.
    """
    bins, classes = sums.counts.shape[-1], logits.shape[-1]
    counted = jnp.ones(labels.shape, bool) if mask is None else mask
    usable = jnp.isfinite(logits).all(-1) & (labels >= 0) & (labels < classes)
    valid = counted & usable
    logits = jnp.where(valid[:, None], logits.astype(jnp.float32), 0.0)
    probabilities = jax.nn.softmax(logits)
    labels = jnp.where(valid, labels, 0)
    confidence = jnp.max(probabilities, axis=-1)
    right = jnp.argmax(logits, axis=-1) == labels  # not of the probabilities, which rounding makes equal
    # Guo et al. 2017, section 2: bin i of m holds confidences in ((i - 1) / m, i / m]
    place = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    # Brier 1950: the sum over classes of (p - y)^2
    distance = jnp.sum((probabilities - jax.nn.one_hot(labels, classes)) ** 2, axis=-1)
    into_bins = lambda rows: jnp.zeros(bins, rows.dtype).at[place].add(jnp.where(valid, rows, 0))
    return CalibrationSums(
        counts=sums.counts + into_bins(jnp.ones(labels.shape, jnp.int32)),
        correct=sums.correct + into_bins(right.astype(jnp.int32)),
        confidence=running_sum.plus(sums.confidence, into_bins(confidence)),
        brier=running_sum.plus(sums.brier, jnp.sum(jnp.where(valid, distance, 0.0))),
        refused=sums.refused + jnp.sum(counted & ~usable, dtype=jnp.int32),
    )


def merge(one: CalibrationSums, other: CalibrationSums) -> CalibrationSums:
    """The merged sums of two disjoint sets of images."""
    return CalibrationSums(
        counts=one.counts + other.counts,
        correct=one.correct + other.correct,
        confidence=running_sum.together(one.confidence, other.confidence),
        brier=running_sum.together(one.brier, other.brier),
        refused=one.refused + other.refused,
    )


def compute(sums: CalibrationSums) -> Calibration:
    """Calibration from its sums, in float64 on the host.

    Raises:
      UserError: no image was evaluated, or some had logits that are not finite or labels that are not classes.
    """
    if int(sums.refused):
        raise UserError(
            f"{int(sums.refused):,} images have logits that are not finite or labels that are not classes, so "
            "calibration "
            "cannot be evaluated: look for an overflow in the model, and at its number of classes"
        )
    counts = np.asarray(sums.counts, np.int64)
    count = int(counts.sum())
    if count == 0:
        raise UserError("the classifier was shown no images, so there is no calibration: evaluate at least one image")
    used = counts > 0
    mean = lambda total: np.divide(total, counts, out=np.full(len(counts), np.nan), where=used)
    confidence, accuracy = mean(running_sum.value(sums.confidence)), mean(np.asarray(sums.correct, np.float64))
    gaps = np.abs(accuracy - confidence)[used]
    return Calibration(
        count=count,
        # Guo et al. 2017, equation 3, and equation 5 with the bins' maximum
        expected_calibration_error=float(np.sum(counts[used] / count * gaps)),
        maximum_calibration_error=float(np.max(gaps)),
        brier_score=float(running_sum.value(sums.brier)) / count,
        counts=counts,
        confidence=confidence,
        accuracy=accuracy,
    )


def fit_temperature(logits: Float[Array | np.ndarray, "n k"], labels: Int[Array | np.ndarray, " n"]) -> float:
    """The temperature T > 0 for which softmax(logits / T) has the least cross-entropy (Guo et al. 2017, section 4.2).

    The cross-entropy is convex in the scale 1 / T, so the temperature is where its derivative changes sign, which is
    computed to about ten digits in float64 on the host. Fit it on held-out images, not on those of the evaluation; it
    changes no predictions, only confidences.

    Args:
      logits: finite.
      labels: classes in [0, k).

    Raises:
      UserError: there are no images, a logit is not finite, a label is not a class, or no finite temperature is best:
        every image is right (the best T is 0), or the logits say nothing about the labels (it is infinite).
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if len(labels) == 0:
        raise UserError("a temperature needs images to be fitted on; there are none")
    if not np.isfinite(logits).all() or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UserError(
            "a temperature cannot be fitted to logits that are not finite or to labels that are not classes"
        )
    slope = _slope_in_scale(logits, labels)
    # The search variable is log(1 / T), around the scale at which the largest logit is 1
    size = math.log(max(float(np.abs(logits.astype(np.float32)).max()), 1e-30))
    low, high = (sign * _LARGEST_LOG_SCALE - size for sign in (-1, 1))
    if slope(math.exp(low)) >= 0:
        raise UserError(
            "the logits say nothing about the labels, so the hotter the better and no temperature is best: look "
            "whether logits and labels belong together"
        )
    if slope(math.exp(high)) <= 0:
        raise UserError(
            f"all {len(labels):,} images are classified right, so the colder the better and no temperature is best: "
            "fit it on held-out images, and on more of them"
        )
    from scipy.optimize import brentq  # takes half of a second to import, which no start should wait for

    root = brentq(lambda log_scale: slope(math.exp(log_scale)), low, high, xtol=1e-10)
    return math.exp(-float(root))  # pyright: ignore[reportArgumentType]


def _slope_in_scale(logits: np.ndarray, labels: np.ndarray) -> Callable[[float], float]:
    """The derivative of the mean cross-entropy of softmax(scale * logits) by the scale: E_p[z] - z_label."""

    def slope(scale: float) -> float:
        total = 0.0
        for start in range(0, len(labels), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            # Relative to the label's own logit, so that z_label is 0
            z = logits[rows].astype(np.float64)
            z -= np.take_along_axis(z, labels[rows, None], axis=1)
            weights = np.exp(scale * (z - z.max(1, keepdims=True)))
            total += float(np.sum((weights * z).sum(1) / weights.sum(1)))
        return total / len(labels)

    return slope
