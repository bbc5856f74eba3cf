"""Moments of features: partition, order and padding change nothing; numpy's covariance."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vision.errors import UserError
from vision.metrics.generation.moments import covariance, merge, moments

FEATURES = arrays.arrays(np.float64, st.tuples(st.integers(2, 30), st.just(3)), elements=st.floats(-1e3, 1e3, width=32))


def _assert_same(one, other):
    size = max(np.abs(other.scatter).max(), np.square(other.mean).max(), 1.0)
    assert one.count == other.count
    np.testing.assert_allclose(one.mean, other.mean, rtol=0, atol=1e-12 * size)
    np.testing.assert_allclose(one.scatter, other.scatter, rtol=0, atol=1e-11 * size)


def test_are_numpys():
    features = np.random.default_rng(0).normal(size=(50, 4)) + 3
    found = moments(features.astype(np.float32))
    assert found.mean.dtype == found.scatter.dtype == np.float64
    rounded = features.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(found.mean, rounded.mean(0), rtol=1e-14)
    np.testing.assert_allclose(covariance(found), np.cov(rounded, rowvar=False), rtol=1e-12)


@given(features=FEATURES, cuts=st.lists(st.integers(0, 30), max_size=5), seed=st.integers(0, 9))
def test_partition_and_order_change_nothing(features, cuts, seed):
    """Any parts, empty ones too, merged in any order and any bracketing."""
    whole = moments(features)
    generator = np.random.default_rng(seed)
    parts = [
        moments(part) for part in np.split(generator.permutation(features), sorted(min(c, len(features)) for c in cuts))
    ]
    _assert_same(functools.reduce(merge, parts), whole)
    while len(parts) > 1:
        place = generator.integers(len(parts) - 1)
        parts[place : place + 2] = [merge(parts[place + 1], parts[place])]
    _assert_same(parts[0], whole)


@given(features=FEATURES, rows=st.data())
def test_padding_is_left_out_to_the_last_bit(features, rows):
    mask = np.array(rows.draw(st.lists(st.booleans(), min_size=len(features), max_size=len(features))))
    padded = np.where(mask[:, None], features, np.nan)  # what padding holds is of no account
    found, expected = moments(padded, mask), moments(features[mask])
    assert found.count == mask.sum()
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.scatter, expected.scatter)


def test_far_from_zero():
    """A mean a million times the deviation leaves the deviation's digits, batch by batch."""
    generator = np.random.default_rng(1)
    features = generator.normal(size=(10_000, 2))
    far = functools.reduce(merge, (moments(part + 1e6) for part in np.split(features, 100)))
    np.testing.assert_allclose(covariance(far), np.cov(features, rowvar=False), rtol=1e-8, atol=1e-10)


def test_refuses():
    one = moments(np.zeros((1, 3)))
    with pytest.raises(UserError, match="at least 2 images, but there are 1"):
        covariance(one)
    with pytest.raises(UserError, match="2 images have features that are not finite"):
        moments(np.array([[1.0, np.nan], [np.inf, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="of 3 and of 2 dimensions"):
        merge(one, moments(np.zeros((4, 2))))
