"""The forward process against its Markov chain, targets against linear algebra, weights against brute force."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.diffusion.continuous import EDM, Flow, VarianceExploding, VariancePreserving
from vision.diffusion.parameterization import convert, diffuse, error_ratio, loss_weight, target, to_eps, to_x0
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
    found_x0 = to_x0(prediction, output, noisy, signal=signal, noise=noise)
    found_eps = to_eps(prediction, output, noisy, signal=signal, noise=noise)
    divisor = {"epsilon": signal, "x0": noise, "v": jnp.ones(())}[prediction].min()
    tolerance = 2e-6 / float(divisor)
    np.testing.assert_allclose(found_x0, x0, atol=tolerance)
    np.testing.assert_allclose(found_eps, eps, atol=tolerance)


@given(angle=st.floats(0.05, 1.5), noisy=st.floats(-3, 3), output=st.floats(-3, 3))
def test_estimates_solve_the_linear_system(angle, noisy, output):
    """Any output is one equation more for (x_0, eps): solved in float64, for outputs that hit no target too."""
    a, s = np.cos(angle), np.sin(angle)
    rows = {"epsilon": (0.0, 1.0), "x0": (1.0, 0.0), "v": (-s, a), "velocity": (-1.0, 1.0), "score": (0.0, -1 / s)}
    for prediction, row in rows.items():
        expected = np.linalg.solve([(a, s), row], [noisy, output])
        image = lambda value: jnp.full((1, 1, 1, 1), value, jnp.float32)
        at = {"signal": image(a), "noise": image(s)}
        found = [of(prediction, image(output), image(noisy), **at) for of in (to_x0, to_eps)]
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


ALL = ("epsilon", "x0", "v", "velocity", "score", "edm")


@pytest.mark.parametrize("process", [linear(), Flow(), EDM(), VariancePreserving(), VarianceExploding()])
@given(share=st.floats(0.02, 0.98), seed=st.integers(0, 2**31))
def test_predictions_convert_into_each_other_and_back(process, share, seed):
    """From the output that an arbitrary (x_0, eps) implies, at any time: each against its definition."""
    generator = np.random.default_rng(seed)
    x0, eps = (jnp.asarray(v, jnp.float32) for v in generator.normal(size=(2, 1, 2, 2, 1)))
    low, high = np.log([max(process.earliest, 1e-3), process.noisiest])
    time = jnp.asarray([np.exp(low + share * (high - low))], jnp.float32)
    at = dict(zip(("signal", "noise"), process.at(time), strict=True))
    noisy = diffuse(x0, eps, **at)
    truth = {prediction: target(prediction, x0, eps, **at) for prediction in ALL}
    a, s = (float(scale.squeeze()) for scale in at.values())
    for first in ALL:
        for second in ALL:
            found = convert(truth[first], noisy, from_=first, to=second, **at)
            # what float32 loses: the estimates of x_0 and eps divide by a and s
            size = max(1.0, s / a, a / s) * max(1.0, 1 / s, s)
            np.testing.assert_allclose(found, truth[second], atol=4e-6 * size, rtol=1e-5 * size)


def test_predictions_of_a_gaussian_are_its_score():
    """For data N(m, d^2) every prediction follows from the score of p(x_t), which is known in closed form."""
    m, d = 0.4, 0.3
    x = jnp.linspace(-2, 2, 9).reshape(9, 1, 1, 1)
    for process in (linear(), Flow(), EDM()):
        time = jnp.full((9,), {EDM: 0.7, Flow: 0.4}.get(type(process), 300.0))
        at = dict(zip(("signal", "noise"), process.at(time), strict=True))
        a, s = (np.float64(scale[0, 0, 0, 0]) for scale in at.values())
        score = (a * m - np.asarray(x, np.float64)) / ((a * d) ** 2 + s**2)
        posterior = m + a * d**2 / ((a * d) ** 2 + s**2) * (np.asarray(x, np.float64) - a * m)  # E[x_0 | x_t]
        eps = -s * score
        expected = {
            "epsilon": eps,
            "x0": posterior,
            "v": a * eps - s * posterior,
            "velocity": eps - posterior,
            # Karras et al. 2022, equation 7 and table 1, solved for F, with c_skip and c_out for a signal of a
            "edm": (posterior - 0.25 * a / (s**2 + 0.25 * a**2) * np.asarray(x, np.float64))
            * np.sqrt(s**2 + 0.25 * a**2)
            / (0.5 * s),
        }
        for prediction, value in expected.items():
            found = convert(jnp.asarray(score, jnp.float32), x, from_="score", to=prediction, **at)
            np.testing.assert_allclose(found, value, rtol=2e-4, atol=2e-5)


def test_a_flow_velocity_is_the_derivative_along_the_line():
    process = Flow()
    x0, eps = np.random.default_rng(1).normal(size=(2, 4, 2, 2, 1))
    h = 1e-5
    at = lambda t: (1 - t) * x0 + t * eps
    ones = jnp.ones((4, 1, 1, 1), jnp.float32)
    found = target("velocity", jnp.asarray(x0), jnp.asarray(eps), signal=0.7 * ones, noise=0.3 * ones)
    np.testing.assert_allclose(found, (at(0.3 + h) - at(0.3 - h)) / (2 * h), atol=1e-5)
    assert process.straight


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v", "velocity", "edm"])
@pytest.mark.parametrize("weighting", ["epsilon", "x0", "v", "velocity", "edm", "min_snr"])
def test_weights_by_the_name_of_a_prediction(prediction, weighting):
    """The weighted error of a wrong output is the error of the named prediction, computed in float64."""
    process = VariancePreserving()
    time = np.array([0.05, 0.3, 0.6, 0.9])
    a, s = (scale[:, None] for scale in process.scales(time))
    generator = np.random.default_rng(2)
    x0, eps, wrong_x0 = generator.normal(size=(3, len(time), 6))
    wrong_eps = (a * x0 + s * eps - a * wrong_x0) / s  # explains the same x_t
    r = np.sqrt(s**2 + 0.25 * a**2)
    of = {
        "epsilon": lambda x, e: e,
        "x0": lambda x, e: x,
        "v": lambda x, e: a * e - s * x,
        "velocity": lambda x, e: e - x,
        "edm": lambda x, e: (s / 0.5 * x - 0.5 * a * e) / r,
        "min_snr": lambda x, e: np.sqrt(np.minimum((a / s) ** 2, 5.0)) * x,
    }
    error = lambda name: ((of[name](x0, eps) - of[name](wrong_x0, wrong_eps)) ** 2).mean(1)
    weight = loss_weight(weighting, prediction, process, jnp.asarray(time, jnp.float32))
    np.testing.assert_allclose(np.asarray(weight, np.float64) * error(prediction), error(weighting), rtol=2e-4)
    ratio = error_ratio(prediction, process, jnp.asarray(time, jnp.float32))
    np.testing.assert_allclose(np.asarray(ratio, np.float64) ** 2 * error("x0"), error(prediction), rtol=2e-4)


def test_edm_weights_are_those_of_the_paper():
    """Karras et al. 2022, table 1: lambda(sigma) (D - x_0)^2 with lambda = (sigma^2 + d^2) / (sigma d)^2 is |F|^2's."""
    sigma = jnp.asarray([0.01, 0.5, 3.0, 60.0])
    weight = loss_weight("edm", "x0", EDM(), sigma)
    np.testing.assert_allclose(weight, (sigma**2 + 0.25) / (0.5 * sigma) ** 2, rtol=1e-5)
