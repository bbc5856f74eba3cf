"""The classification loss against numpy and closed forms, what it does to statistics, and prediction with flips."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.errors import UserError
from vision.nn.batch_norm import batch_norm
from vision.tasks.classification import (
    ClassificationConfig,
    binary_cross_entropy,
    check,
    classification_loss,
    classify,
    cross_entropy,
    image_losses,
    smoothed,
)

CLASSES = 5


class Small(nn.Module):
    """The least network with batch statistics and dropout that can tell left from right."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, image, *, train):
        """Logits of three classes."""
        hidden = batch_norm(train=train, name="norm")(image)
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return nn.Dense(3, name="head")(hidden.reshape(len(image), -1))


@st.composite
def _judged(draw):
    """Logits, and targets that are probabilities: of one class, or of several."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = generator.normal(size=(4, CLASSES)) * draw(st.sampled_from([0.1, 1.0, 30.0]))
    mixed = generator.dirichlet(np.full(CLASSES, 0.3), 4)
    targets = mixed if draw(st.booleans()) else np.eye(CLASSES)[generator.integers(0, CLASSES, 4)]
    return logits.astype(np.float32), targets.astype(np.float32)


_losses = jax.jit(lambda x, q: (cross_entropy(x, q), binary_cross_entropy(x, q)))


@settings(max_examples=30)
@given(_judged())
def test_losses_are_those_of_their_definitions(judged):
    logits, targets = judged
    found = _losses(*judged)
    x, q = logits.astype(np.float64), targets.astype(np.float64)
    softmax = -(q * scipy.special.log_softmax(x, axis=1)).sum(1)
    np.testing.assert_allclose(found[0], softmax, rtol=1e-5, atol=1e-5)
    binary = -(q * scipy.special.log_expit(x) + (1 - q) * scipy.special.log_expit(-x)).mean(1)
    np.testing.assert_allclose(found[1], binary, rtol=1e-5, atol=1e-6)


def test_losses_in_closed_form():
    """Equal logits cost log K, or log 2 a class; a certain answer costs nothing, a certain mistake its logit."""
    target = jnp.eye(CLASSES)[:1]
    assert float(cross_entropy(jnp.zeros((1, CLASSES)), target)[0]) == pytest.approx(np.log(CLASSES))
    assert float(binary_cross_entropy(jnp.zeros((1, CLASSES)), target)[0]) == pytest.approx(np.log(2))
    sure = 400.0 * (2 * target - 1)
    assert float(cross_entropy(sure, target)[0]) == float(binary_cross_entropy(sure, target)[0]) == 0
    assert float(cross_entropy(-sure, target)[0]) == pytest.approx(800 + np.log(CLASSES - 1))
    assert float(binary_cross_entropy(-sure, target)[0]) == pytest.approx(400)


def test_the_gradient_is_the_difference_of_probabilities():
    generator = np.random.default_rng(0)
    logits = jnp.asarray(generator.normal(size=(3, CLASSES)), jnp.float32)
    targets = jnp.asarray(generator.dirichlet(np.ones(CLASSES), 3), jnp.float32)
    softmax = jax.grad(lambda x: cross_entropy(x, targets).sum())(logits)
    np.testing.assert_allclose(softmax, jax.nn.softmax(logits) - targets, atol=1e-6)
    binary = jax.grad(lambda x: binary_cross_entropy(x, targets).sum())(logits)
    np.testing.assert_allclose(binary, (jax.nn.sigmoid(logits) - targets) / CLASSES, atol=1e-6)


def test_smoothing_mixes_in_the_mean_over_classes():
    """The smoothed loss is (1 - e) that of the label and e the mean over all classes as labels."""
    generator = np.random.default_rng(1)
    logits, targets = jnp.asarray(generator.normal(size=(3, CLASSES)), jnp.float32), jnp.eye(CLASSES)[:3]
    np.testing.assert_allclose(smoothed(targets, 0.2)[0], [0.84, 0.04, 0.04, 0.04, 0.04], rtol=1e-6)
    np.testing.assert_array_equal(smoothed(targets, 0.0), targets)
    for loss, function in (("cross_entropy", cross_entropy), ("binary", binary_cross_entropy)):
        found = image_losses(logits, targets, ClassificationConfig(loss=loss, smoothing=0.3))
        over_classes = np.mean([function(logits, jnp.eye(CLASSES)[jnp.full(3, k)]) for k in range(CLASSES)], axis=0)
        np.testing.assert_allclose(found, 0.7 * function(logits, targets) + 0.3 * over_classes, rtol=1e-5)


def test_the_threshold_makes_both_classes_of_a_mixed_image_whole():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(3, CLASSES)), jnp.float32)
    mixed = jnp.array([[0.75, 0.25, 0, 0, 0], [0.875, 0.125, 0, 0, 0], [0, 0, 0, 0, 1.0]])
    whole = jnp.array([[1.0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
    config = ClassificationConfig(loss="binary", threshold=0.2)
    np.testing.assert_array_equal(image_losses(logits, mixed, config), binary_cross_entropy(logits, whole))
    # above, not at; and smoothing comes after it
    at = ClassificationConfig(loss="binary", threshold=0.25, smoothing=0.1)
    expected = binary_cross_entropy(logits, smoothed(whole.at[0, 1].set(0), 0.1))
    np.testing.assert_array_equal(image_losses(logits, mixed, at), expected)
    zero = ClassificationConfig(loss="binary", threshold=0.0)
    np.testing.assert_array_equal(
        image_losses(logits, mixed, zero), binary_cross_entropy(logits, whole.at[1, 1].set(1))
    )
    untouched = ClassificationConfig(loss="binary")
    np.testing.assert_array_equal(image_losses(logits, mixed, untouched), binary_cross_entropy(logits, mixed))


@cache
def _network():
    """(batch, params, model state with statistics that fit no batch and a constant, labels)."""
    generator = np.random.default_rng(3)
    image = jnp.asarray(generator.normal(2.0, 3.0, (6, 4, 4, 2)), jnp.float32)
    labels = generator.integers(0, 3, 6)
    variables = Small().init(jax.random.key(0), image, train=False)
    state = {
        "batch_stats": {"norm": {"mean": jnp.array([1.0, -1.0]), "var": jnp.array([2.0, 0.5])}},
        "constants": {"kept": jnp.ones(2)},
    }
    return {"image": image, "target": jnp.eye(3)[labels]}, variables["params"], state, labels


@cache
def _loss(dropout=0.0, **config):
    loss = classification_loss(Small(dropout), ClassificationConfig(**config))
    value = lambda params, state, batch, key: loss(params, state, batch, key=key, step=jnp.zeros((), jnp.int32))
    return jax.jit(jax.value_and_grad(value, has_aux=True))


def test_training_normalises_by_the_batch_and_moves_the_statistics():
    batch, params, state, labels = _network()
    (value, (new, scalars)), grads = _loss()(params, state, batch, jax.random.key(0))
    image = np.asarray(batch["image"], np.float64)
    mean, var = image.mean((0, 1, 2)), image.var((0, 1, 2))
    # Momentum 0.9
    np.testing.assert_allclose(new["batch_stats"]["norm"]["mean"], 0.9 * np.array([1.0, -1.0]) + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["norm"]["var"], 0.9 * np.array([2.0, 0.5]) + 0.1 * var, rtol=1e-5)
    np.testing.assert_array_equal(new["constants"]["kept"], [1, 1])
    hidden = ((image - mean) / np.sqrt(var + 1e-5)).reshape(6, -1)
    logits = hidden @ np.asarray(params["head"]["kernel"]) + np.asarray(params["head"]["bias"])
    expected = -scipy.special.log_softmax(logits, axis=1)[np.arange(6), labels].mean()
    assert float(value) == pytest.approx(expected, rel=1e-4)
    assert float(scalars["accuracy"]) == pytest.approx((logits.argmax(1) == labels).mean())
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grads))


def test_running_statistics_are_used_and_left_as_they_are():
    batch, params, state, labels = _network()
    loss = _loss(0.5, running_statistics=True)
    (value, (new, scalars)), _ = loss(params, state, batch, jax.random.key(0))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, new, state)
    logits = classify(Small())({"params": params, **state}, batch["image"])
    assert float(value) == pytest.approx(float(cross_entropy(logits, batch["target"]).mean()), rel=1e-6)
    assert float(scalars["accuracy"]) == pytest.approx(float((logits.argmax(1) == labels).mean()))
    # no dropout either
    (again, _), _ = loss(params, state, batch, jax.random.key(1))
    assert float(again) == float(value)


def test_dropout_is_keyed_by_the_step():
    batch, params, state, _ = _network()
    first, again, other = (
        float(_loss(dropout=0.5)(params, state, batch, jax.random.key(seed))[0][0]) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_prediction_with_flips_is_the_mean_of_log_probabilities():
    batch, params, state, _ = _network()
    variables, image = {"params": params, **state}, batch["image"]
    plain, flipped = classify(Small()), classify(Small(), flip_tta=True)
    one, other = (
        scipy.special.log_softmax(np.asarray(plain(variables, x)), axis=1) for x in (image, image[:, :, ::-1])
    )
    assert np.abs(one - other).max() > 0.1
    found = flipped(variables, image)
    np.testing.assert_allclose(found, (one + other) / 2, rtol=1e-5, atol=1e-6)
    # left to right, not upside down; and the prediction for the flipped image is the same
    np.testing.assert_allclose(flipped(variables, image[:, :, ::-1]), found, atol=1e-5)
    assert np.abs(flipped(variables, image[:, ::-1]) - found).max() > 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"smoothing": 1.0}, "smoothing must be at least 0 and less than 1, not 1"),
        ({"smoothing": -0.1}, r"not -0.1"),
        ({"threshold": 0.2}, "loss.threshold is for the binary loss alone: set --loss.loss binary"),
        ({"threshold": 0.0}, "loss.threshold is for the binary loss"),
    ],
)
def test_configurations_that_cannot_be(values, message):
    with pytest.raises(UserError, match=message):
        check(ClassificationConfig(**values))
    check(ClassificationConfig(loss="binary", threshold=0.2, smoothing=0.1))
