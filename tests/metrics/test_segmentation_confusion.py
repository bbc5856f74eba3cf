"""IoU and accuracies against loops and torchmetrics, for any cutting, padding and sharding of the images.

The golden values are made by make_segmentation_metrics_golden.py.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from segmentation_maps import CLASSES, VOID, semantic_maps

from vision.errors import UserError
from vision.metrics import wide_count
from vision.metrics.segmentation.confusion import compute, init, merge, update
from vision.parallel.mesh import MeshConfig, make_mesh

GOLDEN = Path(__file__).parents[1] / "golden" / "segmentation_metrics.npz"
BATCH = 4
_update = jax.jit(partial(update, ignore=VOID))


def _evaluated(predicted, truth, sizes=(BATCH,)):
    """The sums over batches of the given sizes in turn, each padded to `BATCH` with images that would spoil any sum."""
    sums, start, turn = init(CLASSES), 0, 0
    while start < len(truth):
        rows = slice(start, start + sizes[turn % len(sizes)])
        part = len(truth[rows])
        padded = np.full((2, BATCH, *truth.shape[1:]), -5, np.int32)
        padded[:, :part] = predicted[rows], truth[rows]
        sums = _update(sums, *jnp.asarray(padded), jnp.arange(BATCH) < part)
        start, turn = start + part, turn + 1
    return sums


def _brute(predicted, truth):
    """By loops over classes."""
    known = truth != VOID
    p, t = predicted[known], truth[known]
    iou, accuracy = np.full((2, CLASSES), np.nan)
    weighted = 0.0
    for c in range(CLASSES):
        either, both, own = ((p == c) | (t == c)).sum(), ((p == c) & (t == c)).sum(), (t == c).sum()
        if either:
            iou[c] = both / either
            weighted += own / len(t) * iou[c]
        if own:
            accuracy[c] = both / own
    return {
        "images": len(truth),
        "pixels": len(t),
        "void": (~known).sum(),
        "mean_iou": np.nanmean(iou),
        "pixel_accuracy": (p == t).mean(),
        "mean_accuracy": np.nanmean(accuracy),
        "frequency_weighted_iou": weighted,
        "scored": (~np.isnan(iou)).sum(),
        "class_iou": iou,
        "class_accuracy": accuracy,
        "confusion": [[((t == i) & (p == j)).sum() for j in range(CLASSES)] for i in range(CLASSES)],
    }


@st.composite
def _maps(draw):
    """Predicted and true classes of up to nine images, few or many classes, with void."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, some = draw(st.integers(1, 9)), draw(st.integers(1, CLASSES))
    predicted = generator.integers(0, some, (n, 4, 3))
    truth = np.where(generator.random((n, 4, 3)) < 0.4, predicted, generator.integers(0, CLASSES, (n, 4, 3)))
    truth = np.where(generator.random(truth.shape) < draw(st.sampled_from([0.0, 0.3])), VOID, truth)
    # what is predicted on void is no class
    predicted = np.where(truth == VOID, generator.integers(-9, 9, truth.shape), predicted)
    return predicted.astype(np.int32), truth.astype(np.int32)


@settings(max_examples=40)
@given(_maps(), st.lists(st.integers(1, BATCH), min_size=1, max_size=4))
def test_scores_are_those_of_loops_in_batches_of_any_size(maps, sizes):
    if (maps[1] == VOID).all():
        return
    scores = compute(_evaluated(*maps, sizes))
    for name, expected in _brute(*maps).items():
        np.testing.assert_allclose(getattr(scores, name), expected, rtol=1e-14, err_msg=name)


def test_scores_are_those_of_torchmetrics():
    golden = np.load(GOLDEN)
    predicted, truth = semantic_maps(0)
    scores = compute(_evaluated(predicted, truth))
    assert scores.void > truth[0].size  # an image of void, and more
    for name in ("mean_iou", "frequency_weighted_iou", "pixel_accuracy"):
        np.testing.assert_allclose(getattr(scores, name), golden[name], rtol=1e-6, err_msg=name)
    # it has 0 for a class that is nowhere
    np.testing.assert_allclose(np.nan_to_num(scores.class_iou), golden["class_iou"], rtol=1e-6)
    np.testing.assert_allclose(np.nan_to_num(scores.class_accuracy), golden["class_accuracy"], rtol=1e-6)
    assert np.isnan(scores.class_iou).tolist() == [False] * 4 + [True]


@settings(max_examples=15)
@given(_maps(), st.integers(0, 9))
def test_merged_parts_are_the_whole(maps, cut):
    parts = [_evaluated(*(of[rows] for of in maps)) for rows in (slice(cut), slice(cut, None))]
    for one, other in zip(*(jax.tree.leaves(of) for of in (merge(*parts), _evaluated(*maps))), strict=True):
        np.testing.assert_array_equal(one, other)


def test_eight_devices_count_as_one_does():
    predicted, truth = semantic_maps(3, images=8)
    mask = np.arange(8) != 2
    split = NamedSharding(make_mesh(MeshConfig()), PartitionSpec("data"))
    sharded = [jax.device_put(of, split) for of in (predicted, truth, mask)]
    assert len(sharded[0].sharding.device_set) == 8
    whole = NamedSharding(split.mesh, PartitionSpec())
    scores = compute(jax.jit(partial(update, ignore=VOID), out_shardings=whole)(init(CLASSES), *sharded))
    np.testing.assert_array_equal(scores.confusion, _brute(predicted[mask], truth[mask])["confusion"])
    assert scores.images == 7


def test_replicas_are_evaluated_separately():
    maps = [semantic_maps(seed, images=BATCH, shape=(4, 3)) for seed in range(2)]
    empty = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), init(CLASSES))
    sums = jax.jit(jax.vmap(partial(update, ignore=VOID)))(empty, *(jnp.stack(of) for of in zip(*maps, strict=True)))
    for replica in range(2):
        alone = _evaluated(*maps[replica])
        both = zip(jax.tree.leaves(sums), jax.tree.leaves(alone), strict=True)
        assert all((one[replica] == other).all() for one, other in both)


def test_more_than_two_to_the_31_pixels():
    sums = _evaluated(*semantic_maps(0))
    once = compute(sums)
    many, times = sums, 1
    while times * once.pixels < 2**33:
        many, times = merge(many, many), 2 * times
    scores = compute(many)
    np.testing.assert_array_equal(scores.confusion, times * once.confusion)
    assert scores.pixels > 2**33
    assert scores.scalars() == pytest.approx(once.scalars(), rel=1e-14)


def test_a_constant_prediction_stands_beside():
    predicted, truth = semantic_maps(0)
    scores = compute(_evaluated(predicted, truth))
    constant, expected = scores.constant(), _brute(np.full_like(truth, scores.most_frequent), truth)
    assert constant.scalars() == pytest.approx({name: expected[name] for name in constant.scalars()})
    assert constant.mean_iou < scores.mean_iou
    protocol = scores.protocol("toys")
    assert list(protocol) == list(scores.scalars())
    assert "of 6 images of toys, 5 classes" in protocol["mean_iou"]
    assert "over the 4 classes that are the truth or the prediction of any pixel" in protocol["mean_iou"]
    assert "are void and do not count) of 6" in protocol["mean_iou"]  # fmt: skip
    assert "mean over the 3 classes that have pixels" in protocol["mean_accuracy"]
    assert protocol["mean_iou"].endswith(f"class 0 everywhere gets {expected['mean_iou']:.4f}")


def test_void_may_be_a_class_of_the_prediction_or_missing():
    """Where the first class is void, predicting it elsewhere is wrong; without void all pixels count."""
    predicted, truth = jnp.array([[[0, 1, 2]]]), jnp.array([[[0, 1, 1]]])
    scores = compute(update(init(3), predicted, truth, ignore=0))
    assert (scores.pixels, scores.void, scores.pixel_accuracy) == (2, 1, 0.5)
    scores = compute(update(init(3), predicted, truth, ignore=None))
    assert (scores.pixels, scores.void, scores.void_share) == (3, 0, 0.0)
    assert "void" not in scores.protocol("toys")["mean_iou"]


def test_invalid_input_is_refused():
    truth = jnp.zeros((1, 2, 2), jnp.int32)
    count = lambda predicted, truth: compute(update(init(3), predicted, truth, ignore=VOID))
    with pytest.raises(UserError, match=r"1 pixels are predicted to be of classes outside \[0, 3\)"):
        count(truth.at[0, 0, 0].set(3), truth)
    with pytest.raises(UserError, match=r"2 pixels have classes outside \[0, 3\) that are not the value of void"):
        count(truth, truth.at[0, 0].set(jnp.array([-1, 3])))
    with pytest.raises(UserError, match="1 images without a pixel of a known class"):
        count(truth, truth + VOID)
    with pytest.raises(UserError, match="0 images without"):
        compute(init(3))
    with pytest.raises(UserError, match="at least 2 classes"):
        init(1)
    large = jax.ShapeDtypeStruct((2, 2**15, 2**15), jnp.int32)
    with pytest.raises(UserError, match="too large"):
        jax.eval_shape(partial(update, ignore=VOID), init(3), large, large)
    assert wide_count.LARGEST_TERM == 2**30
