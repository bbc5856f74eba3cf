"""Likelihoods against exact values: of a Gaussian by its density, of a few levels by their probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.diffusion.closed_form import DEVIATION, MEAN, gaussian
from vision.diffusion.continuous import EDM, Flow, VariancePreserving
from vision.diffusion.grids import time_grid
from vision.diffusion.likelihood import BIN, bits_per_dimension, dequantized, flow_log_density, variational_bound
from vision.diffusion.samplers.plan import start_deviation
from vision.diffusion.schedules import linear
from vision.errors import UserError

PROCESSES, NAMES = [EDM(), Flow(), VariancePreserving(), linear()], ["edm", "flow", "vp", "linear"]
LEVELS = 5
VALUES = np.linspace(-1, 1, LEVELS)
SHARES = np.array([0.1, 0.4, 0.05, 0.25, 0.2])


@pytest.mark.parametrize(
    "process", [EDM(), Flow(), VariancePreserving(), linear()], ids=["edm", "flow", "vp", "linear"]
)
def test_flow_density_of_a_gaussian(process):
    """Data N(m, d^2) with independent channels, whose trace every probe of Rademacher's finds exactly.

    The equation takes x to a' m + d' z with z = (x - a m) / d, where a and d are of the earliest time and a' and d' of
    the noisiest, and the density there is that of the noise that sampling starts from.
    """
    image = MEAN + DEVIATION * jax.random.normal(jax.random.key(0), (16, 2, 2, 3))
    times = time_grid(process, "karras", 200)
    found = flow_log_density(gaussian(process), process, image, times=times, key=jax.random.key(1))
    signal, noise = process.scales(np.asarray(times[[0, -1]], np.float64))
    deviation = np.hypot(signal * DEVIATION, noise)
    z = (np.asarray(image, np.float64) - signal[1] * MEAN) / deviation[1]
    start = stats.norm(0, start_deviation(process, times)).logpdf(signal[0] * MEAN + deviation[0] * z)
    expected = (start + np.log(deviation[0] / deviation[1])).sum((1, 2, 3))
    np.testing.assert_allclose(found, expected, atol=0.03)
    exact = stats.norm(MEAN, DEVIATION).logpdf(np.asarray(image, np.float64)).sum((1, 2, 3))
    np.testing.assert_allclose(found, exact, atol=0.1)


def test_probes_estimate_the_trace():
    """A denoiser that mixes channels by a matrix: the mean over probes is the density with the exact trace."""
    process, matrix = EDM(), np.array([[0.5, 0.3], [0.3, 0.8]])
    covariance = matrix @ matrix

    def denoise(noisy, time):
        variance = time[0] ** 2 * jnp.eye(2) + jnp.asarray(covariance, jnp.float32)
        return noisy @ (jnp.asarray(covariance, jnp.float32) @ jnp.linalg.inv(variance)).T

    image = jnp.tile(jnp.asarray([[[[0.3, -0.2]]]]), (2000, 1, 1, 1))
    times = time_grid(process, "karras", 60)
    exact = stats.multivariate_normal([0, 0], covariance).logpdf([0.3, -0.2])
    for probes in ("rademacher", "normal"):
        found = flow_log_density(denoise, process, image, times=times, key=jax.random.key(1), probes=probes)
        error = 4 * float(found.std()) / np.sqrt(2000)
        assert float(found.std()) > 0.05
        assert float(found.mean()) == pytest.approx(exact, abs=error + 0.02)


def test_bits_per_dimension():
    """Uniform density on [-1 - bin / 2, 1 + bin / 2]: every level costs 8 bits."""
    density = jnp.full(3, -12 * np.log(2 + BIN))
    np.testing.assert_allclose(bits_per_dimension(density, 12), 8.0, rtol=1e-6)
    image = jnp.zeros((4, 8, 8, 3))
    noise = dequantized(image, key=jax.random.key(0)) / BIN
    assert float(noise.min()) >= -0.5
    assert float(noise.max()) <= 0.5
    assert float(noise.std()) == pytest.approx(np.sqrt(1 / 12), rel=0.05)


def _of_levels(process):
    """E[x_0 | x_t] where channels independently take five values with known probabilities."""

    def denoise(noisy, time):
        signal, noise = (scale[..., None] for scale in process.at(time))
        apart = noisy[..., None] - signal * jnp.asarray(VALUES, jnp.float32)
        shares = jax.nn.softmax(jnp.log(jnp.asarray(SHARES, jnp.float32)) - 0.5 * (apart / noise) ** 2)
        return (shares * jnp.asarray(VALUES, jnp.float32)).sum(-1)

    return denoise


@pytest.mark.parametrize("process", [EDM(), Flow(), VariancePreserving()], ids=["edm", "flow", "vp"])
def test_the_bound_is_the_entropy_for_the_best_denoiser(process):
    """In continuous time the bound is tight where the denoiser is exact: it is -ln P, on average the entropy."""
    random = np.random.default_rng(0)
    level = random.choice(LEVELS, size=(2000, 2, 2, 1), p=SHARES)
    image = jnp.asarray(VALUES[level], jnp.float32)
    found = jax.jit(
        lambda image: variational_bound(
            _of_levels(process), process, image, samples=128, levels=LEVELS, key=jax.random.key(1)
        )
    )(image)
    exact = -np.log(SHARES)[level].sum((1, 2, 3))
    error = 4 * float(np.std(np.asarray(found["bound"]) - exact)) / np.sqrt(2000)
    assert error < 0.2
    assert float(found["bound"].mean()) == pytest.approx(exact.mean(), abs=error + 0.01)
    assert float(found["reconstruction"].mean()) < 1e-3
    assert float(found["prior"].mean()) < 0.02
    np.testing.assert_allclose(found["bound"], found["prior"] + found["diffusion"] + found["reconstruction"], rtol=1e-5)


def test_a_worse_denoiser_has_a_larger_bound():
    process = Flow()
    image = jnp.asarray(VALUES[np.random.default_rng(0).choice(LEVELS, size=(500, 2, 2, 1), p=SHARES)], jnp.float32)
    bound = lambda denoise: float(
        variational_bound(denoise, process, image, samples=4, levels=LEVELS, key=jax.random.key(1))["bound"].mean()
    )
    assert bound(lambda noisy, time: 0.9 * _of_levels(process)(noisy, time)) > bound(_of_levels(process)) + 0.1


def test_times_must_decrease():
    with pytest.raises(UserError, match="the times of a likelihood decrease"):
        flow_log_density(
            gaussian(EDM()), EDM(), jnp.zeros((1, 1, 1, 1)), times=np.asarray([0.1, 2.0]), key=jax.random.key(0)
        )
