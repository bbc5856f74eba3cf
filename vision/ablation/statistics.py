"""Statistics of a mean and of a difference over a few seeds: Student's intervals, paired tests, Holm's correction.

Both intervals assume that the seeds are independent and their values (or differences) approximately normal, which
cannot be checked with three seeds; the interval then mainly shows the uncertainty.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_ROUNDING = 1e-12  # relative to the values: a smaller deviation is due to float64 rounding, not to the seeds


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric over the seeds of a point."""

    n: int
    """Seeds."""
    mean: float
    sd: float | None
    """Standard deviation with n - 1; None where n = 1 or a value is not finite."""
    interval: tuple[float, float] | None
    """Student's t interval of the mean; None where n = 1, the seeds do not differ, or a value is not finite."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of a point minus that of the baseline, over the seeds that both have."""

    n: int
    """Pairs."""
    mean: float
    sd: float | None
    """Standard deviation of the differences with n - 1; None where n = 1 or a difference is not finite."""
    interval: tuple[float, float] | None
    """Student's t interval of the mean; None where n = 1, all differences are equal, or one is not finite."""
    p: float | None
    """Two-sided p-value of the paired t-test of "no difference"; None where there is no interval."""

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and 0 lies outside it."""
        return self.interval is not None and not self.interval[0] <= 0.0 <= self.interval[1]


def summary(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and t interval of at least one value.

    ``mean ± t_{n-1, 0.975} * sd / sqrt(n)``. A value that is not finite makes the mean not finite and the deviation
    undefined.
    """
    if not values:
        raise ValueError("a summary of no values")
    mean, sd = _moments(values)
    return Summary(n=len(values), mean=mean, sd=sd, interval=_interval(mean, sd, values))


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The difference of two points over the seeds that both have; None where there is no such seed.

    Pairing by seed removes the common effects of a seed: equal initialisation, order and evaluation noise. The test is
    the paired t-test (Student, 1908): ``t = mean / (sd / sqrt(n))`` of the differences, n - 1 degrees of freedom.

    Args:
      values: the metric by seed.
      baseline: the baseline's, by seed.
    """
    pairs = [(values[seed], baseline[seed]) for seed in sorted(values.keys() & baseline.keys())]
    if not pairs:
        return None
    differences = [left - right for left, right in pairs]
    mean, sd = _moments(differences)
    # the magnitude of the values, not of their differences, determines the rounding error
    interval = _interval(mean, sd, [value for pair in pairs for value in pair], n=len(pairs))
    p = None
    if interval is not None and sd:
        from scipy.stats import t

        p = float(2.0 * t.sf(abs(mean) / (sd / math.sqrt(len(pairs))), len(pairs) - 1))
    return Difference(n=len(pairs), mean=mean, sd=sd, interval=interval, p=p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment (Holm, 1979).

    The i-th smallest of m, counted from 0, becomes the largest of ``min(1, (m - j) p_(j))`` over j <= i.

    Rejecting where the adjusted value is below alpha keeps the chance of any false rejection below alpha, whatever the
    dependence. Entries without a test (None) are kept and not counted.
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = largest
    return adjusted


def _moments(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation with n - 1; the deviation is None for one value or values that are not finite."""
    array = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf
        mean = float(array.mean())
    if len(array) < 2 or not np.isfinite(array).all():
        return mean, None
    return mean, float(array.std(ddof=1))


def _interval(
    mean: float, sd: float | None, values: Sequence[float], n: int | None = None
) -> tuple[float, float] | None:
    if sd is None or sd <= _ROUNDING * max(map(abs, values)):
        return None
    from scipy.stats import t  # takes a second to import

    n = len(values) if n is None else n
    half = float(t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * sd / math.sqrt(n)
    return mean - half, mean + half
