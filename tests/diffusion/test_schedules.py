"""Noise schedules against products and formulas written out in float64, and the shape that every schedule has."""

import math
from decimal import Decimal, getcontext

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.diffusion.process import Process, snr
from vision.diffusion.schedules import cosine, from_abar, from_betas, linear, make_schedule, sigmoid
from vision.errors import UserError

NAMES = ("linear", "cosine", "sigmoid")


def _check_table(schedule, abar):
    """The tables against float64 abar, each to the last digits of float32."""
    np.testing.assert_allclose(schedule.signal, np.sqrt(abar), rtol=2e-7)
    np.testing.assert_allclose(schedule.noise, np.sqrt(1 - abar), rtol=2e-7)


def test_linear_is_the_published_one():
    """The product of 1 - beta over 1000 betas from 1e-4 to 0.02, in decimal arithmetic of 40 digits."""
    getcontext().prec = 40
    product, abar = Decimal(1), []
    for t in range(1000):
        product *= 1 - (Decimal("1e-4") + (Decimal("0.02") - Decimal("1e-4")) * t / 999)
        abar.append(product)
    schedule = linear()
    assert schedule.steps == 1000
    assert float(abar[-1]) == pytest.approx(4.0358e-5, rel=1e-5)
    _check_table(schedule, np.array([float(a) for a in abar]))
    assert schedule.noise[0] == pytest.approx(0.01, rel=1e-7)


def test_noise_at_the_start_keeps_its_digits():
    """beta_0 = 1e-7 over a million steps: sqrt(1 - signal^2) in float32 would be off by a fifth."""
    schedule = linear(1_000_000)
    assert schedule.noise[0] == pytest.approx(math.sqrt(1e-7), rel=1e-6)
    naive = np.sqrt(np.float32(1) - np.float32(schedule.signal[0]) ** 2)
    assert abs(naive / math.sqrt(1e-7) - 1) > 0.05


@pytest.mark.parametrize("steps", [10, 250, 4000])
def test_linear_reaches_about_the_same_end(steps):
    """The log of abar is the integral of beta, and scaling the betas keeps it; coarse steps end lower."""
    last = linear(steps).signal[-1].astype(np.float64) ** 2
    assert 0 < last < 6e-5


@pytest.mark.parametrize("steps", [50, 1000])
def test_cosine_formula(steps):
    f = lambda t: math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    schedule = cosine(steps)
    abar = np.array([f(t) / f(0) for t in range(1, steps)])
    np.testing.assert_allclose(schedule.signal[:-1], np.sqrt(abar), rtol=1e-6)
    np.testing.assert_allclose(schedule.noise[:-1], np.sqrt(1 - abar), rtol=1e-6)
    # f(T) = 0: the last beta is capped at 0.999
    assert schedule.signal[-1] == pytest.approx(math.sqrt(abar[-1] * 1e-3), rel=1e-6)


@pytest.mark.parametrize("steps", [50, 1000])
def test_sigmoid_formula(steps):
    logistic = lambda x: 1 / (1 + math.exp(-x))
    abar = np.array(
        [(logistic(3) - logistic(6 * t / steps - 3)) / (logistic(3) - logistic(-3)) for t in range(1, steps)]
    )
    schedule = sigmoid(steps)
    np.testing.assert_allclose(schedule.signal[:-1], np.sqrt(abar), rtol=1e-6)
    np.testing.assert_allclose(schedule.noise[:-1], np.sqrt(1 - abar), rtol=1e-6)
    # abar falls through one half in the middle, by symmetry
    assert sigmoid(50).signal[24] == pytest.approx(math.sqrt(0.5), rel=1e-6)


def test_constant_betas():
    schedule = from_betas(np.full(40, 0.1))
    _check_table(schedule, 0.9 ** np.arange(1, 41))


def test_from_abar_returns_what_it_is_given():
    abar = np.linspace(1.0, 0.01, 30)
    _check_table(from_abar(abar), abar[1:])


@given(name=st.sampled_from(NAMES), steps=st.integers(10, 4000))
def test_every_schedule(name, steps):
    schedule = make_schedule(name, steps)
    signal, noise = schedule.signal, schedule.noise
    assert signal.shape == noise.shape == (steps,) == (schedule.steps,)
    assert signal.dtype == noise.dtype == np.float64
    np.testing.assert_allclose(signal**2 + noise**2, 1.0, atol=1e-12)
    assert (np.diff(signal) < 0).all()
    assert (np.diff(noise) >= 0).all()
    assert signal[0] < 1
    assert signal[-1] > 0
    assert noise[0] > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [10, 1000])
def test_signal_to_noise_ratio_is_finite_at_both_ends(name, steps):
    schedule = make_schedule(name, steps)
    ratio = np.asarray(snr(schedule, jnp.arange(steps)))
    assert np.isfinite(ratio).all()
    assert (ratio > 0).all()
    assert (np.diff(ratio) < 0).all()
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    if name == "linear" and steps == 1000:
        np.testing.assert_allclose(ratio, abar / (1 - abar), rtol=1e-6)


def test_at_picks_by_time_and_minus_one_is_the_clean_image():
    schedule = linear()
    time = np.array([-1, 0, 7, 999])
    signal, noise = schedule.at(jnp.asarray(time))
    assert signal.shape == noise.shape == (4, 1, 1, 1)
    assert signal.dtype == noise.dtype == jnp.float32
    np.testing.assert_array_equal(signal[:, 0, 0, 0], [1, *schedule.signal[time[1:]].astype(np.float32)])
    np.testing.assert_array_equal(noise[:, 0, 0, 0], [0, *schedule.noise[time[1:]].astype(np.float32)])


def test_too_short():
    with pytest.raises(UserError, match="9 steps is too short"):
        make_schedule("cosine", 9)


@pytest.mark.parametrize("name", NAMES)
def test_real_times_that_are_integers_take_the_values_of_the_tables(name):
    schedule = make_schedule(name, 200)
    integers = jnp.arange(-1, 200)
    for at_integers, at_reals in zip(schedule.at(integers), schedule.at(integers.astype(jnp.float32)), strict=True):
        assert at_reals.dtype == jnp.float32
        np.testing.assert_array_equal(at_reals, at_integers)
    np.testing.assert_array_equal(snr(schedule, integers[1:].astype(jnp.float32)), snr(schedule, integers[1:]))
    assert snr(schedule, jnp.array([-1.0])) == np.inf


@given(name=st.sampled_from(NAMES), time=st.floats(0, 199, width=32))
def test_log_snr_is_linear_between_integers(name, time):
    schedule = make_schedule(name, 200)
    log_snr = np.log(schedule.signal.astype(np.float64)) - np.log(schedule.noise.astype(np.float64))
    expected = np.exp(2 * np.interp(time, np.arange(200), log_snr))
    signal, noise = (float(scale.squeeze()) for scale in schedule.at(jnp.array([time])))
    assert signal == pytest.approx(math.sqrt(expected / (1 + expected)), rel=2e-5)
    assert noise == pytest.approx(math.sqrt(1 / (1 + expected)), rel=2e-5)
    assert float(snr(schedule, jnp.array([time]))[0]) == pytest.approx(expected, rel=5e-5)


@pytest.mark.parametrize("name", NAMES)
def test_noise_rises_linearly_from_the_clean_image_to_time_0(name):
    schedule = make_schedule(name, 200)
    share = np.linspace(0, 1, 11)
    signal, noise = schedule.at(jnp.asarray(share - 1, jnp.float32))
    np.testing.assert_allclose(noise.ravel(), share * schedule.noise[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(signal.ravel(), np.sqrt(1 - (share * schedule.noise[0]) ** 2), rtol=1e-6)


def test_a_schedule_is_a_process():
    schedule = linear()
    assert isinstance(schedule, Process)
    assert schedule.clean == -1
    np.testing.assert_array_equal(schedule.times(3), [999, 500, 0])
