"""Count, mean and scatter of features in float64, batch by batch, for distances between Gaussians.

    total = functools.reduce(merge, (moments(features) for features in batches))
    matrix = covariance(total)

Order and partition of the data change the result only by rounding, and the rounding error stays that of one batch,
since sums of squares are always taken around the mean.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Bool, Float

from vision.errors import UserError


@dataclass(frozen=True, eq=False)
class Moments:
    """The first two moments of a set of features."""

    count: int
    """Features in the set."""
    mean: Float[np.ndarray, " d"]
    """Their mean, float64; zeros for an empty set."""
    scatter: Float[np.ndarray, "d d"]
    """Sum of the outer products of deviations from the mean, float64."""


def moments(features: Float[Array | np.ndarray, "n d"], mask: Bool[Array | np.ndarray, " n"] | None = None) -> Moments:
    """The moments of a set, by two passes in float64.

    Args:
      features: float32 or float64.
      mask: False excludes a row, as padding; by default all rows are used.

    Raises:
      UserError: a feature in use is not finite.
    """
    counted = np.asarray(features, np.float64)
    if mask is not None:
        counted = counted[np.asarray(mask)]
    if bad := int(np.sum(~np.isfinite(counted).all(1))):
        raise UserError(f"{bad:,} images have features that are not finite: look for an overflow in the network")
    count, size = counted.shape
    if count == 0:
        return Moments(0, np.zeros(size), np.zeros((size, size)))
    mean = counted.mean(0)
    deviations = counted - mean
    return Moments(count, mean, deviations.T @ deviations)


def merge(one: Moments, other: Moments) -> Moments:
    """The moments of the union of two disjoint sets. Raises ``ValueError`` for features of different sizes."""
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"features of {len(one.mean)} and of {len(other.mean)} dimensions are not of one network")
    count = one.count + other.count
    if count == 0:
        return one
    # Chan, Golub & LeVeque 1983, "Algorithms for Computing the Sample Variance", eq. 2.1b
    apart = other.mean - one.mean
    mean = one.mean + apart * (other.count / count)
    between = np.outer(apart, apart) * (one.count * other.count / count)
    return Moments(count, mean, one.scatter + other.scatter + between)


def covariance(of: Moments) -> Float[np.ndarray, "d d"]:
    """The unbiased covariance, with count - 1 in the denominator. Raises ``UserError`` for fewer than 2 features."""
    if of.count < 2:
        raise UserError(f"a covariance needs at least 2 images, but there are {of.count}")
    return of.scatter / (of.count - 1)
