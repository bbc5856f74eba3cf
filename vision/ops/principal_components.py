"""Principal components of vectors, and vectors that keep only the leading ones."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True, eq=False)
class PrincipalComponents:
    """Of a set of vectors, in float64."""

    mean: Float[np.ndarray, " e"]
    axes: Float[np.ndarray, "r e"]
    """Orthonormal rows, by decreasing variance."""
    variances: Float[np.ndarray, " r"]
    """Of the vectors along each axis."""

    def leading(self, vectors: Float[np.ndarray, "b e"], count: int) -> Float[np.ndarray, "b e"]:
        """The nearest vectors that differ from the mean along the first ``count`` axes alone; 0 for the mean."""
        axes = self.axes[:count]
        return self.mean + (vectors - self.mean) @ axes.T @ axes


def principal_components(vectors: Float[np.ndarray, "n e"]) -> PrincipalComponents:
    """By the singular value decomposition of the centred vectors; there are min(n - 1, e) axes.

    Args:
      vectors: at least two.
    """
    exact = np.asarray(vectors, np.float64)
    mean = exact.mean(axis=0)
    _, singular, axes = np.linalg.svd(exact - mean, full_matrices=False)
    rank = min(len(exact) - 1, exact.shape[1])
    return PrincipalComponents(mean=mean, axes=axes[:rank], variances=singular[:rank] ** 2 / (len(exact) - 1))
