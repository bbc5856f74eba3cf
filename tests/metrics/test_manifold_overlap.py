"""Precision, recall, density and coverage against prdc, loops and sets whose overlap is known.

The golden values are made by make_distances_golden.py.
"""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from seeded_features import CASES, features, pair

from vision.errors import UserError
from vision.metrics.generation import manifold_overlap as module
from vision.metrics.generation.manifold_overlap import manifold_overlap

GOLDEN = Path(__file__).parents[1] / "golden" / "distances.npz"


@pytest.mark.parametrize("name", CASES)
def test_is_prdcs(name):
    golden = np.load(GOLDEN)[f"overlap_{name}"]
    np.testing.assert_allclose(astuple(manifold_overlap(*pair(name), neighbours=5)), golden, rtol=1e-12)


@pytest.mark.parametrize("block", [4, 7, 256])
def test_by_definition(block, monkeypatch):
    """Kynkäänniemi et al. 2019, eqs. 1 and 2, and Naeem et al. 2020, eqs. 4 and 5, by loops."""
    monkeypatch.setattr(module, "_BLOCK", block)
    x, y, k = features(1, 25, 3), features(2, 19, 3), 3
    radius = lambda points, i: np.sort(np.linalg.norm(points - points[i], axis=1))[k]
    inside = lambda points, i, other: np.linalg.norm(points[i] - other) <= radius(points, i)
    balls = np.array([[inside(x, i, b) for b in y] for i in range(25)])
    others = np.array([[inside(y, j, a) for a in x] for j in range(19)])
    found = manifold_overlap(x, y, neighbours=k)
    assert found.precision == pytest.approx(balls.any(0).mean())
    assert found.recall == pytest.approx(others.any(0).mean())
    assert found.density == pytest.approx(balls.sum() / (k * 19))
    assert found.coverage == pytest.approx(balls.any(1).mean())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("duplicates", [1, 6])
def test_equal_sets_cover_each_other(scale, duplicates):
    """Far from zero too, and where balls have the radius 0."""
    points = np.repeat(scale * (features(1, 60, 5) + 7), duplicates, axis=0).astype(np.float32)
    found = manifold_overlap(points, points[::-1], neighbours=3)
    assert found.precision == found.recall == found.coverage == 1.0
    # each ball has its centre and k others; of duplicates, all of them
    assert found.density == pytest.approx((3 + 1) / 3 if duplicates == 1 else 6 / 3)


def test_sets_apart_and_a_mode_left_out():
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(100, 4)), generator.normal(size=(100, 4)) + 50
    assert astuple(manifold_overlap(one, other)) == (0, 0, 0, 0)
    both = np.concatenate([one, other])
    half = manifold_overlap(both, generator.normal(size=(100, 4)))
    assert half.precision > 0.9
    assert half.recall <= 0.5
    assert half.coverage <= 0.5


def test_an_outlier_makes_precise_but_not_dense():
    """Naeem et al. 2020, figure 2: one real outlier has a ball that takes in what is near nothing real."""
    generator = np.random.default_rng(1)
    real = np.concatenate([generator.normal(size=(99, 2)), [[100.0, 0.0]]])
    found = manifold_overlap(real, generator.normal(loc=(50, 0), size=(50, 2)), neighbours=3)
    assert found.precision == 1.0
    assert found.density == pytest.approx(1 / 3)
    assert found.coverage == pytest.approx(1 / 100)


def test_refuses():
    with pytest.raises(UserError, match="neighbour 5 need more than 5 images of each set, but there are 9 and 5"):
        manifold_overlap(np.zeros((9, 2)), np.zeros((5, 2)))
