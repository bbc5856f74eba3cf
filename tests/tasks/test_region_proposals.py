"""Matching, sampling and proposals of the first stage, against loops and by their properties."""

from functools import partial

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.models.instances.region_proposals import Regions
from vision.tasks.region_proposals import (
    ProposalConfig,
    balanced_sample,
    match,
    select_proposals,
    smooth_l1,
)

N = 30


def test_the_loss_of_offsets():
    """Girshick 2015, equation 3, scaled: continuous with its slope where it changes."""
    difference = jnp.array([-2.0, -0.1, 0.0, 0.05, 1 / 9, 0.5])
    expected = [2 - 1 / 18, 4.5 * 0.01, 0, 4.5 * 0.0025, 1 / 18, 0.5 - 1 / 18]
    np.testing.assert_allclose(smooth_l1(difference), expected, rtol=1e-5)
    np.testing.assert_allclose(smooth_l1(difference, beta=1.0)[:2], [1.5, 0.005], rtol=1e-5)
    slopes = jax.vmap(jax.grad(smooth_l1))(jnp.array([1 / 9 - 1e-4, 1 / 9 + 1e-4]))
    np.testing.assert_allclose(slopes, 1.0, atol=2e-3)


def test_boxes_that_nothing_overlaps_and_images_without_boxes():
    candidates = jnp.array([[0.0, 0.0, 4.0, 4.0], [10.0, 0.0, 14.0, 4.0], [0.0, 0.0, 4.0, 1.0]])[None]
    boxes = jnp.array([[[0.0, 0.0, 4.0, 4.0], [50.0, 50.0, 60.0, 60.0]], [[0.0, 0.0, 4.0, 4.0]] * 2])
    valid = jnp.array([[True, True], [False, False]])
    found = jax.jit(partial(match, high=0.7, low=0.3, closest=True))(boxes, valid, candidates)
    np.testing.assert_array_equal(found.positive, [[True, False, False], [False] * 3])
    np.testing.assert_array_equal(found.negative, [[False, True, True], [True] * 3])
    np.testing.assert_array_equal(found.box[0, 0], 0)


sample = jax.jit(balanced_sample, static_argnames=("count", "fraction"))


@settings(max_examples=40)
@given(
    state=hnp.arrays(np.int64, (2, N), elements=st.integers(-1, 1)),
    count=st.sampled_from([8, 100]),
    fraction=st.sampled_from([0.0, 0.25, 1.0]),
    seed=st.integers(0, 9),
)
def test_samples_are_balanced(state, count, fraction, seed):
    found = jax.device_get(sample(state == 1, state == 0, count=count, fraction=fraction, key=jax.random.key(seed)))
    places = min(count, N)
    assert found.index.shape == found.positive.shape == found.valid.shape == (2, places)
    for row in range(2):
        positives = min((state[row] == 1).sum(), int(count * fraction), places)
        negatives = min((state[row] == 0).sum(), places - positives)
        valid = found.valid[row]
        assert found.positive[row].tolist() == [k < positives for k in range(places)]
        assert valid.tolist() == [k < positives + negatives for k in range(places)]
        chosen = found.index[row][valid]
        assert len(set(chosen.tolist())) == len(chosen)
        np.testing.assert_array_equal(state[row][chosen], np.where(found.positive[row][valid], 1, 0))
        assert ((found.index[row] >= 0) & (found.index[row] < N)).all()


def test_samples_are_random():
    """Every candidate is as likely as any other of its kind, and keys differ."""
    state = jnp.arange(N)[None] % 3 - 1
    run = jax.vmap(lambda key: balanced_sample(state == 1, state == 0, count=8, fraction=0.5, key=key))
    found = jax.jit(run)(jax.random.split(jax.random.key(0), 2000))
    counts, state = np.bincount(np.asarray(found.index).reshape(-1), minlength=N), np.asarray(state)
    assert (counts[state[0] == -1] == 0).all()
    # 2000 draws of 4 among 10: 800 +- 22
    assert np.abs(counts[state[0] >= 0] - 800).max() < 5 * 22


def iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def slow_proposals(objectness, offsets, anchors, size, config):
    """One image, one box after another: (score, box) of the best."""
    found = []
    for score, offset, anchor in zip(objectness, offsets, anchors, strict=True):
        best = np.argsort(-score, kind="stable")[: config.before]
        sides, centre = anchor[:, 2:] - anchor[:, :2], (anchor[:, 2:] + anchor[:, :2]) / 2
        centre = centre + offset[:, :2] * sides
        sides = sides * np.exp(offset[:, 2:])
        boxes = np.concatenate([centre - sides / 2, centre + sides / 2], 1)
        boxes = np.clip(boxes, 0, [size[1], size[0], size[1], size[0]])
        kept = []
        for k in best:
            large = (boxes[k, 2:] - boxes[k, :2]).min() >= 1e-3
            if large and all(iou(boxes[k], boxes[j]) <= config.iou for j in kept):
                kept.append(k)
        found += [(score[k], boxes[k]) for k in kept]
    return sorted(found, key=lambda each: -each[0])[: config.after]


def test_proposals_of_two_levels_and_sizes():
    random = np.random.default_rng(0)
    counts, sizes = (60, 12), np.int32([[40, 50], [64, 64]])
    low = [random.uniform(-10, 60, (n, 2)) for n in counts]
    anchors = [np.concatenate([x, x + random.uniform(5, 30, x.shape)], 1).astype(np.float32) for x in low]
    objectness = [random.permutation(2 * n).reshape(2, n).astype(np.float32) + k / 2 for k, n in enumerate(counts)]
    offsets = [random.normal(0, 0.3, (2, n, 4)).astype(np.float32) for n in counts]
    regions = Regions(*(tuple(map(jnp.asarray, of)) for of in (objectness, offsets, anchors)))
    for config in (ProposalConfig(before=40, after=25, iou=0.4), ProposalConfig(before=100, after=100, iou=0.7)):
        found = jax.jit(partial(select_proposals, config=config))(regions, sizes)
        assert found.boxes.shape == (2, config.after, 4)
        for image in range(2):
            pick = lambda of, image=image: [each[image] for each in of]
            expected = slow_proposals(pick(objectness), pick(offsets), anchors, sizes[image], config)
            count = len(expected)
            assert np.asarray(found.valid[image]).tolist() == [k < count for k in range(config.after)]
            np.testing.assert_allclose(found.scores[image, :count], [score for score, _ in expected])
            np.testing.assert_allclose(found.boxes[image, :count], np.stack([box for _, box in expected]), atol=1e-3)
            assert not np.any(found.boxes[image, count:])
    assert count < config.after  # places stay empty
