"""Accuracy, cross-entropy and confusion against numpy, for any cutting, padding and sharding of the images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from vision.errors import UserError
from vision.metrics.recognition.classification import compute, init, merge, update
from vision.parallel.mesh import MeshConfig, make_mesh

CLASSES, BATCH = 7, 8
_update = jax.jit(update)


def _evaluated(logits, labels, sizes=(BATCH,)):
    """The sums over batches of the given sizes in turn, each padded to `BATCH` with rows that would spoil any sum."""
    sums, start, turn = init(logits.shape[1]), 0, 0
    while start < len(labels):
        rows = slice(start, start + sizes[turn % len(sizes)])
        part = len(labels[rows])
        padded = np.full((BATCH, logits.shape[1]), np.nan, np.float32)
        padded[:part] = logits[rows]
        labelled = np.full(BATCH, -5, np.int32)
        labelled[:part] = labels[rows]
        sums = _update(sums, jnp.asarray(padded), jnp.asarray(labelled), jnp.arange(BATCH) < part)
        start, turn = start + part, turn + 1
    return sums


def _brute(logits, labels):
    """Marks by loops over images and classes."""
    logits = logits.astype(np.float64)
    # A stable sort leaves equal logits in the order of their classes
    ranks = [np.argsort(-row, kind="stable").tolist().index(label) for row, label in zip(logits, labels, strict=True)]
    confusion = np.zeros((CLASSES, CLASSES), int)
    for row, label in zip(logits, labels, strict=True):
        confusion[label, int(np.argmax(row))] += 1
    recalls, scores = [], []
    for c in range(CLASSES):
        hits, truths, guesses = confusion[c, c], confusion[c].sum(), confusion[:, c].sum()
        recalls.append(hits / truths if truths else np.nan)
        if truths or guesses:
            precision, recall = hits / max(guesses, 1), hits / max(truths, 1)
            scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    return {
        "top1_accuracy": np.mean([rank < 1 for rank in ranks]),
        "top5_accuracy": np.mean([rank < 5 for rank in ranks]),
        "cross_entropy": -np.mean(scipy.special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels]),
        "macro_accuracy": np.nanmean(recalls),
        "macro_f1": np.mean(scores),
        "class_accuracy": recalls,
        "confusion": confusion,
    }


@st.composite
def _images(draw):
    """Logits with many ties, and labels, of up to 25 images."""
    n = draw(st.integers(1, 25))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    return generator.integers(-3, 4, (n, CLASSES)) * np.float32(1.25), generator.integers(0, CLASSES, n)


@settings(max_examples=50)
@given(_images(), st.lists(st.integers(1, BATCH), min_size=1, max_size=4))
def test_marks_are_those_of_loops_in_batches_of_any_size(images, sizes):
    logits, labels = images
    marks = compute(_evaluated(logits, labels, sizes))
    assert marks.count == len(labels)
    assert marks.top1_accuracy == np.trace(marks.confusion) / len(labels)
    for name, value in _brute(logits, labels).items():
        # All but the cross-entropy are ratios of exact counts
        tolerance = 1e-6 if name == "cross_entropy" else 1e-14
        np.testing.assert_allclose(getattr(marks, name), value, rtol=tolerance, err_msg=name)


@settings(max_examples=20)
@given(_images(), st.integers(0, 25))
def test_merged_parts_are_the_whole(images, cut):
    logits, labels = images
    parts = [_evaluated(logits[rows], labels[rows]) for rows in (slice(cut), slice(cut, None))]
    whole, merged = compute(_evaluated(logits, labels)), compute(merge(*parts))
    assert merged.scalars() == pytest.approx(whole.scalars(), rel=1e-6)
    np.testing.assert_array_equal(merged.confusion, whole.confusion)
    assert merged.count == whole.count


def test_eight_devices_count_as_one_does():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(64, CLASSES)).astype(np.float32)
    labels, mask = generator.integers(0, CLASSES, 64), generator.random(64) < 0.8
    mesh = make_mesh(MeshConfig())
    split = NamedSharding(mesh, PartitionSpec("data"))
    sharded = [jax.device_put(of, split) for of in (logits, labels.astype(np.int32), mask)]
    assert len(sharded[0].sharding.device_set) == 8
    many = jax.jit(update, out_shardings=NamedSharding(mesh, PartitionSpec()))(init(CLASSES), *sharded)
    marks, expected = compute(many), _brute(logits[mask], labels[mask])
    np.testing.assert_array_equal(marks.confusion, expected["confusion"])
    assert marks.top1_accuracy == expected["top1_accuracy"]
    assert marks.top5_accuracy == expected["top5_accuracy"]
    np.testing.assert_allclose(marks.cross_entropy, expected["cross_entropy"], rtol=1e-6)


def test_equal_logits_are_ranked_by_their_classes():
    """A constant network predicts the first class of all: right for that class, and top 5 for the first five."""
    marks = compute(_evaluated(np.zeros((14, CLASSES), np.float32), np.arange(14) % CLASSES))
    assert marks.top1_accuracy == marks.macro_accuracy == 1 / CLASSES
    assert marks.top5_accuracy == 5 / CLASSES
    np.testing.assert_array_equal(marks.confusion[:, 0], 2)
    # Five classes tie for the largest and the label is below them; or six do, and it is the last or the first of them
    five, six = np.float32([[1, 1, 1, 1, 1, 0, -1], [1, 1, 1, 1, -1, 1, 1]])
    accuracy = lambda row, label: compute(_evaluated(row[None], np.array([label]))).top5_accuracy
    assert [accuracy(five, 5), accuracy(six, 6), accuracy(six, 5), accuracy(six, 0)] == [0, 0, 1, 1]


def test_nearly_certain_predictions_keep_their_digits():
    logits = np.zeros((1, CLASSES), np.float32)
    logits[0, 3] = 30
    certain = compute(_evaluated(logits, np.array([3]))).cross_entropy
    np.testing.assert_allclose(certain, np.log1p(6 * np.exp(-30.0)), rtol=1e-6)
    np.testing.assert_allclose(compute(_evaluated(logits, np.array([2]))).cross_entropy, 30 + certain, rtol=1e-6)
    huge = compute(_evaluated(np.float32(1e30) * logits, np.array([2])))
    np.testing.assert_allclose(huge.cross_entropy, 3e31, rtol=1e-6)


def test_top_5_of_five_classes_is_left_out():
    few = compute(update(init(3), jnp.eye(3), jnp.arange(3)))
    assert few.top5_accuracy == 1
    assert list(few.scalars()) == list(few.protocol("toys")) == [
        "top1_accuracy",
        "cross_entropy",
        "macro_accuracy",
        "macro_f1",
    ]  # fmt: skip
    many = compute(_evaluated(np.eye(CLASSES, dtype=np.float32), np.arange(CLASSES)))
    assert "top5_accuracy" in many.scalars()
    assert "on 7 images of toys, 7 classes" in many.protocol("toys")["top5_accuracy"]


def test_means_over_classes_state_how_many():
    some = compute(_evaluated(np.eye(CLASSES, dtype=np.float32)[[0, 1, 2]], np.array([0, 1, 3])))
    assert some.macro_accuracy == pytest.approx(2 / 3)
    assert "mean over the 3 of 7 classes that have images" in some.protocol("toys")["macro_accuracy"]
    assert "mean F1 over the 4 classes that are a label or a prediction" in some.protocol("toys")["macro_f1"]


def test_replicas_are_evaluated_separately():
    generator = np.random.default_rng(1)
    logits = jnp.asarray(generator.normal(size=(3, BATCH, CLASSES)), jnp.float32)
    labels = jnp.asarray(generator.integers(0, CLASSES, (3, BATCH)))
    empty = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), init(CLASSES))
    sums = jax.jit(jax.vmap(update))(empty, logits, labels)
    for replica in range(3):
        marks = compute(jax.tree.map(lambda leaf, replica=replica: leaf[replica], sums))
        alone = compute(_evaluated(np.asarray(logits[replica]), np.asarray(labels[replica])))
        assert marks.scalars() == pytest.approx(alone.scalars(), rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = np.zeros((20, CLASSES), np.float32)
    logits[[3, 11], [0, 6]] = bad
    with pytest.raises(UserError, match="2 images have logits that are not finite"):
        compute(_evaluated(logits, np.zeros(20, int)))


def test_invalid_input_is_refused():
    with pytest.raises(UserError, match=r"2 images have labels outside \[0, 7\)"):
        compute(_evaluated(np.zeros((3, CLASSES), np.float32), np.array([-1, 7, 0])))
    with pytest.raises(UserError, match="no images"):
        compute(init(CLASSES))
    with pytest.raises(UserError, match="logits are of 3 classes and the metrics of 7"):
        update(init(CLASSES), jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))
    with pytest.raises(UserError, match="at least 2 classes"):
        init(1)
