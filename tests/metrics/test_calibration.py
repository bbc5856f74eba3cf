"""Calibration against loops, on a source that is calibrated by construction, and temperatures against a search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.errors import UserError
from vision.metrics.recognition.calibration import compute, fit_temperature, init, merge, update

CLASSES, BATCH = 4, 8
_update = jax.jit(update)


def _evaluated(logits, labels, bins=15, sizes=(BATCH,)):
    """The sums over batches of the given sizes in turn, each padded to `BATCH` with rows that would spoil any sum."""
    sums, start, turn = init(bins), 0, 0
    while start < len(labels):
        rows = slice(start, start + sizes[turn % len(sizes)])
        part = len(labels[rows])
        padded = np.full((BATCH, logits.shape[1]), np.inf, np.float32)
        padded[:part] = logits[rows]
        labelled = np.full(BATCH, 99, np.int32)
        labelled[:part] = labels[rows]
        sums = _update(sums, jnp.asarray(padded), jnp.asarray(labelled), jnp.arange(BATCH) < part)
        start, turn = start + part, turn + 1
    return sums


@settings(max_examples=40)
@given(
    n=st.integers(1, 30),
    seed=st.integers(0, 2**32),
    bins=st.sampled_from([1, 5, 15]),
    sizes=st.lists(st.integers(1, BATCH), min_size=1, max_size=4),
)
def test_errors_are_those_of_loops_in_batches_of_any_size(n, seed, bins, sizes):
    generator = np.random.default_rng(seed)
    logits = (3 * generator.normal(size=(n, CLASSES))).astype(np.float32)
    labels = generator.integers(0, CLASSES, n)
    result = compute(_evaluated(logits, labels, bins, sizes))

    p = scipy.special.softmax(logits.astype(np.float64), axis=1)
    confidence, right = p.max(1), p.argmax(1) == labels
    gaps, weights = [], []
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        assert result.counts[i] == inside.sum()
        if inside.any():
            gaps.append(abs(right[inside].mean() - confidence[inside].mean()))
            weights.append(inside.mean())
            np.testing.assert_allclose(result.confidence[i], confidence[inside].mean(), rtol=1e-6)
            assert result.accuracy[i] == right[inside].mean()
        else:
            assert np.isnan(result.confidence[i])
            assert np.isnan(result.accuracy[i])
    np.testing.assert_allclose(result.expected_calibration_error, np.dot(weights, gaps), atol=1e-6)
    np.testing.assert_allclose(result.maximum_calibration_error, max(gaps), atol=1e-6)
    squares = sum((p[i, c] - (c == labels[i])) ** 2 for i in range(n) for c in range(CLASSES))
    np.testing.assert_allclose(result.brier_score, squares / n, rtol=1e-5, atol=1e-9)


def test_by_hand():
    """Two bins; confidences 0.6 (right), 0.8 (wrong), 1.0 (right) in the upper, 0.4 (wrong) in the lower."""
    p = np.array([[0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [1 - 2e-12, 1e-12, 1e-12], [0.3, 0.3, 0.4]])
    result = compute(update(init(2), jnp.asarray(np.log(p), jnp.float32), jnp.array([0, 0, 0, 1])))
    np.testing.assert_array_equal(result.counts, [1, 3])
    np.testing.assert_allclose(result.confidence, [0.4, 0.8], rtol=1e-6)
    np.testing.assert_allclose(result.accuracy, [0, 2 / 3], rtol=1e-12)
    np.testing.assert_allclose(result.expected_calibration_error, 0.25 * 0.4 + 0.75 * (0.8 - 2 / 3), rtol=1e-6)
    np.testing.assert_allclose(result.maximum_calibration_error, 0.4, rtol=1e-6)
    np.testing.assert_allclose(result.brier_score, (0.24 + 1.46 + 0 + 0.74) / 4, rtol=1e-6)
    assert list(result.protocol("toys")) == list(result.scalars())
    assert "in 2 bins of equal width, on 4 images of toys" in result.protocol("toys")["expected_calibration_error"]


@pytest.fixture(scope="module")
def calibrated():
    """Logits, and labels sampled from their softmax: calibrated by construction."""
    generator = np.random.default_rng(0)
    logits = (1.5 * generator.normal(size=(40_000, CLASSES))).astype(np.float32)
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(1)
    return logits, labels


def test_a_calibrated_source_has_hardly_an_error_and_a_sharpened_one_has(calibrated):
    logits, labels = calibrated
    whole = jax.jit(lambda logits, labels: update(init(), logits, labels))
    honest = compute(whole(logits, labels))
    # A bin of n images misses its confidence by about sqrt(p (1 - p) / n): 15 bins of 2,700 give 0.6 %
    assert honest.expected_calibration_error < 0.01
    boasting = compute(whole(3 * logits, labels))
    assert boasting.expected_calibration_error > 0.15
    assert boasting.brier_score > honest.brier_score + 0.05
    assert np.nansum((boasting.accuracy > boasting.confidence)[boasting.counts > 100]) == 0


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0, 1e4])
def test_the_temperature_undoes_a_scale(calibrated, temperature):
    logits, labels = calibrated
    scaled = logits * np.float32(temperature)
    found = fit_temperature(scaled, labels)
    assert abs(found / temperature - 1) < 0.03

    def cross_entropy(t):
        return -np.mean(scipy.special.log_softmax(scaled / t, axis=1)[np.arange(len(labels)), labels])

    best = scipy.optimize.minimize_scalar(
        lambda log_t: cross_entropy(np.exp(log_t)), bounds=np.log([temperature / 2, temperature * 2]), method="bounded"
    )
    np.testing.assert_allclose(found, np.exp(best.x), rtol=1e-4)


def test_a_temperature_that_does_not_exist_is_refused():
    eye = 5 * np.eye(3, dtype=np.float32)
    with pytest.raises(UserError, match="all 3 images are classified right"):
        fit_temperature(eye, np.arange(3))
    with pytest.raises(UserError, match="say nothing about the labels"):
        fit_temperature(-eye, np.arange(3))
    with pytest.raises(UserError, match="say nothing about the labels"):
        fit_temperature(eye[[0, 0, 0]], np.arange(3))
    with pytest.raises(UserError, match="say nothing about the labels"):
        fit_temperature(0 * eye, np.arange(3))
    with pytest.raises(UserError, match="not finite"):
        fit_temperature(np.full((1, 3), np.nan, np.float32), np.zeros(1, int))
    with pytest.raises(UserError, match="labels that are not classes"):
        fit_temperature(eye, np.array([0, 1, 3]))
    with pytest.raises(UserError, match="there are none"):
        fit_temperature(eye[:0], np.zeros(0, int))


def test_merged_parts_are_the_whole(calibrated):
    logits, labels = (of[:50] for of in calibrated)
    whole = compute(_evaluated(logits, labels))
    merged = compute(merge(_evaluated(logits[:13], labels[:13]), _evaluated(logits[13:], labels[13:])))
    np.testing.assert_array_equal(merged.counts, whole.counts)
    np.testing.assert_array_equal(merged.accuracy, whole.accuracy)
    assert merged.scalars() == pytest.approx(whole.scalars(), rel=1e-6)


def test_invalid_input_is_refused():
    logits = np.zeros((3, CLASSES), np.float32)
    logits[1, 2] = np.nan
    with pytest.raises(UserError, match="2 images have logits that are not finite or labels that are not classes"):
        compute(_evaluated(logits, np.array([0, 0, CLASSES])))
    with pytest.raises(UserError, match="no images"):
        compute(init())
    with pytest.raises(UserError, match="at least 1 bin"):
        init(0)


def test_a_decision_is_of_the_logits_where_probabilities_are_rounded_equal():
    """As top-1 accuracy counts it: e^1e-8 is 1 in float32."""
    logits = jnp.array([[0.0, 1e-8, -5.0]], jnp.float32)
    probabilities = jax.nn.softmax(logits)[0]
    assert probabilities[0] == probabilities[1]
    result = compute(update(init(2), logits, jnp.array([1])))
    np.testing.assert_array_equal(result.accuracy, [1.0, np.nan])
