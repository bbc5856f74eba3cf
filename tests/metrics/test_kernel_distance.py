"""The kernel distance against torch-fidelity and loops, its missing bias, and its subsets.

The golden values are made by make_distances_golden.py.
"""

from pathlib import Path

import numpy as np
import pytest
from seeded_features import CASES, features, pair

from vision.errors import UserError
from vision.metrics.generation.kernel_distance import kernel_distance, random_subsets, squared_discrepancy

GOLDEN = Path(__file__).parents[1] / "golden" / "distances.npz"


@pytest.mark.parametrize("name", CASES)
def test_is_torch_fidelitys(name):
    found = kernel_distance(*pair(name), subsets=7, subset_size=100, seed=3)
    np.testing.assert_allclose([found.mean, found.deviation], np.load(GOLDEN)[f"kernel_{name}"], rtol=1e-9)


def test_all_at_once_is_torch_fidelitys():
    one, other = pair("small")
    found = squared_discrepancy(one[:260], other)
    np.testing.assert_allclose(found, np.load(GOLDEN)["kernel_whole"], rtol=1e-9)


@pytest.mark.parametrize("block", [1, 5, 256])
def test_by_definition(block):
    """Gretton et al. 2012, eq. 3, by loops, with sets of different sizes."""
    x, y = features(1, 13, 4), features(2, 9, 4)
    kernel = lambda a, b: (a @ b / 4 + 1) ** 3
    within = lambda s: np.mean([kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j])
    expected = within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    np.testing.assert_allclose(squared_discrepancy(x, y, block=block), expected, rtol=1e-10)


def test_one_distribution_gives_zero_on_average():
    """Both signs; the mean within four standard errors of 0, a shift far outside."""
    draws = np.random.default_rng(0).normal(size=(200, 2, 20, 3))
    values = np.array([squared_discrepancy(x, y) for x, y in draws])
    error = values.std() / np.sqrt(len(values))
    assert values.min() < 0 < values.max()
    assert abs(values.mean()) < 4 * error
    assert np.mean([squared_discrepancy(x, y + 1) for x, y in draws]) > 20 * error


def test_subsets():
    """Without replacement, uniformly from all rows, the same for the same seed; a complete set is one estimate."""
    pairs = list(random_subsets(12, 7, subsets=400, subset_size=5, seed=1))
    for rows, columns in pairs:
        assert len(set(rows)) == len(set(columns)) == 5
        assert rows.max() < 12
        assert columns.max() < 7
    for place, size in ((0, 12), (1, 7)):
        counts = np.bincount(np.concatenate([each[place] for each in pairs]), minlength=size)
        expected = 400 * 5 / size
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    again = list(random_subsets(12, 7, subsets=400, subset_size=5, seed=1))
    np.testing.assert_array_equal(pairs, again)
    one, other = features(1, 30, 4), features(2, 30, 4)
    found = kernel_distance(one, other, subsets=3, subset_size=30)
    np.testing.assert_allclose(found.mean, squared_discrepancy(one, other), rtol=1e-9)
    assert found.deviation < 1e-12


def test_refuses():
    with pytest.raises(UserError, match="on 50 images of each set was requested, but one has only 20"):
        kernel_distance(features(1, 80, 3), features(2, 20, 3), subset_size=50)
    with pytest.raises(UserError, match="on 2 images of each set"):
        squared_discrepancy(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(UserError, match="subsets of at least 2, got 5 subsets of 1"):
        kernel_distance(np.zeros((4, 3)), np.zeros((4, 3)), subsets=5, subset_size=1)
