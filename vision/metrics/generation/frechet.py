"""The Fréchet distance between two sets of features, each modelled as a Gaussian (Heusel et al. 2017, eq. 6).

In the features of the published Inception network it is FID; in other features it has a different name.
"""

import numpy as np
from jaxtyping import Float

from vision.metrics.generation.moments import Moments, covariance


def frechet_distance(one: Moments, other: Moments) -> float:
    """The squared Fréchet (Wasserstein-2) distance of two Gaussians, as the field reports it; 0 or more.

    The public packages take the trace of ``scipy.linalg.sqrtm(S1 @ S2)``, whose argument is not symmetric: if a
    covariance does not have full rank, the root does not exist or is complex, and they drop the imaginary part or add
    to the diagonal. Here both roots are symmetric and always exist, also for singular covariances. Otherwise both agree
    to nine digits.

    Args:
      one: moments of a set of features, at least 2 of them.
      other: those of another set, of the same network.

    Raises:
      UserError: a set has fewer than 2 features.
      ValueError: the features have different sizes.
    """
    if one.mean.shape != other.mean.shape:
        raise ValueError(f"features of {len(one.mean)} and of {len(other.mean)} dimensions are not of one network")
    first, second = covariance(one), covariance(other)
    # Tr (S1 S2)^(1/2) = Tr (S1^(1/2) S2 S1^(1/2))^(1/2): the sum of the singular values of S1^(1/2) S2^(1/2)
    overlap = np.linalg.svd(_root(first) @ _root(second), compute_uv=False).sum()
    # Heusel et al. 2017, eq. 6: |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2))
    squared = np.sum(np.square(one.mean - other.mean)) + np.trace(first) + np.trace(second) - 2 * overlap
    return max(float(squared), 0.0)


def _root(matrix: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    # Rounding errors of eigenvalues of 0 are this large; their roots, 1e-8 of the largest each, would add up
    rounding = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return (vectors * np.sqrt(np.where(values > rounding, values, 0.0))) @ vectors.T
