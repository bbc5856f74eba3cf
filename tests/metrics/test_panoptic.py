"""Panoptic quality against panopticapi, loops, and cases counted by hand.

The golden values are made by make_segmentation_metrics_golden.py.
"""

from dataclasses import fields, replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from segmentation_maps import CLASSES, panoptic_pair

from vision.errors import UserError
from vision.metrics.segmentation.panoptic import PanopticSums, Segments, compute, init, merge, update

GOLDEN = Path(__file__).parents[1] / "golden" / "segmentation_metrics.npz"
THINGS = [True, True, False, False, False]


def _pair(seed):
    return tuple(Segments(**of) for of in panoptic_pair(seed))


def _of(pairs):
    return reduce(lambda sums, pair: update(sums, *pair), pairs, init(CLASSES))


def test_qualities_are_those_of_panopticapi():
    golden = np.load(GOLDEN)
    pairs = [_pair(seed) for seed in range(60)]
    sums = _of(pairs)
    for name, theirs in (("matches", "tp"), ("extra", "fp"), ("missed", "fn")):
        np.testing.assert_array_equal(getattr(sums, name), golden[f"panoptic_{theirs}"])
    np.testing.assert_allclose(sums.iou, golden["panoptic_iou"], rtol=1e-12)
    assert min(sums.matches.sum(), sums.extra.sum(), sums.missed.sum()) > 20
    scores = compute(sums, THINGS)
    for prefix, group in (("", "all"), ("things_", "things"), ("stuff_", "stuff")):
        found = [getattr(scores, f"{prefix}{name}_quality") for name in ("panoptic", "segmentation", "recognition")]
        np.testing.assert_allclose(found, golden[f"panoptic_{group}"], rtol=1e-12)
    parts = merge(_of(pairs[:17]), _of(pairs[17:]))
    for field in fields(PanopticSums):
        np.testing.assert_allclose(getattr(parts, field.name), getattr(sums, field.name), rtol=1e-12)


def _slow(found, true):
    """(IoU, matches, extra, missed) of each class, segment by segment."""
    counts = np.zeros((4, CLASSES))
    matched, hit = set(), set()
    for i, label in zip(found.ids, found.labels, strict=True):
        for j, other, crowd in zip(true.ids, true.labels, true.crowd, strict=True):
            mine, theirs = (found.map == i) & (true.map != 0), true.map == j
            iou = (mine & theirs).sum() / (mine | theirs).sum()
            if label == other and not crowd and iou > 0.5:
                counts[:2, label] += iou, 1
                matched.add(i)
                hit.add(j)
    for i, label in zip(found.ids, found.labels, strict=True):
        crowds = true.ids[true.crowd & (true.labels == label)]
        mine = found.map == i
        if i not in matched and (mine & np.isin(true.map, [0, *crowds])).sum() / mine.sum() <= 0.5:
            counts[2, label] += 1
    for j, label, crowd in zip(true.ids, true.labels, true.crowd, strict=True):
        counts[3, label] += not crowd and j not in hit
    return counts


@pytest.mark.parametrize("seed", range(100, 125))
def test_sums_are_those_of_loops(seed):
    found, true = _pair(seed)
    crowd = np.random.default_rng(seed).random(len(true.ids)) < 0.4  # several of a class
    true = replace(true, crowd=crowd)
    sums = _of([(found, true)])
    np.testing.assert_allclose([sums.iou, sums.matches, sums.extra, sums.missed], _slow(found, true), rtol=1e-12)


def _row(*ids, labels, crowd=None):
    """An image of one row; segments are numbered from 1."""
    listed = np.arange(1, len(labels) + 1)
    crowd = None if crowd is None else np.array(crowd)
    return Segments(np.array([ids]), listed, np.array(labels, int), crowd)


def _counts(found, true):
    sums = update(init(2), found, true)
    return [sums.matches.tolist(), sums.extra.tolist(), sums.missed.tolist()]


def test_cases_counted_by_hand():
    true = _row(1, 1, 1, 1, 2, 2, 0, 0, labels=[0, 1])
    # half is not more than half
    assert _counts(_row(1, 1, 0, 0, 0, 0, 0, 0, labels=[0]), true) == [[0, 0], [1, 0], [1, 1]]
    assert _counts(_row(1, 1, 1, 0, 0, 0, 0, 0, labels=[0]), true) == [[1, 0], [0, 0], [0, 1]]
    # of another class it is no match, and so a false positive and a miss
    assert _counts(_row(1, 1, 1, 1, 0, 0, 0, 0, labels=[1]), true) == [[0, 0], [0, 1], [1, 1]]
    # void is no part of the union
    sums = update(init(2), _row(0, 0, 0, 0, 1, 1, 1, 1, labels=[1]), true)
    assert (sums.iou.tolist(), sums.matches.tolist()) == ([0, 1], [0, 1])
    # more than half on void is forgiven, half is not
    assert _counts(_row(0, 0, 0, 0, 0, 1, 1, 1, labels=[0]), true) == [[0, 0], [0, 0], [1, 1]]
    assert _counts(_row(0, 0, 0, 0, 1, 1, 1, 1, labels=[0]), true) == [[0, 0], [1, 0], [1, 1]]
    # a crowd of its class forgives too, and is neither matched nor missed
    crowded = _row(1, 1, 1, 1, 2, 2, 0, 0, labels=[0, 1], crowd=[True, False])
    assert _counts(_row(1, 1, 1, 1, 0, 0, 0, 0, labels=[0]), crowded) == [[0, 0], [0, 0], [0, 1]]
    assert _counts(_row(1, 1, 1, 1, 0, 0, 0, 0, labels=[1]), crowded) == [[0, 0], [0, 1], [0, 1]]
    # nothing at all
    assert _counts(_row(0, 0, 0, 0, 0, 0, 0, 0, labels=[]), true) == [[0, 0], [0, 0], [1, 1]]
    assert _counts(_row(*[1] * 8, labels=[0]), _row(*[0] * 8, labels=[])) == [[0, 0]] * 3


def test_what_is_undefined_is_nan_and_left_out():
    true = _row(1, 1, 1, 2, labels=[0, 1])
    scores = compute(update(init(3), _row(1, 1, 1, 1, labels=[0]), true), [True, False, False])
    assert scores.panoptic_quality == pytest.approx((0.75 + 0) / 2)
    assert scores.things_panoptic_quality == pytest.approx(0.75)
    assert scores.stuff_segmentation_quality == 0
    np.testing.assert_array_equal(scores.class_panoptic_quality, [0.75, 0, np.nan])
    no_stuff = compute(update(init(3), _row(1, 1, 1, 1, labels=[0]), true), [True, True, False])
    assert "stuff_panoptic_quality" not in no_stuff.scalars()
    assert no_stuff.scalars().keys() == no_stuff.protocol("toys").keys()
    assert (
        "mean over the 2 classes of things that have segments" in no_stuff.protocol("toys")["things_panoptic_quality"]
    )
    assert "1 images of toys, 3 classes" in no_stuff.protocol("toys")["panoptic_quality"]


def test_invalid_input_is_refused():
    good = _row(1, 1, 2, 2, labels=[0, 1])
    refused = lambda found=good, true=good: update(init(2), found, true)
    with pytest.raises(UserError, match="predicted map of 1x2 pixels is compared with a true one of 1x4"):
        refused(found=_row(1, 2, labels=[0, 1]))
    with pytest.raises(UserError, match="predicted segment 3 has no pixel"):
        refused(found=_row(1, 1, 2, 2, labels=[0, 1, 0]))
    assert refused(true=_row(1, 1, 2, 2, labels=[0, 1, 0])).missed.tolist() == [1, 0]
    with pytest.raises(UserError, match="a map has pixels of the true segment 7, which is not listed"):
        refused(true=_row(1, 1, 2, 7, labels=[0, 1]))
    with pytest.raises(UserError, match=r"a predicted segment has a class outside \[0, 2\)"):
        refused(found=_row(1, 1, 2, 2, labels=[0, 2]))
    with pytest.raises(UserError, match="not different numbers"):
        refused(found=replace(good, ids=np.array([1, 1])))
    with pytest.raises(UserError, match="a predicted segment is a crowd"):
        refused(found=_row(1, 1, 2, 2, labels=[0, 1], crowd=[True, False]))
    with pytest.raises(UserError, match="no images"):
        compute(init(2), [True, False])
    with pytest.raises(UserError, match="3 classes are said to be things or stuff, and 2 are evaluated"):
        compute(init(2), [True] * 3)
