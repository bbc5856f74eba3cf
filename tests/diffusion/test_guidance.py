"""Guidance on Gaussians and mixtures, whose scores are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.diffusion.guidance import denoiser, guided
from vision.diffusion.parameterization import target
from vision.diffusion.samplers import ddim
from vision.diffusion.schedules import linear

SCHEDULE = linear()
MEANS = np.array([-0.8, 0.1, 0.9])
DEVIATION = 0.25
NULL = 3


def _log_density(x, abar, label):
    """The log density of x_t in float64: a Gaussian for each label, and their equal mixture for the null label."""
    means = np.sqrt(abar) * (MEANS if label == NULL else MEANS[label : label + 1])
    spread = abar * DEVIATION**2 + 1 - abar
    terms = np.exp(-((np.asarray(x)[..., None] - means) ** 2) / (2 * spread))
    return np.log(terms.mean(-1))


def _labels(label):
    """The label as a condition, and its null."""
    return {"condition": {"label": label}, "null": {"label": jnp.full_like(label, NULL)}}


def _mixture_eps(noisy, time, condition):
    """-s times the score, in closed form: responsibilities of the components that the label allows."""
    label = condition["label"]
    signal, noise = SCHEDULE.at(time)
    spread = (signal * DEVIATION) ** 2 + noise**2
    apart = noisy[..., None] - signal[..., None] * jnp.asarray(MEANS, jnp.float32)
    allowed = (label[:, None] == jnp.arange(3)) | (label[:, None] == NULL)
    logits = jnp.where(allowed[:, None, None, None], -(apart**2) / (2 * spread[..., None]), -jnp.inf)
    return noise * (jax.nn.softmax(logits) * apart).sum(-1) / spread


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("time", [50, 400, 800])
def test_guided_epsilon_is_the_score_of_the_sharpened_density(scale, time):
    """Score of p(x)^(1 - w) p(x | c)^w by central differences of log densities in float64."""
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[time]
    x = np.linspace(-1.5, 1.5, 13)
    label, h = 2, 1e-4
    log_p = lambda x: (1 - scale) * _log_density(x, abar, NULL) + scale * _log_density(x, abar, label)
    expected = -np.sqrt(1 - abar) * (log_p(x + h) - log_p(x - h)) / (2 * h)
    output = guided(_mixture_eps, **_labels(jnp.full(13, label)), scale=scale)
    found = output(jnp.asarray(x, jnp.float32)[:, None, None, None], jnp.full(13, time))
    np.testing.assert_allclose(found[:, 0, 0, 0], expected, atol=2e-4)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_guidance_moves_the_mean(scale):
    """With p(x) = N(0, d^2) and p(x | c) = N(m, d^2), the sharpened density is N(w m, d^2) at every time."""

    def predict(noisy, time, condition):
        signal, noise = SCHEDULE.at(time)
        mean = jnp.where(condition["label"] == NULL, 0.0, 0.3)[:, None, None, None]
        return noise * (noisy - signal * mean) / ((signal * DEVIATION) ** 2 + noise**2)

    start = jax.random.normal(jax.random.key(1), (500, 1, 1, 1))
    output = guided(predict, **_labels(jnp.zeros(500, jnp.int32)), scale=scale)
    images = ddim(denoiser(output, SCHEDULE, "epsilon"), SCHEDULE, start, key=jax.random.key(0), steps=500, clip=False)
    signal, noise = SCHEDULE.at(jnp.array([999]))
    z = (start - signal * scale * 0.3) / jnp.sqrt((signal * DEVIATION) ** 2 + noise**2)
    np.testing.assert_allclose(images, scale * 0.3 + DEVIATION * z, atol=0.01)


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_number_of_network_calls_and_what_they_see(scale):
    seen = []

    def predict(noisy, time, condition):
        seen.append((np.asarray(noisy), np.asarray(time), {name: np.asarray(v) for name, v in condition.items()}))
        return noisy * 0 + condition["label"][:, None, None, None]

    noisy, time = jnp.arange(2.0).reshape(2, 1, 1, 1), jnp.array([4, 9])
    condition = {"label": jnp.array([1, 5]), "embedding": jnp.array([[0.5, 1.5], [2.5, 3.5]])}
    null = {"label": jnp.array([8, 8]), "embedding": jnp.zeros((2, 2))}
    found = guided(predict, condition=condition, null=null, scale=scale)(noisy, time)
    (call,) = seen
    again = 1 if scale == 1 else 2
    np.testing.assert_array_equal(call[0], np.concatenate([noisy] * again))
    np.testing.assert_array_equal(call[1], [4, 9] * again)
    assert set(call[2]) == {"label", "embedding"}
    np.testing.assert_array_equal(call[2]["label"], [1, 5, 8, 8][: 2 * again])
    np.testing.assert_array_equal(call[2]["embedding"], [[0.5, 1.5], [2.5, 3.5], [0, 0], [0, 0]][: 2 * again])
    np.testing.assert_allclose(found[:, 0, 0, 0], [8 + scale * (1 - 8), 8 + scale * (5 - 8)])


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_denoiser_reads_every_prediction(prediction):
    x0, eps = jax.random.normal(jax.random.key(2), (2, 3, 2, 2, 1))
    time = jnp.array([100, 300, 600])
    signal, noise = SCHEDULE.at(time)
    output = lambda noisy, time: target(prediction, x0, eps, signal=signal, noise=noise)
    found = denoiser(output, SCHEDULE, prediction)(signal * x0 + noise * eps, time)
    np.testing.assert_allclose(found[0], x0, atol=1e-5)
    np.testing.assert_allclose(found[1], eps, atol=1e-5)
