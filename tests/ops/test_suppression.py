"""Suppression against sequential loops written from the papers, with ties, labels, NaN, and several blocks."""

from functools import partial

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.ops import suppression
from vision.ops.suppression import (
    gaussian_decay,
    linear_decay,
    mask_matrix_nms,
    matrix_nms,
    non_maximum_suppression,
    soft_nms,
)

N, MOST = 40, 12
DECAYS = {
    "gaussian": (gaussian_decay, lambda x: np.exp(-(x**2) / 0.5)),
    "linear": (linear_decay, lambda x: 1 - x),
    "linear from 0.3": (partial(linear_decay, threshold=0.3), lambda x: np.where(x >= 0.3, 1 - x, 1.0)),
}
RESCORING = {"matrix": matrix_nms, "soft": soft_nms}


@pytest.fixture(scope="module")
def small_blocks():
    """Blocks of 8, so that few boxes make many blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suppression, "_BLOCK", 8)
        yield


@pytest.fixture(scope="module")
def nms(small_blocks):
    return jax.jit(
        lambda boxes, scores, labels, threshold: non_maximum_suppression(
            boxes, scores, labels=labels, iou_threshold=threshold, score_threshold=0.05, max_detections=MOST
        )
    )


@pytest.fixture(scope="module")
def rescored(small_blocks):
    """(method, decay) to a compiled function of boxes, scores and labels."""
    return {
        (method, name): jax.jit(
            lambda boxes, scores, labels, method=method, decay=decay: RESCORING[method](
                boxes, scores, labels=labels, decay=decay, score_threshold=0.05, max_detections=MOST
            )
        )
        for method in RESCORING
        for name, (decay, _) in DECAYS.items()
    }


def ious(boxes, others):
    """[n 4] and [m 4] to [n m], in the arithmetic of the arrays; for boxes that are not empty."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = np.maximum(np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - low, 0)
    areas = lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    shared = sides[..., 0] * sides[..., 1]
    union = areas(boxes)[:, None] + areas(others) - shared
    return shared / np.where(union > 0, union, 1)


def sequential_nms(boxes, scores, labels, iou_threshold, score_threshold, max_detections):
    """Sort; take the next; cross out what it overlaps. All in float32, as the tested code."""
    order = [k for k in np.lexsort((np.arange(len(scores)), -scores)) if scores[k] >= score_threshold]
    order = [k for k in order if scores[k] > -np.inf]
    kept, crossed = [], np.zeros(len(scores), bool)
    for k in order:
        if crossed[k] or len(kept) == max_detections:
            continue
        kept.append(int(k))
        crossed |= (ious(boxes[k : k + 1], boxes)[0] > np.float32(iou_threshold)) & (labels == labels[k])
    return kept


def indices(kept):
    """The valid ones as a list, after a look at the slots."""
    index, valid = np.asarray(kept.index), np.asarray(kept.valid)
    assert index.dtype == np.int32
    assert valid.dtype == bool
    count = valid.sum()
    assert valid[:count].all()
    assert (index[~valid] == 0).all()
    return index[valid].tolist()


# Borders are whole numbers: float32 has the areas exactly, and overlaps of just the threshold occur.
_ends = hnp.arrays(np.int64, (N, 2), elements=st.integers(0, 9))
_sides = hnp.arrays(np.int64, (N, 2), elements=st.integers(0, 6))
some_boxes = st.builds(lambda low, side: np.concatenate([low, low + side], axis=1).astype(np.float32), _ends, _sides)
_values = [np.nan, -np.inf, -1.0, -0.0, 0.0, 0.049, 0.05, 0.1, 0.1, 0.3, 0.3, 0.5, 0.9, 1.0, np.inf]
some_scores = hnp.arrays(np.float32, N, elements=st.sampled_from(_values))
finite_scores = hnp.arrays(np.float32, N, elements=st.sampled_from([value for value in _values if value != np.inf]))
some_labels = hnp.arrays(np.int32, N, elements=st.integers(0, 2))


@settings(max_examples=60)
@given(boxes=some_boxes, scores=some_scores, labels=some_labels, threshold=st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0]))
def test_nms_is_the_sequential_algorithm(nms, boxes, scores, labels, threshold):
    found = indices(nms(boxes, scores, labels, threshold))
    assert found == sequential_nms(boxes, scores, labels, threshold, 0.05, MOST)


def crowd(n, seed, objects=40):
    """Boxes around a few objects, with many equal scores."""
    random = np.random.default_rng(seed)
    of = random.integers(0, objects, n)
    centre = random.integers(50, 600, (objects, 2))[of] + random.integers(-6, 7, (n, 2))
    half = random.integers(10, 60, (objects, 2))[of] + random.integers(-3, 4, (n, 2))
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    return boxes, random.integers(0, 500, n).astype(np.float32) / 500, random.integers(0, 3, n).astype(np.int32)


@pytest.mark.parametrize("labelled", [True, False])
def test_nms_of_thousands_of_boxes(labelled):
    boxes, scores, labels = crowd(3000, seed=int(labelled))
    labels = labels if labelled else np.zeros(3000, np.int32)
    for threshold, max_detections in ((0.5, 300), (0.9, 2500)):
        run = jax.jit(
            partial(
                non_maximum_suppression, iou_threshold=threshold, score_threshold=0.01, max_detections=max_detections
            )
        )
        expected = sequential_nms(boxes, scores, labels, threshold, 0.01, max_detections)
        assert indices(run(boxes, scores, labels=labels if labelled else None)) == expected
    assert 300 < len(expected) < max_detections  # several blocks, and not all of the slots


def test_a_long_chain_of_boxes_each_of_which_overlaps_the_next():
    """Every other one is kept: the most rounds that the inside of a block may need."""
    n = 600
    boxes = np.float32([[k, 0, k + 2.5, 1] for k in range(n)])
    run = jax.jit(partial(non_maximum_suppression, iou_threshold=0.4, score_threshold=0.0, max_detections=n))
    assert indices(run(boxes, np.linspace(1, 0, n, dtype=np.float32))) == list(range(0, n, 2))


def test_large_labels_cost_no_precision():
    boxes = np.float32([[0, 0, 10, 10], [0.25, 0, 10.25, 10], [0, 0, 10, 10]])
    labels = np.int32([2_000_000_001, 2_000_000_001, 2_000_000_002])
    run = jax.jit(partial(non_maximum_suppression, iou_threshold=0.95, score_threshold=0.0, max_detections=3))
    assert indices(run(boxes, np.float32([0.9, 0.8, 0.7]), labels=labels)) == [0, 2]


METHODS = {
    "nms": partial(non_maximum_suppression, iou_threshold=0.5),
    "matrix": matrix_nms,
    "soft": soft_nms,
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_few_boxes(name, n, small_blocks):
    boxes = np.float32([[0, 0, 4, 4], [10, 0, 14, 4], [0, 10, 4, 14]])[:n]
    scores = np.float32([0.5, 0.9, 0.7])[:n]
    run = jax.jit(partial(METHODS[name], score_threshold=0.1, max_detections=5))
    kept = run(boxes, scores)
    assert kept.index.shape == kept.valid.shape == (5,)
    assert indices(kept) == [k for k in (1, 2, 0) if k < n]
    if name != "nms":
        np.testing.assert_allclose(kept.score, [*sorted(scores, reverse=True), *[0] * (5 - n)])
    assert indices(run(boxes, np.full(n, np.nan, np.float32))) == []


@pytest.mark.parametrize("name", METHODS)
def test_vmap_is_one_image_after_the_other(name, small_blocks):
    """Images of which some are done long before others."""
    images = [crowd(60, seed, objects=3 + 10 * seed) for seed in range(3)]
    images[1][1][:] = -1.0
    batch = [np.stack(part) for part in zip(*images, strict=True)]
    run = lambda boxes, scores, labels: METHODS[name](
        boxes, scores, labels=labels, score_threshold=0.1, max_detections=20
    )
    together = jax.jit(jax.vmap(run))(*batch)
    single = jax.jit(run)
    for image, arguments in enumerate(images):
        expected = single(*arguments)
        for found, part in zip(together, expected, strict=True):
            np.testing.assert_allclose(found[image], part, rtol=1e-6)
    assert together.valid.sum(axis=1).tolist()[1] == 0


@pytest.mark.parametrize("name", METHODS)
def test_memory_does_not_grow_with_the_square(name):
    n = 25_200
    shapes = (jax.ShapeDtypeStruct((n, 4), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.float32))
    run = jax.jit(partial(METHODS[name], score_threshold=0.1, max_detections=300))
    assert run.lower(*shapes).compile().memory_analysis().temp_size_in_bytes < 100 * 4 * n


def replay_soft_nms(boxes, scores, labels, decay, found):
    """Follow the picks through the algorithm of Bodla et al. 2017, figure 2, in float64.

    Each pick must have had the best score, up to rounding: two orders of the same factors may differ in the last bit.
    """
    scores = np.where(np.nan_to_num(scores, nan=-np.inf) >= 0.05, np.float64(scores), -np.inf)
    overlaps = ious(np.float64(boxes), np.float64(boxes))
    picks = indices(found)
    for slot, k in enumerate(picks):
        assert scores[k] >= scores.max() - 1e-6
        assert scores[k] >= 0.05 - 1e-6
        np.testing.assert_allclose(found.score[slot], scores[k], rtol=1e-5)
        rounded = np.where(np.isfinite(scores), scores, 0) * np.where(labels == labels[k], decay(overlaps[k]), 1)
        scores = np.where(np.isfinite(scores), rounded, -np.inf)
        scores[k] = -np.inf
    if len(picks) < MOST:
        assert scores.max() < 0.05 + 1e-6


@pytest.mark.parametrize("name", DECAYS)
@settings(max_examples=20)
@given(boxes=some_boxes, scores=finite_scores, labels=some_labels)
def test_soft_nms_follows_the_paper(rescored, name, boxes, scores, labels):
    found = rescored["soft", name](boxes, scores, labels)
    assert (np.diff(found.score) <= 1e-6).all()
    # 0.3 is a threshold of which float32 and float64 disagree
    decay = DECAYS[name][1]
    replay_soft_nms(boxes, scores, labels, lambda x: decay(np.float32(x)) if "0.3" in name else decay(x), found)


def sequential_matrix_nms(boxes, scores, labels, decay):
    """Wang et al. 2020, "Matrix NMS", one box at a time: the decayed score of each box, in float64."""
    return sequential_decay(ious(np.float64(boxes), np.float64(boxes)), scores, labels, decay)


def sequential_decay(overlaps, scores, labels, decay):
    """The same by the overlaps of all pairs."""
    overlaps = overlaps * (labels[:, None] == labels)
    order = [k for k in np.lexsort((np.arange(len(scores)), -scores)) if scores[k] >= 0.05]
    decayed, own = np.full(len(scores), -np.inf), {}
    for place, j in enumerate(order):
        better = order[:place]
        own[j] = min((decay(overlaps[k, j]) for k in better), default=1.0)
        factors = [decay(overlaps[i, j]) / own[i] for i in better if own[i] > 0]
        decayed[j] = scores[j] * min([1.0, *factors])
    return decayed


@pytest.mark.parametrize("name", ["gaussian", "linear"])
@settings(max_examples=20)
@given(boxes=some_boxes, scores=finite_scores, labels=some_labels)
def test_matrix_nms_follows_the_paper(rescored, name, boxes, scores, labels):
    found = rescored["matrix", name](boxes, scores, labels)
    expected = sequential_matrix_nms(boxes, scores, labels, DECAYS[name][1])
    picks = indices(found)
    assert len(set(picks)) == len(picks)
    score = np.asarray(found.score)[: len(picks)]
    assert (np.diff(score) <= 0).all()
    # equal scores by rising index
    assert all(picks[k] < picks[k + 1] for k in np.flatnonzero(np.diff(score) == 0))
    np.testing.assert_allclose(score, expected[picks], rtol=1e-5)
    best = np.sort(expected[expected >= 0.05 + 1e-6])[::-1][:MOST]
    np.testing.assert_allclose(score[: len(best)], best, rtol=1e-5)
    assert (score[len(best) :] < 0.05 + 2e-6).all()


def mask_overlaps(masks):
    """The IoU of every pair, one after another."""
    shared = lambda a, b: (a & b).sum() / max((a | b).sum(), 1)
    return np.array([[shared(a, b) for b in masks] for a in masks])


@pytest.mark.parametrize("name", ["gaussian", "linear"])
def test_matrix_nms_of_masks_follows_the_paper(name, small_blocks):
    """Of several blocks, with equal, empty and full masks, labels, and scores that do not count."""
    decay, numpys = DECAYS[name]
    run = jax.jit(partial(mask_matrix_nms, decay=decay, score_threshold=0.05, max_detections=MOST))
    for seed in range(3):
        random = np.random.default_rng(seed)
        low, side = random.integers(0, 5, (N, 2)), random.integers(1, 5, (N, 2))
        y, x = np.mgrid[:7, :9]
        masks = np.stack(
            [(y >= a) & (y < a + h) & (x >= b) & (x < b + w) for (a, b), (h, w) in zip(low, side, strict=True)]
        )
        masks ^= random.random(masks.shape) < 0.1
        masks[3], masks[5], masks[7] = masks[2], False, True
        scores, labels = random.uniform(0, 1, N).astype(np.float32), random.integers(0, 3, N).astype(np.int32)
        scores[9] = np.nan
        expected = sequential_decay(mask_overlaps(masks), np.nan_to_num(scores), labels, numpys)
        found = run(masks, scores, labels=labels)
        picks = indices(found)
        best = np.argsort(-expected, kind="stable")[:MOST]
        assert picks == best[expected[best] >= 0.05].tolist()
        np.testing.assert_allclose(found.score[: len(picks)], expected[picks], rtol=1e-5)
    alone = run(masks[:1], scores[:1])
    assert indices(alone) == [0]
    assert indices(run(masks[:0], scores[:0])) == []


def test_rescoring_of_thousands_of_boxes():
    """Random boxes without ties, several blocks of full size: the very indices of loops in float64."""
    random = np.random.default_rng(0)
    n, max_detections = 600, 100
    centre, half = random.uniform(0, 400, (n, 2)), random.uniform(10, 50, (n, 2))
    boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    scores = random.uniform(0.1, 1, n).astype(np.float32)
    labels = np.zeros(n, np.int32)
    decay = DECAYS["gaussian"][1]

    matrix = jax.jit(partial(matrix_nms, score_threshold=0.05, max_detections=max_detections))(boxes, scores)
    expected = sequential_matrix_nms(boxes, scores, labels, decay)
    assert indices(matrix) == np.argsort(-expected, kind="stable")[:max_detections].tolist()

    soft = jax.jit(partial(soft_nms, score_threshold=0.05, max_detections=max_detections))(boxes, scores)
    left, picks = np.float64(scores), []
    overlaps = ious(np.float64(boxes), np.float64(boxes))
    for _ in range(max_detections):
        picks.append(int(np.argmax(left)))
        left = left * decay(overlaps[picks[-1]])
        left[picks[-1]] = -np.inf
    assert indices(soft) == picks


@pytest.mark.parametrize("name", METHODS)
def test_the_two_zeros_are_equal_and_minus_infinity_is_no_score(name, small_blocks):
    boxes = np.float32([[10 * k, 0, 10 * k + 4, 4] for k in range(4)])
    run = jax.jit(partial(METHODS[name], score_threshold=-np.inf, max_detections=4))
    assert indices(run(boxes, np.float32([-0.0, 0.0, -np.inf, -0.0]))) == [0, 1, 3]


@pytest.mark.parametrize("method", RESCORING)
def test_equal_boxes_under_linear_decay(method, rescored):
    """The score of a box's copy decays to zero, and the copy does not affect a third box beyond the first."""
    boxes = np.zeros((N, 4), np.float32)
    boxes[:4] = [[0, 0, 8, 8], [0, 0, 8, 8], [0, 0, 8, 16], [20, 20, 24, 24]]
    scores = np.zeros(N, np.float32)
    scores[:4] = [0.8, 0.8, 0.6, 0.7]
    found = rescored[method, "linear"](boxes, scores, np.zeros(N, np.int32))
    assert indices(found) == [0, 3, 2]
    np.testing.assert_allclose(np.asarray(found.score)[:3], [0.8, 0.7, 0.3], rtol=1e-6)
    alone = rescored[method, "linear"](boxes, scores, np.arange(N, dtype=np.int32))
    assert indices(alone) == [0, 1, 3, 2]


@pytest.mark.parametrize("name", DECAYS)
def test_decays(name):
    overlap = np.float32([0, 0.1, 0.29, 0.31, 0.5, 0.9, 1])
    ours, numpys = DECAYS[name]
    np.testing.assert_allclose(ours(jnp.asarray(overlap)), numpys(overlap), rtol=1e-6)
    assert ours(jnp.float32(0)) == 1
