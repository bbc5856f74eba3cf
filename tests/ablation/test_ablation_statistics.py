"""Against scipy's tests, closed forms and invariances."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vision.ablation.statistics import holm, paired, summary

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12)
# differences far above rounding, so that scipy's cancellation does not matter
SPREAD = VALUES.filter(lambda x: np.std(x) > 1e-3)


@given(SPREAD)
def test_the_interval_of_a_mean_is_scipys(values):
    found = summary(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.sd == pytest.approx(stats.tstd(values), rel=1e-9)
    assert found.interval == pytest.approx((low, high), rel=1e-9, abs=1e-9)


@given(SPREAD, st.randoms(use_true_random=False))
def test_the_paired_test_is_scipys(differences, random):
    base = [random.uniform(-10, 10) for _ in differences]
    one = dict(enumerate(b + d for b, d in zip(base, differences, strict=True)))
    other = dict(enumerate(base))
    found = paired(one, other)
    expected = stats.ttest_rel(list(one.values()), list(other.values()))
    low, high = expected.confidence_interval(0.95)
    assert found.n == len(differences)
    assert found.mean == pytest.approx(np.mean(differences), abs=1e-8)
    assert found.interval == pytest.approx((low, high), rel=1e-6, abs=1e-8)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert found.excludes_zero == (not low <= 0 <= high)


@given(SPREAD)
def test_the_interval_excludes_zero_exactly_where_p_is_below_5_percent(differences):
    found = paired(dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0))
    if abs(found.p - 0.05) > 1e-9:
        assert found.excludes_zero == (found.p < 0.05)


@given(SPREAD, st.floats(-100, 100), st.permutations(range(12)))
def test_only_the_pairing_matters(differences, shift, order):
    """A shift that a seed gives to both points, and the names of the seeds, change nothing."""
    n = len(differences)
    zero = dict.fromkeys(range(n), 0.0)
    plain = paired(dict(enumerate(differences)), zero)
    shifts = [shift * (i % 3) for i in range(n)]
    moved = paired(
        {order[i]: d + s for i, (d, s) in enumerate(zip(differences, shifts, strict=True))},
        {order[i]: s for i, s in enumerate(shifts)},
    )
    assert moved.mean == pytest.approx(plain.mean, abs=1e-8)
    assert moved.interval == pytest.approx(plain.interval, abs=1e-8)
    # and the other way round it is the negative
    other = paired(zero, dict(enumerate(differences)))
    assert other.interval == pytest.approx((-plain.interval[1], -plain.interval[0]))
    assert other.p == pytest.approx(plain.p)


def test_only_seeds_of_both_count():
    found = paired({0: 1.0, 1: 2.0, 5: 9.0}, {1: 1.0, 0: 0.5, 7: -3.0})
    assert (found.n, found.mean) == (2, 0.75)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_one_seed_has_no_interval():
    found = summary([0.25])
    assert (found.n, found.mean, found.sd, found.interval) == (1, 0.25, None, None)
    difference = paired({3: 1.0}, {3: 0.25})
    assert (difference.n, difference.mean, difference.sd, difference.interval, difference.p) == (
        1,
        0.75,
        None,
        None,
        None,
    )
    assert not difference.excludes_zero


@pytest.mark.parametrize("values", [[0.1, 0.1, 0.1], [0.1 + 0.2, 0.3], [0.0, 0.0]])
def test_seeds_that_do_not_differ_have_no_interval(values):
    """An interval without width would claim certainty."""
    found = summary(values)
    assert found.sd == pytest.approx(0, abs=1e-15)
    assert found.interval is None


def test_equal_differences_have_no_interval():
    # equal up to the rounding of numbers around 100
    found = paired({0: 100.1, 1: 100.2, 2: 100.3}, {0: 100.0, 1: 100.1, 2: 100.2})
    assert found.mean == pytest.approx(0.1)
    assert found.interval is None
    assert found.p is None
    assert not found.excludes_zero


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_hidden(bad):
    found = summary([1.0, bad, 2.0])
    assert found.n == 3
    assert not math.isfinite(found.mean)
    assert found.interval is None
    difference = paired({0: 1.0, 1: bad}, {0: 0.0, 1: bad})
    assert not math.isfinite(difference.mean)
    assert (difference.interval, difference.p) == (None, None)


def test_no_values_are_a_mistake():
    with pytest.raises(ValueError, match="no values"):
        summary([])


P_VALUES = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8)


@given(P_VALUES)
def test_holm_rejects_as_the_sequential_procedure_does(p_values):
    """Holm 1979: go up from the smallest while p_(i) <= alpha / (m - i + 1)."""
    adjusted = holm(p_values)
    tested = [(p, i) for i, p in enumerate(p_values) if p is not None]
    for alpha in (0.01, 0.05, 0.3):
        rejected, left = set(), sorted(tested)
        while left and left[0][0] * len(left) <= alpha:
            rejected.add(left.pop(0)[1])
        assert {i for _, i in tested if adjusted[i] <= alpha} == rejected


@given(P_VALUES)
def test_holm_keeps_order_and_places(p_values):
    adjusted = holm(p_values)
    assert [a is None for a in adjusted] == [p is None for p in p_values]
    pairs = sorted((p, a) for p, a in zip(p_values, adjusted, strict=True) if p is not None)
    assert all(p <= a <= 1 for p, a in pairs)
    assert all(one[1] <= two[1] for one, two in itertools.pairwise(pairs))


def test_holm_by_hand():
    assert holm([0.04, 0.01, None, 0.03]) == pytest.approx([0.06, 0.03, None, 0.06])


def test_an_interval_covers_as_often_as_it_says():
    """The share of 4,000 intervals of normal differences that contain the truth: 95 % within four standard errors."""
    draws = np.random.default_rng(0).normal(0.3, 1.0, size=(4000, 4))
    covered = 0
    for row in draws:
        low, high = paired(dict(enumerate(row.tolist())), dict.fromkeys(range(4), 0.0)).interval
        covered += low <= 0.3 <= high
    assert abs(covered / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)
