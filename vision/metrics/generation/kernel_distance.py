"""The kernel distance between two sets of features: the squared maximum mean discrepancy with a cubic kernel.

In the features of the published Inception network it is KID (Bińkowski et al. 2018, section 4). Unlike the Fréchet
distance, its estimate is unbiased: for two sets from the same distribution it is 0 on average, and sometimes negative.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float

from vision.errors import UserError


@dataclass(frozen=True)
class KernelDistance:
    """Estimates on random subsets."""

    mean: float
    """Their mean, which is the estimate."""
    deviation: float
    """Their standard deviation, with the number of subsets in the denominator."""


def squared_discrepancy(
    one: Float[Array | np.ndarray, "m d"], other: Float[Array | np.ndarray, "n d"], *, block: int = 256
) -> float:
    """The unbiased estimate of MMD^2 from all samples at once, in float64.

    Args:
      one: features, at least 2.
      other: features of another set, at least 2, of the same network.
      block: rows of a kernel matrix at a time, so that memory grows with the number of samples and not its square.

    Raises:
      UserError: a set has fewer than 2 features.
    """
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    _check(x, y, 2)
    m, n = len(x), len(y)
    # Gretton et al. 2012, "A Kernel Two-Sample Test", eq. 3: pairs of a sample with itself are left out
    within_x = (_sum(x, x, block) - _own(x)) / (m * (m - 1))
    within_y = (_sum(y, y, block) - _own(y)) / (n * (n - 1))
    return within_x + within_y - 2 * _sum(x, y, block) / (m * n)


def kernel_distance(
    one: Float[Array | np.ndarray, "m d"],
    other: Float[Array | np.ndarray, "n d"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """The estimate as the field reports it: mean and deviation over random subsets of both sets.

    Args:
      one: features, at least ``subset_size``.
      other: features of another set, at least ``subset_size``, of the same network.
      subsets: how many pairs of subsets.
      subset_size: samples in each, without replacement; at least 2.
      seed: of the choice of subsets.

    Raises:
      UserError: a set has fewer than ``subset_size`` features, or that is less than 2.
    """
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if subsets < 1 or subset_size < 2:
        raise UserError(f"a kernel distance needs subsets of at least 2, got {subsets} subsets of {subset_size}")
    _check(x, y, subset_size)
    draws = random_subsets(len(x), len(y), subsets=subsets, subset_size=subset_size, seed=seed)
    values = [squared_discrepancy(x[rows], y[columns]) for rows, columns in draws]
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def random_subsets(
    m: int, n: int, *, subsets: int, subset_size: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of random subsets of range(m) and of range(n), each without replacement; a function of the arguments.

    Sorts raw numbers, since numpy guarantees the stream of a bit generator forever but that of ``Generator.choice``
    only within a release (NEP 19).
    """
    bits = np.random.Philox(np.random.SeedSequence(seed))
    subset = lambda size: np.argsort(bits.random_raw(size), kind="stable")[:subset_size]
    for _ in range(subsets):
        yield subset(m), subset(n)


def _kernel(products: np.ndarray, size: int) -> np.ndarray:
    # Bińkowski et al. 2018, eq. 5: k(x, y) = (x.y / d + 1)^3
    base = products / size + 1.0
    return base * base * base  # numpy's power takes ten times as long


def _sum(x: np.ndarray, y: np.ndarray, block: int) -> float:
    """The sum of the kernel over all pairs."""
    parts = (_kernel(x[start : start + block] @ y.T, x.shape[1]).sum() for start in range(0, len(x), block))
    return float(sum(parts))


def _own(x: np.ndarray) -> float:
    """The sum of the kernel over pairs of a sample with itself."""
    return float(_kernel(np.square(x).sum(1), x.shape[1]).sum())


def _check(x: np.ndarray, y: np.ndarray, required: int) -> None:
    if (fewest := min(len(x), len(y))) < required:
        raise UserError(
            f"a kernel distance on {required} images of each set was requested, but one has only {fewest}: "
            "generate more, or use smaller subsets"
        )
