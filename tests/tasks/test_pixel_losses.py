"""Cross-entropy, focal loss and hard pixels against numpy, pixel by pixel."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.tasks.pixel_losses import cross_entropy, hardest, is_of_class, negative_log_likelihood

CLASSES, VOID = 4, 255
WEIGHTS = np.array([0.5, 1.0, 2.0, 0.0], np.float32)


def images(seed, *, void=0.3, scale=2.0):
    """Logits and classes of three images; the last one is all void."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(3, 5, 6, CLASSES)) * scale
    truth = np.where(generator.random((3, 5, 6)) < void, VOID, generator.integers(0, CLASSES, (3, 5, 6)))
    truth[-1] = VOID
    return logits.astype(np.float32), truth.astype(np.int32)


@jax.jit
def _losses(logits, truth, smoothing, focal, weights):
    counted = is_of_class(truth, ignore=VOID)
    mean = lambda logits: cross_entropy(logits, truth, counted, class_weights=weights, smoothing=smoothing, focal=focal)
    return mean(logits), jax.grad(lambda logits: jnp.sum(mean(logits)))(logits)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("smoothing", "focal", "weights"),
    [(0.0, 0.0, np.ones(4, np.float32)), (0.1, 0.0, WEIGHTS), (0.0, 2.0, WEIGHTS), (0.0, 0.5, np.ones(4, np.float32))],
)
def test_losses_are_those_of_their_definitions(seed, smoothing, focal, weights):
    logits, truth = images(seed)
    found, gradient = _losses(logits, truth, smoothing, focal, weights)
    log_p = scipy.special.log_softmax(logits.astype(float), -1)
    for image in range(3):
        terms = []
        for y, x in zip(*np.nonzero(truth[image] != VOID), strict=True):
            own = truth[image, y, x]
            target = (1 - smoothing) * np.eye(CLASSES)[own] + smoothing / CLASSES
            nats = -(target * log_p[image, y, x]).sum()
            terms.append(weights[own] * (1 - np.exp(log_p[image, y, x, own])) ** focal * nats)
        np.testing.assert_allclose(found[image], np.mean(terms) if terms else 0.0, rtol=2e-5)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[truth == VOID].any()


@pytest.mark.parametrize("focal", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1e-6, 40.0, 1e4])
def test_certain_pixels_have_finite_gradients(focal, scale):
    logits, truth = images(2, scale=scale)
    values, gradient = _losses(logits, truth, 0.0, focal, np.ones(4, np.float32))
    assert np.isfinite(values).all()
    assert np.isfinite(gradient).all()


def test_an_entropy_without_logits_is_that_of_a_guess():
    truth = jnp.zeros((1, 2, 2), jnp.int32)
    np.testing.assert_allclose(negative_log_likelihood(jnp.zeros((1, 2, 2, 5)), truth), np.log(5), rtol=1e-6)


@partial(jax.jit, static_argnames=())
def _hardest(logits, truth, threshold, minimum):
    return hardest(logits, truth, is_of_class(truth, ignore=VOID), threshold=threshold, minimum=minimum)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.floats(0.01, 0.99),
    st.floats(0.01, 1.0),
    st.sampled_from([0.0, 0.5, 0.97]),
)
def test_hard_pixels_are_those_of_a_sort(seed, threshold, minimum, void):
    logits, truth = images(seed, void=void)
    found = np.asarray(_hardest(logits, truth, threshold, minimum))
    log_p = scipy.special.log_softmax(logits.astype(float), -1)
    for image in range(3):
        places = np.flatnonzero(truth[image] != VOID)
        own = log_p[image].reshape(-1, CLASSES)[places, truth[image].reshape(-1)[places]]
        order = places[np.argsort(own)]  # the least likely first
        least = int(np.ceil(np.float32(minimum) * np.float32(len(places))))
        expected = {*order[:least], *places[own < np.log(np.float32(threshold)) - 1e-6]}
        near = set(places[np.abs(own - np.log(threshold)) < 1e-5])  # rounding decides
        kept = set(np.flatnonzero(found[image]))
        assert expected - near <= kept <= expected | near


def test_equally_likely_pixels_are_all_kept():
    truth = jnp.zeros((1, 3, 3), jnp.int32).at[0, 0, 0].set(VOID)
    found = _hardest(jnp.zeros((1, 3, 3, CLASSES)), truth, 0.1, 0.01)
    np.testing.assert_array_equal(found, truth != VOID)
