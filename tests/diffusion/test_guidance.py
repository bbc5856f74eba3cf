"""Guidance on Gaussians and mixtures, whose scores are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.diffusion.continuous import EDM
from vision.diffusion.guidance import (
    autoguided,
    denoiser,
    dynamic_threshold,
    guided,
    guided_in_turn,
    input_scale,
    static_threshold,
)
from vision.diffusion.parameterization import target, to_eps
from vision.diffusion.samplers.ddim import ddim
from vision.diffusion.samplers.plan import integrate
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
    denoise = guided(denoiser(_mixture_eps, SCHEDULE, "epsilon"), **_labels(jnp.full(13, label)), scale=scale)
    noisy = jnp.asarray(x, jnp.float32)[:, None, None, None]
    at = dict(zip(("signal", "noise"), SCHEDULE.at(jnp.full(13, time)), strict=True))
    found = to_eps("x0", denoise(noisy, jnp.full(13, time)), noisy, **at)
    np.testing.assert_allclose(found[:, 0, 0, 0], expected, atol=2e-4)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_guidance_moves_the_mean(scale):
    """With p(x) = N(0, d^2) and p(x | c) = N(m, d^2), the sharpened density is N(w m, d^2) at every time."""

    def predict(noisy, time, condition):
        signal, noise = SCHEDULE.at(time)
        mean = jnp.where(condition["label"] == NULL, 0.0, 0.3)[:, None, None, None]
        return noise * (noisy - signal * mean) / ((signal * DEVIATION) ** 2 + noise**2)

    start = jax.random.normal(jax.random.key(1), (500, 1, 1, 1))
    denoise = guided(denoiser(predict, SCHEDULE, "epsilon"), **_labels(jnp.zeros(500, jnp.int32)), scale=scale)
    images = integrate(ddim(SCHEDULE, SCHEDULE.times(500)), denoise, start)
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


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v", "velocity", "score", "edm"])
def test_denoiser_reads_every_prediction(prediction):
    x0, eps = jax.random.normal(jax.random.key(2), (2, 3, 2, 2, 1))
    time = jnp.array([100, 300, 600])
    signal, noise = SCHEDULE.at(time)
    output = lambda noisy, time, condition: target(prediction, x0, eps, signal=signal, noise=noise)
    found = denoiser(output, SCHEDULE, prediction)(signal * x0 + noise * eps, time, {})
    np.testing.assert_allclose(found, x0, atol=1e-4)


def test_networks_see_scaled_images_and_their_own_times():
    """Karras et al. 2022, table 1: c_in = 1 / sqrt(sigma^2 + d^2) and c_noise = ln(sigma) / 4."""
    seen = []

    def predict(noisy, time, condition):
        seen.append((noisy, time))
        return jnp.zeros_like(noisy)

    sigma = jnp.asarray([0.1, 2.0])
    noisy = jnp.ones((2, 1, 1, 1))
    found = denoiser(predict, EDM(), "edm", data_deviation=0.4)(noisy, sigma, {})
    np.testing.assert_allclose(seen[0][0].ravel(), 1 / np.sqrt(np.array([0.1, 2.0]) ** 2 + 0.16), rtol=1e-6)
    np.testing.assert_allclose(seen[0][1], np.log([0.1, 2.0]) / 4, rtol=1e-6)
    np.testing.assert_allclose(found.ravel(), 0.16 / (np.array([0.1, 2.0]) ** 2 + 0.16), rtol=1e-6)  # c_skip x
    assert input_scale(SCHEDULE, *SCHEDULE.at(jnp.array([3]))) == 1.0


def test_guidance_within_an_interval():
    """Outside of it the conditional estimate alone, on both sides; the bounds are sigmas, above low and up to high."""
    process = EDM()
    denoise = lambda noisy, time, condition: noisy * 0 + condition["label"][:, None, None, None]
    found = guided(
        denoise,
        condition={"label": jnp.array([1.0])},
        null={"label": jnp.array([0.0])},
        scale=3.0,
        process=process,
        interval=(0.5, 5.0),
    )
    values = [float(found(jnp.zeros((1, 1, 1, 1)), jnp.asarray([sigma]))[0, 0, 0, 0]) for sigma in (0.4, 0.6, 5.0, 6.0)]
    assert values == [1.0, 3.0, 3.0, 1.0]
    with pytest.raises(ValueError, match="needs the process"):
        guided(denoise, condition={}, null={}, scale=3.0, interval=(0.5, 5.0))


def test_rescaled_guidance():
    """Lin et al. 2024, equations 15 and 16: with phi = 1 the deviation is the conditional estimate's."""
    conditional, unconditional = jax.random.normal(jax.random.key(0), (2, 1, 4, 4, 3))
    both = lambda noisy, time, condition: jnp.where(
        condition["label"][:, None, None, None] == 1, conditional, unconditional
    )
    labels = {"condition": {"label": jnp.array([1])}, "null": {"label": jnp.array([0])}}
    at = (jnp.zeros((1, 4, 4, 3)), jnp.zeros(1))
    plain = guided(both, **labels, scale=4.0)(*at)
    whole = guided(both, **labels, scale=4.0, rescale=1.0)(*at)
    assert float(whole.std()) == pytest.approx(float(conditional.std()), rel=1e-5)
    assert float(plain.std()) > 1.5 * float(conditional.std())
    part = guided(both, **labels, scale=4.0, rescale=0.7)(*at)
    np.testing.assert_allclose(part, 0.7 * whole + 0.3 * plain, rtol=1e-5, atol=1e-6)


def test_autoguidance_moves_away_from_the_worse_network():
    good, bad = (lambda noisy, time: 2.0 * noisy), (lambda noisy, time: 0.5 * noisy)
    x = jnp.ones((1, 1, 1, 1))
    assert float(autoguided(good, bad, scale=2.0)(x, jnp.zeros(1)).squeeze()) == 3.5
    assert autoguided(good, bad, scale=1.0) is good


def test_thresholds():
    x0 = jnp.asarray([[0.5, -4.0, 2.0, 1.0], [0.1, -0.2, 0.3, 0.4]]).reshape(2, 2, 2, 1)
    np.testing.assert_allclose(static_threshold()(x0).reshape(2, 4), [[0.5, -1, 1, 1], [0.1, -0.2, 0.3, 0.4]])
    np.testing.assert_allclose(static_threshold(0.3)(x0).reshape(2, 4)[1], [0.1, -0.2, 0.3, 0.3], rtol=1e-6)
    # Saharia et al. 2022, section 2.3: the largest absolute value is 4; images within the range stay
    np.testing.assert_allclose(
        dynamic_threshold(100.0)(x0).reshape(2, 4), [[0.125, -1, 0.5, 0.25], [0.1, -0.2, 0.3, 0.4]]
    )
    median = np.median([0.5, 4.0, 2.0, 1.0])
    np.testing.assert_allclose(
        dynamic_threshold(50.0)(x0).reshape(2, 4)[0], np.clip([0.5, -4, 2, 1], -median, median) / median
    )


@pytest.mark.parametrize("scales", [(1.5, 4.0), (1.0, 3.0), (2.0, 1.0), (0.5, 0.0), (1.0, 1.0)])
def test_guidance_by_two_conditions_is_the_formula(scales):
    """Brooks et al. 2023, equation 3, written out: e(0, 0) + a (e(i, 0) - e(0, 0)) + b (e(i, t) - e(i, 0))."""
    calls = []
    networks = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 3))

    def denoise(noisy, time, condition):
        calls.append(len(noisy))
        image, text = (condition[name][:, None, None, None] for name in ("image", "text"))
        # of the two conditions together it knows more than of each by itself
        return noisy + image * networks[0, 0] + text * networks[0, 1] + image * text * networks[1, 0]

    given = lambda image, text: {"image": jnp.full(2, image), "text": jnp.full(2, text)}
    conditions = [given(0.0, 0.0), given(1.0, 0.0), given(1.0, 1.0)]
    at = (jnp.ones((2, 4, 4, 3)), jnp.zeros(2))
    found = guided_in_turn(denoise, conditions=conditions, scales=scales)(*at)
    assert calls == [2 * {(1.0, 3.0): 2, (1.0, 1.0): 1}.get(scales, 3)]
    none, image, both = (denoise(*at, condition) for condition in conditions)
    expected = none + scales[0] * (image - none) + scales[1] * (both - image)
    np.testing.assert_allclose(found, expected, atol=1e-5)
