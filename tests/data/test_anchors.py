"""Anchors: their statistics against loops, and the fit on clustered sizes."""

import dataclasses

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data.annotations.anchors import (
    MIN_SIDE,
    anchor_report,
    anchors_per_box,
    best_possible_recall,
    fit_anchors,
    fitness,
    mismatch,
)
from vision.errors import UserError

positive = st.floats(0.5, 100, width=32)


def scattered(n, seed=0):
    """Random sizes, over two orders of magnitude."""
    return np.exp(np.random.default_rng(seed).normal([3.5, 3.2], [0.9, 1.0], (n, 2)))


@settings(max_examples=30)
@given(
    sizes=hnp.arrays(np.float64, (6, 2), elements=positive),
    anchors=hnp.arrays(np.float64, (3, 2), elements=positive),
    threshold=st.sampled_from([1.5, 2.0, 4.0]),
)
def test_statistics_are_those_of_loops(sizes, anchors, threshold):
    likenesses, recalled, answers = [], 0, 0
    for w, h in sizes:
        best, farness = 0.0, []
        for aw, ah in anchors:
            farness.append(max(w / aw, aw / w, h / ah, ah / h))
            if farness[-1] < threshold:
                best = max(best, min(w / aw, aw / w, h / ah, ah / h))
        likenesses.append(best)
        recalled += min(farness) < threshold
        answers += sum(far < threshold for far in farness)
    np.testing.assert_allclose(fitness(sizes, anchors, threshold), np.mean(likenesses), rtol=1e-12)
    assert best_possible_recall(sizes, anchors, threshold) == pytest.approx(recalled / 6)
    assert anchors_per_box(sizes, anchors, threshold) == pytest.approx(answers / 6)


def test_four_times_the_anchor_is_too_much():
    anchors = np.array([[10.0, 20.0]])
    sizes = np.array([[40.0, 20.0], [39.0, 20.0], [10.0, 5.0], [10.0, 5.5]])
    np.testing.assert_allclose(mismatch(sizes, anchors)[:, 0], [4, 3.9, 4, 20 / 5.5])
    assert best_possible_recall(sizes, anchors) == 0.5
    assert anchors_per_box(sizes, anchors) == 0.5
    assert fitness(sizes, anchors) == pytest.approx((10 / 39 + 5.5 / 20) / 4)
    assert fitness(sizes, anchors, 5.0) == pytest.approx((10 / 39 + 5.5 / 20 + 1 / 4 + 1 / 4) / 4)


def test_the_fit_finds_the_sizes_that_there_are():
    random = np.random.default_rng(0)
    real = np.array([[10.0, 14.0], [60.0, 25.0], [50.0, 200.0]])
    sizes = real[random.integers(0, 3, 500)] * np.exp(random.normal(0, 0.02, (500, 2)))
    found = fit_anchors(sizes, 3, seed=0, generations=200)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, real, rtol=0.02)
    exact = real[random.integers(0, 3, 50)]
    assert fitness(exact, fit_anchors(exact, 3, seed=1, generations=0)) == pytest.approx(1, abs=1e-6)


def test_mutation_improves_upon_k_means():
    sizes = scattered(2000)
    sizes = sizes[(sizes >= MIN_SIDE).all(axis=1)]
    by_generations = [fitness(sizes, fit_anchors(sizes, 6, seed=0, generations=g)) for g in (0, 50, 300)]
    assert by_generations[0] + 0.01 < by_generations[1] < by_generations[2]


def test_the_fit_is_sorted_and_a_function_of_the_seed():
    sizes = scattered(800)
    fits = [fit_anchors(sizes, 5, seed=seed, generations=30) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert (fits[0] != fits[2]).any()
    for found in fits:
        assert found.shape == (5, 2)
        assert (found > 0).all()
        assert (np.diff(found.prod(axis=1)) > 0).all()


def test_small_boxes_do_not_move_the_fit():
    sizes = scattered(300)
    sizes = sizes[(sizes >= MIN_SIDE).all(axis=1)]
    small = np.array([[2.9, 50.0], [1.0, 1.0], [50.0, 0.0]])
    whole = np.concatenate([sizes, np.repeat(small, 50, axis=0)])
    np.testing.assert_array_equal(*(fit_anchors(x, 4, seed=0, generations=20) for x in (sizes, whole)))


def test_large_data_is_sampled():
    """The first hundred boxes are all of one size, so that a sample of only these would fail."""
    first, second = np.full((2000, 2), 10.0), np.full((2000, 2), 80.0)
    sizes = np.concatenate([first, second])
    found = fit_anchors(sizes, 2, seed=0, generations=10, sample=100)
    np.testing.assert_allclose(found, [[10, 10], [80, 80]])
    with pytest.raises(UserError, match="2 anchors cannot be fitted to 1 distinct sizes"):
        fit_anchors(sizes, 2, seed=0, sample=1)


def test_boxes_of_one_width_have_no_deviation():
    sizes = np.stack([np.full(100, 20.0), np.linspace(10, 100, 100)], axis=1)
    found = fit_anchors(sizes, 3, seed=0, generations=0)
    np.testing.assert_allclose(found[:, 0], 20, rtol=1e-6)
    assert best_possible_recall(sizes, found) == 1


def test_report():
    sizes = np.array([[10.0, 20.0]] * 990 + [[300.0, 20.0]] * 10 + [[2.0, 20.0]] * 7)
    anchors = np.array([[10.0, 20.0], [20.0, 20.0]])
    report = anchor_report(sizes, anchors)
    assert (report.boxes, report.small, report.recall, report.per_box) == (1000, 7, 0.99, 1.98)
    assert report.fitness == pytest.approx(0.99)
    assert report.anchors == ((10.0, 20.0), (20.0, 20.0))
    assert not report.refit
    assert str(report).splitlines() == [
        "2 anchors, 1,000 boxes (7 with a side below 3 pixels left out)",
        "  anchors: 10 x 20, 20 x 20",
        "  best possible recall: 99.00 % of the boxes have an anchor whose sides differ by less than a factor of 4",
        "  anchors per box: 1.98",
        "  fitness: 0.9900 (1 if every box has an anchor of its size)",
        "The anchors fit: new ones are needed below a best possible recall of 98 %.",
    ]
    bad = dataclasses.replace(report, recall=0.97999, small=0)
    assert bad.refit
    assert "recall: 97.99 %" in str(bad)
    assert "left out" not in str(bad)
    assert str(bad).endswith("Below 98 %: fit anchors to this data, or the unmatched boxes are never learned.")
    assert not dataclasses.replace(report, recall=0.98).refit


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (np.zeros((0, 2)), "There are no boxes to fit anchors to: of 0 none"),
        (np.full((5, 2), 2.0), "of 5 none has both sides of at least 3 pixels"),
        (np.array([[np.nan, 5.0], [5.0, 5.0]]), "not finite"),
        (np.tile([[5.0, 6.0], [7.0, 8.0]], (50, 1)), "9 anchors cannot be fitted to 2 distinct sizes"),
    ],
)
def test_what_cannot_be_fitted(sizes, message):
    with pytest.raises(UserError, match=message):
        fit_anchors(sizes, seed=0)


@pytest.mark.parametrize("of", [fitness, best_possible_recall, anchors_per_box])
def test_no_boxes_have_no_statistics(of):
    with pytest.raises(UserError, match="There are no boxes to compare"):
        of(np.zeros((0, 2)), np.ones((3, 2)))


def test_no_boxes_have_no_report():
    with pytest.raises(UserError, match="There are no boxes to fit anchors to: of 3 none"):
        anchor_report(np.ones((3, 2)), np.ones((3, 2)))
