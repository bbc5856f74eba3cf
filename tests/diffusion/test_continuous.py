"""Continuous processes against the equations that define them, and what every process has in common."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from vision.diffusion.continuous import EDM, Flow, VarianceExploding, VariancePreserving, karras_sigmas
from vision.diffusion.process import Process, sigmas, snr
from vision.diffusion.schedules import linear, make_schedule, scaled_linear, zero_terminal_snr
from vision.errors import UserError

PROCESSES = {
    "flow": Flow(),
    "edm": EDM(),
    "vp": VariancePreserving(),
    "ve": VarianceExploding(),
    "linear": linear(),
    "cosine": make_schedule("cosine", 1000),
    "no last signal": zero_terminal_snr(scaled_linear()),
}


def inner_times(process, count=50):
    """Real times from the earliest to just below the noisiest."""
    return np.linspace(process.earliest, process.noisiest - 1e-3 * (process.noisiest - process.earliest), count)


@pytest.mark.parametrize("name", PROCESSES)
def test_time_and_sigma_are_inverse(name):
    process = PROCESSES[name]
    assert isinstance(process, Process)
    times = inner_times(process)
    if name == "no last signal":
        times = times[times < 998.0]  # beyond, signal and not its logarithm is linear
    levels = sigmas(process, times)
    assert (np.diff(levels) > 0).all()
    np.testing.assert_allclose(process.time_at(levels), times, rtol=1e-9, atol=1e-9)
    on_device = process.time_at(jnp.asarray(levels, jnp.float32))
    np.testing.assert_allclose(on_device, times, rtol=1e-4, atol=2e-4 * process.noisiest)


@pytest.mark.parametrize("name", PROCESSES)
def test_device_and_host_agree(name):
    process = PROCESSES[name]
    times = inner_times(process)
    for found, expected in zip(process.at(jnp.asarray(times, jnp.float32)), process.scales(times), strict=True):
        assert found.shape == (50, 1, 1, 1)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found[:, 0, 0, 0], expected, rtol=3e-4, atol=3e-5)
    expected = (process.scales(times)[0] / process.scales(times)[1]) ** 2
    np.testing.assert_allclose(snr(process, jnp.asarray(times, jnp.float32)), expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", PROCESSES)
def test_default_times_start_at_the_noisiest_and_decrease(name):
    process = PROCESSES[name]
    times = process.times(7)
    assert times[0] == pytest.approx(process.noisiest)
    assert (np.diff(times) < 0).all()
    assert times[-1] > process.clean
    assert len(process.times(1)) == 1


@pytest.mark.parametrize("name", ["flow", "vp", "edm", "linear", "cosine"])
def test_the_clean_image_is_at_time_clean(name):
    process = PROCESSES[name]
    signal, noise = process.scales(np.asarray([process.clean], np.float64))
    assert (signal[0], noise[0]) == (1.0, 0.0)


def test_vp_is_the_solution_of_its_equation():
    """Song et al. 2021, equation 11: dx = -beta(t) x / 2 dt + sqrt(beta(t)) dw with beta(t) linear."""
    process = VariancePreserving()
    for t in (0.1, 0.5, 1.0):
        integral = quad(lambda s: 0.1 + s * 19.9, 0, t)[0]
        signal, noise = process.scales(np.asarray([t]))
        assert signal[0] == pytest.approx(np.exp(-0.5 * integral), rel=1e-9)
        assert noise[0] == pytest.approx(np.sqrt(1 - np.exp(-integral)), rel=1e-9)


def test_vp_is_the_limit_of_the_linear_schedule():
    process, schedule = VariancePreserving(), linear()
    for step in (100, 500, 999):
        found = process.scales(np.asarray([(step + 1) / 1000]))[0][0]
        assert found == pytest.approx(schedule.signal[step], rel=0.04)


def test_ve_is_geometric():
    levels = VarianceExploding().scales(VarianceExploding().times(5))[1]
    np.testing.assert_allclose(levels[1:] / levels[:-1], (0.01 / 50.0) ** 0.25)
    assert levels[0] == pytest.approx(50.0)


def test_edm_times_are_equation_5():
    """Karras et al. 2022, with the constants of their table 1, written out."""
    n, rho = 18, 7
    i = np.arange(n)
    expected = (80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    np.testing.assert_allclose(EDM().times(n), expected)
    assert karras_sigmas(0.1, 3.0, 1, rho=7.0) == pytest.approx([3.0])
    with pytest.raises(UserError, match="choose at least 1"):
        EDM().times(0)


def test_network_times():
    """c_noise of Karras et al. 2022, table 1, and the range of discrete times for a flow."""
    t = jnp.asarray([0.25])
    assert float(EDM().network_time(t)[0]) == pytest.approx(np.log(0.25) / 4)
    assert float(VariancePreserving().network_time(t)[0]) == pytest.approx(999 * 0.25)
    assert float(Flow().network_time(t)[0]) == pytest.approx(250)
    sigma = 0.01 * 5000**0.25
    assert float(VarianceExploding().network_time(t)[0]) == pytest.approx(np.log(sigma / 2), rel=1e-5)


def test_zero_terminal_snr_is_algorithm_1():
    """Lin et al. 2024: sqrt(abar) is shifted so that its last value is 0 and scaled so that its first is kept."""
    for schedule in (linear(), scaled_linear(), make_schedule("cosine", 50)):
        found = zero_terminal_snr(schedule)
        assert found.signal[-1] == 0.0
        assert found.noise[-1] == 1.0
        assert found.signal[0] == pytest.approx(schedule.signal[0], rel=1e-12)
        np.testing.assert_allclose(found.signal**2 + found.noise**2, 1.0)
        # differences keep their proportions
        np.testing.assert_allclose(
            np.diff(found.signal) / np.diff(schedule.signal),
            np.full(schedule.steps - 1, (schedule.signal[0] / (schedule.signal[0] - schedule.signal[-1]))),
        )


def test_scaled_linear_is_that_of_released_models():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(scaled_linear().signal, np.sqrt(np.cumprod(1 - betas)))
