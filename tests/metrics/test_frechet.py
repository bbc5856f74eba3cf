"""The Fréchet distance against pytorch-fid, closed forms, and singular covariances.

The golden values are made by make_distances_golden.py.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy import linalg
from seeded_features import CASES, features, pair

from vision.errors import UserError
from vision.metrics.generation.frechet import frechet_distance
from vision.metrics.generation.moments import Moments, moments

GOLDEN = Path(__file__).parents[1] / "golden" / "distances.npz"


def _gaussian(mean, matrix, count=1000):
    """Moments whose covariance is ``matrix``."""
    return Moments(count, np.array(mean, float), np.array(matrix, float) * (count - 1))


@pytest.mark.parametrize("name", CASES)
def test_is_pytorch_fids(name):
    golden = float(np.load(GOLDEN)[f"frechet_{name}"])
    one, other = pair(name)
    np.testing.assert_allclose(frechet_distance(moments(one), moments(other)), golden, rtol=1e-9)


def test_one_dimension():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    found = frechet_distance(_gaussian([1.0], [[9.0]]), _gaussian([3.0], [[0.25]]))
    np.testing.assert_allclose(found, 4.0 + 2.5**2, rtol=1e-13)


def test_diagonal_covariances():
    generator = np.random.default_rng(0)
    (a, b), (s, t) = generator.normal(size=(2, 6)), generator.uniform(0, 3, size=(2, 6))
    found = frechet_distance(_gaussian(a, np.diag(s**2)), _gaussian(b, np.diag(t**2)))
    np.testing.assert_allclose(found, np.sum((a - b) ** 2) + np.sum((s - t) ** 2), rtol=1e-12)


def test_rotation_changes_nothing_and_order_neither():
    generator = np.random.default_rng(1)
    one, other = features(3, 90, 8), features(4, 80, 8)
    turn = linalg.qr(generator.normal(size=(8, 8)))[0]
    plain = frechet_distance(moments(one), moments(other))
    np.testing.assert_allclose(frechet_distance(moments(one @ turn), moments(other @ turn)), plain, rtol=1e-10)
    np.testing.assert_allclose(frechet_distance(moments(other), moments(one)), plain, rtol=1e-10)


@pytest.mark.parametrize("size", [5, 40])
def test_singular_covariances(size):
    """Fewer samples than dimensions: the distance in the space that the samples span, where nothing is singular.

    The samples lie in a space of three dimensions, turned into ``size``; scipy's root of the product need not exist.
    """
    generator = np.random.default_rng(2)
    one, other = generator.normal(size=(50, 3)), 2 * generator.normal(size=(60, 3)) + 1
    turn = linalg.qr(generator.normal(size=(size, size)))[0][:3]
    inside = frechet_distance(moments(one), moments(other))
    root = linalg.sqrtm(np.cov(one.T) @ np.cov(other.T))
    direct = np.sum((one.mean(0) - other.mean(0)) ** 2) + np.trace(np.cov(one.T) + np.cov(other.T) - 2 * root.real)
    np.testing.assert_allclose(inside, direct, rtol=1e-10)
    np.testing.assert_allclose(frechet_distance(moments(one @ turn), moments(other @ turn)), inside, rtol=1e-10)


def test_spaces_without_overlap():
    """Covariances of rank 1 at right angles: the product is 0, and the distance the sum of the variances."""
    one, other = _gaussian([0, 0], [[4.0, 0], [0, 0]]), _gaussian([0, 0], [[0, 0], [0, 9.0]])
    np.testing.assert_allclose(frechet_distance(one, other), 13.0, rtol=1e-13)


def test_equal_sets():
    """Zero up to rounding, and never less; all images alike too."""
    one = moments(pair("wide")[0])
    assert 0 <= frechet_distance(one, one) < 1e-12 * np.trace(one.scatter)
    alike = moments(np.ones((4, 3)))
    assert frechet_distance(alike, alike) == 0


def test_refuses():
    with pytest.raises(UserError, match="at least 2 images"):
        frechet_distance(moments(np.zeros((1, 2))), moments(np.zeros((3, 2))))
    with pytest.raises(ValueError, match="of 2 and of 3 dimensions"):
        frechet_distance(moments(np.zeros((3, 2))), moments(np.zeros((3, 3))))
