"""The forward process against its Markov chain, targets against linear algebra, weights against brute force."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.diffusion.parameterization import diffuse, loss_weight, target, to_x0_and_eps
from vision.diffusion.schedules import from_betas, linear, make_schedule

PREDICTIONS = ("epsilon", "x0", "v")


def test_diffuse_is_the_markov_chain():
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) z, step by step, reaches the closed form's mean and variance."""
    betas = np.linspace(0.002, 0.15, 60)
    schedule = from_betas(betas)
    count = 200_000
    generator = np.random.default_rng(0)
    x = np.full(count, 1.7)
    start = jnp.full((count, 1, 1, 1), 1.7)
    eps = jnp.asarray(generator.normal(size=(count, 1, 1, 1)), jnp.float32)
    for t, beta in enumerate(betas):
        x = np.sqrt(1 - beta) * x + np.sqrt(beta) * generator.normal(size=count)
        if t % 20 == 19:
            signal, noise = schedule.at(jnp.full(count, t))
            mean, deviation = 1.7 * float(signal[0, 0, 0, 0]), float(noise[0, 0, 0, 0])
            direct = np.asarray(diffuse(start, eps, signal=signal, noise=noise), np.float64)
            for sample in (x, direct):
                assert abs(sample.mean() - mean) < 5 * deviation / np.sqrt(count)
                assert abs(sample.var() / deviation**2 - 1) < 5 * np.sqrt(2 / count)


@given(
    prediction=st.sampled_from(PREDICTIONS),
    name=st.sampled_from(["linear", "cosine", "sigmoid"]),
    time=st.integers(0, 998),
    seed=st.integers(0, 2**31),
)
def test_estimates_invert_targets(prediction, name, time, seed):
    """A network that hits its target knows x_0 and eps, up to the rounding that dividing by a or s magnifies."""
    generator = np.random.default_rng(seed)
    x0, eps = generator.uniform(-1, 1, (2, 3, 2, 2, 3))
    x0, eps = jnp.asarray(x0, jnp.float32), jnp.asarray(3 * eps, jnp.float32)
    signal, noise = make_schedule(name, 1000).at(jnp.full(3, time))
    noisy = diffuse(x0, eps, signal=signal, noise=noise)
    output = target(prediction, x0, eps, signal=signal, noise=noise)
    found_x0, found_eps = to_x0_and_eps(prediction, output, noisy, signal=signal, noise=noise)
    divisor = {"epsilon": signal, "x0": noise, "v": jnp.ones(())}[prediction].min()
    tolerance = 2e-6 / float(divisor)
    np.testing.assert_allclose(found_x0, x0, atol=tolerance)
    np.testing.assert_allclose(found_eps, eps, atol=tolerance)


@given(angle=st.floats(0.05, 1.5), noisy=st.floats(-3, 3), output=st.floats(-3, 3))
def test_estimates_solve_the_linear_system(angle, noisy, output):
    """Any output is one equation more for (x_0, eps): solved in float64, for outputs that hit no target too."""
    a, s = np.cos(angle), np.sin(angle)
    rows = {"epsilon": (0.0, 1.0), "x0": (1.0, 0.0), "v": (-s, a)}
    for prediction, row in rows.items():
        expected = np.linalg.solve([(a, s), row], [noisy, output])
        image = lambda value: jnp.full((1, 1, 1, 1), value, jnp.float32)
        found = to_x0_and_eps(prediction, image(output), image(noisy), signal=image(a), noise=image(s))
        np.testing.assert_allclose([float(f.squeeze()) for f in found], expected, atol=2e-4)


def test_velocity_is_the_derivative():
    """The velocity is d x_phi / d phi where a = cos phi, s = sin phi (Salimans & Ho 2022), by central differences."""
    generator = np.random.default_rng(1)
    x0, eps = generator.normal(size=(2, 4, 2, 2, 1))
    phi, h = 0.7, 1e-5
    full = lambda value: jnp.full((4, 1, 1, 1), value, jnp.float32)
    at = lambda angle: np.cos(angle) * x0 + np.sin(angle) * eps
    found = target("v", jnp.asarray(x0), jnp.asarray(eps), signal=full(np.cos(phi)), noise=full(np.sin(phi)))
    np.testing.assert_allclose(found, (at(phi + h) - at(phi - h)) / (2 * h), atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("gamma", [5.0, 0.5])
def test_min_snr_is_a_weight_of_the_clean_image(prediction, gamma):
    """It holds that weight * |target - target'|^2 = min(SNR, gamma) |x_0 - x_0'|^2, converted in float64."""
    schedule = linear()
    time = np.array([0, 1, 10, 100, 300, 500, 900, 999])
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[time][:, None]
    a, s = np.sqrt(abar), np.sqrt(1 - abar)
    generator = np.random.default_rng(2)
    x0, eps, wrong_x0 = generator.normal(size=(3, len(time), 6))
    wrong_eps = (a * x0 + s * eps - a * wrong_x0) / s  # explains the same x_t
    outputs = {
        "epsilon": (eps, wrong_eps),
        "x0": (x0, wrong_x0),
        "v": (a * eps - s * x0, a * wrong_eps - s * wrong_x0),
    }
    right, wrong = outputs[prediction]
    weight = np.asarray(loss_weight("min_snr", prediction, schedule, jnp.asarray(time), gamma=gamma), np.float64)
    expected = np.minimum(abar / (1 - abar), gamma)[:, 0] * ((x0 - wrong_x0) ** 2).mean(1)
    np.testing.assert_allclose(weight * ((right - wrong) ** 2).mean(1), expected, rtol=2e-6)


def test_simple_weight_is_one():
    for prediction in PREDICTIONS:
        np.testing.assert_array_equal(loss_weight("simple", prediction, linear(), jnp.arange(5)), np.ones(5))
