"""How far two sets of features cover each other: precision and recall, density and coverage.

Each set is represented by balls around its points that reach to their k-th nearest neighbours. Precision is the share
of generated points in a ball of a real one, recall the share of real points in a ball of a generated one (Kynkäänniemi
et al. 2019, eqs. 1 and 2, with k = 3). An outlier has a large ball; density counts the balls of real points that a
generated point is in, and coverage the share of real balls that have a generated point (Naeem et al. 2020, eqs. 4 and
5, with k = 5).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float

from vision.errors import UserError

_BLOCK = 256


@dataclass(frozen=True)
class ManifoldOverlap:
    """Four numbers, to be compared with those of two sets of real images."""

    precision: float
    """In [0, 1]: the share of generated images that look real."""
    recall: float
    """In [0, 1]: the share of real images that the generator covers."""
    density: float
    """0 or more, 1 expected for real images: how real generated images look, outliers of the real set weighing less."""
    coverage: float
    """In [0, 1]: the share of real images with a generated one nearby."""


def manifold_overlap(
    real: Float[Array | np.ndarray, "n d"], generated: Float[Array | np.ndarray, "m d"], *, neighbours: int = 5
) -> ManifoldOverlap:
    """Precision, recall, density and coverage of generated features, in float64.

    Distances are computed in blocks, so that memory grows with the number of samples and not its square. A point on the
    border of a ball, up to rounding, is inside, as Kynkäänniemi et al. have it.

    Args:
      real: features of real images, more than ``neighbours``.
      generated: features of generated images, more than ``neighbours``, of the same network.
      neighbours: k, the neighbour that a ball reaches to, a point not being its own neighbour.

    Raises:
      UserError: a set has no more than ``neighbours`` features.
    """
    x, y = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if neighbours < 1 or min(len(x), len(y)) <= neighbours:
        raise UserError(
            f"balls to neighbour {neighbours} need more than {max(neighbours, 1)} images of each set, "
            f"but there are {len(x)} and {len(y)}"
        )
    # Distances do not depend on the centre, and rounding errors are smallest around the data's mean
    centre = x.mean(0)
    x, y = x - centre, y - centre
    # The rounding error of |x|^2 - 2 x.y + |y|^2 for equal points: without it, balls of radius 0 would be empty
    slack = 1e-13 * x.shape[1] ** 0.5 * max(np.square(x).sum(1).max(), np.square(y).sum(1).max())
    x_radius, y_radius = (_squared_radii(points, neighbours) + slack for points in (x, y))
    precise, balls = np.zeros(len(y), bool), 0
    recalled, covered = [], []
    for rows, squares in _blocks(x, y):
        in_real = squares <= x_radius[rows, None]
        precise |= in_real.any(0)
        balls += int(in_real.sum())
        covered.append(in_real.any(1))
        recalled.append((squares <= y_radius).any(1))
    return ManifoldOverlap(
        precision=float(precise.mean()),
        recall=float(np.concatenate(recalled).mean()),
        density=balls / (neighbours * len(y)),
        coverage=float(np.concatenate(covered).mean()),
    )


def _squared_radii(points: Float[np.ndarray, "n d"], neighbours: int) -> Float[np.ndarray, " n"]:
    """The squared distance of each point to its k-th nearest other point."""
    radii = []
    for rows, squares in _blocks(points, points):
        index = np.arange(len(squares))
        squares[index, index + rows.start] = np.inf
        radii.append(np.partition(squares, neighbours - 1, axis=1)[:, neighbours - 1])
    return np.concatenate(radii)


def _blocks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, Float[np.ndarray, "b m"]]]:
    """Squared distances of all pairs, some rows of ``x`` at a time."""
    lengths = np.square(y).sum(1)
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        part = x[rows]
        yield rows, np.maximum(np.square(part).sum(1)[:, None] - 2 * part @ y.T + lengths, 0.0)
