"""Samplers on Gaussian data, where the best denoiser and every law along the way are known in closed form."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.diffusion.samplers import (
    ancestral,
    beta_deviation,
    clip_x0,
    ddim,
    posterior_deviation,
)
from vision.diffusion.schedules import linear, make_schedule, sampling_times
from vision.errors import UserError

MEAN, DEVIATION = 0.4, 0.3
KEY = jax.random.key(0)


@cache
def _abar(name, steps=1000):
    """The abar of time in float64, straight from the papers."""
    t = np.arange(steps + 1) / steps
    match name:
        case "linear":
            return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        case "cosine":
            f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        case "sigmoid":
            f = np.clip(1 - (np.tanh(3 * t - 1.5) / np.tanh(1.5) + 1) / 2, 1e-9, 1)
    return np.cumprod(np.maximum(f[1:] / f[:-1], 1e-3))


def _gaussian(schedule, mean=MEAN, deviation=DEVIATION):
    """E[x_0 | x_t] for data N(mean, deviation^2), and the eps that goes with it."""

    def denoise(noisy, time):
        signal, noise = schedule.at(time)
        gain = signal * deviation**2 / ((signal * deviation) ** 2 + noise**2)
        x0 = mean + gain * (noisy - signal * mean)
        return x0, (noisy - signal * x0) / noise

    return denoise


def _textbook(name, start, steps, *, variance=None, key=None, mean=MEAN, deviation=DEVIATION):
    """The samplers in float64 for Gaussian data, as the papers print them.

    DDIM is Song et al. 2021, eq. 12 with sigma = 0; with a variance, Ho et al. 2020, eq. 7 and algorithm 2.
    """
    abar, x = _abar(name), np.asarray(start, np.float64)
    times = sampling_times(1000, steps)
    for index, t in enumerate(times):
        now, then = abar[t], abar[times[index + 1]] if index + 1 < steps else 1.0
        x0 = mean + np.sqrt(now) * deviation**2 / (now * deviation**2 + 1 - now) * (x - np.sqrt(now) * mean)
        if variance is None:
            eps = (x - np.sqrt(now) * x0) / np.sqrt(1 - now)
            x = np.sqrt(then) * x0 + np.sqrt(1 - then) * eps
            continue
        beta = 1 - now / then
        moved = np.sqrt(then) * beta / (1 - now) * x0 + np.sqrt(1 - beta) * (1 - then) / (1 - now) * x
        spread = beta if variance == "beta" else (1 - then) / (1 - now) * beta
        z = np.asarray(jax.random.normal(jax.random.fold_in(key, index), x.shape), np.float64)
        x = moved + (np.sqrt(spread) * z if then < 1 else 0)
    return x


@pytest.fixture(scope="module")
def start():
    return jax.random.normal(jax.random.key(7), (64, 2, 2, 1))


def test_ddim_approaches_the_solution_of_the_ode(start):
    """For N(m, d^2) the probability flow keeps z in x_t = a m + sqrt(a^2 d^2 + s^2) z, so that x_0 = m + d z."""
    schedule = linear()
    signal, noise = schedule.at(jnp.array([999]))
    z = (start - signal * MEAN) / jnp.sqrt((signal * DEVIATION) ** 2 + noise**2)
    errors = [
        float(
            jnp.abs(
                ddim(_gaussian(schedule), schedule, start, key=KEY, steps=n, clip=False) - MEAN - DEVIATION * z
            ).max()
        )
        for n in (10, 50, 250, 1000)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 4 * errors[3]
    assert errors[3] < 5e-3


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_ddim_of_1000_steps_in_float32_agrees_with_float64(name, start):
    schedule = make_schedule(name, 1000)
    found = ddim(_gaussian(schedule), schedule, start, key=KEY, steps=1000, clip=False)
    np.testing.assert_allclose(found, _textbook(name, start, 1000), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "steps", "variance"),
    [("linear", 1000, "posterior"), ("linear", 1000, "beta"), ("linear", 30, "beta"), ("cosine", 1000, "posterior")],
)
def test_ancestral_agrees_with_the_textbook_in_float64(name, steps, variance, start):
    schedule = make_schedule(name, 1000)
    found = ancestral(_gaussian(schedule), schedule, start, key=KEY, steps=steps, variance=variance, clip=False)
    np.testing.assert_allclose(found, _textbook(name, start, steps, variance=variance, key=KEY), atol=1e-4)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ancestral_sampling_reproduces_the_data(variance):
    """Mean and variance of 20,000 samples against those of the discrete chain, and these against the data's."""
    schedule = linear()
    count = 20_000
    noise = jax.random.normal(jax.random.key(3), (count, 1, 1, 1))
    images = ancestral(_gaussian(schedule), schedule, noise, key=KEY, variance=variance, clip=False)
    abar, mean, spread = _abar("linear"), 0.0, 1.0
    for t in range(999, -1, -1):  # x -> gain x + offset + noise, moment by moment
        now, then = abar[t], abar[t - 1] if t else 1.0
        beta = 1 - now / then
        shrink = np.sqrt(now) * DEVIATION**2 / (now * DEVIATION**2 + 1 - now)
        to_x0, to_x = np.sqrt(then) * beta / (1 - now), np.sqrt(1 - beta) * (1 - then) / (1 - now)
        gain, offset = to_x0 * shrink + to_x, to_x0 * (1 - shrink * np.sqrt(now)) * MEAN
        drawn = beta * ((1 - then) / (1 - now) if variance == "posterior" else 1) if t else 0
        mean, spread = gain * mean + offset, gain**2 * spread + drawn
    assert float(images.mean()) == pytest.approx(mean, abs=5 * DEVIATION / np.sqrt(count))
    assert float(images.var()) == pytest.approx(spread, rel=5 * np.sqrt(2 / count))
    assert mean == pytest.approx(MEAN, abs=2e-3)
    assert np.sqrt(spread) == pytest.approx(DEVIATION, rel=0.05)


def test_variances_are_exact_for_the_data_they_are_exact_for():
    """In 8 steps: "beta" keeps the law of N(0, 1) data; "posterior" that of a single image (Ho et al., section 3.2)."""
    schedule = linear()
    count = 40_000
    start = jax.random.normal(jax.random.key(5), (count, 1, 1, 1))
    images = ancestral(_gaussian(schedule, 0.0, 1.0), schedule, start, key=KEY, steps=8, variance="beta", clip=False)
    assert float(images.var()) == pytest.approx(1 - 1e-4, rel=5 * np.sqrt(2 / count))
    # Stopping before the end shows x_t itself: a denoiser that, at t = 0, hands out x_t as its image.
    point = _gaussian(schedule, 0.7, 0.0)
    first = sampling_times(1000, 8)[-2]

    def peeking(noisy, time):
        x0, eps = point(noisy, time)
        return jnp.where(time[0] == 0, noisy, x0), jnp.where(time[0] == 0, 0.0, eps)

    assert first > 0
    seen = ancestral(peeking, schedule, start, key=KEY, steps=8, variance="posterior", clip=False)
    abar = _abar("linear")[0]
    assert float(seen.mean()) == pytest.approx(0.7 * np.sqrt(abar), abs=5 * np.sqrt((1 - abar) / count))
    assert float(seen.var()) == pytest.approx(1 - abar, rel=5 * np.sqrt(2 / count))


@given(
    name=st.sampled_from(["linear", "cosine", "sigmoid"]),
    times=st.lists(st.integers(0, 999), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_posterior_is_bayes_rule(name, times):
    """q(x_s | x_t, x_0) as the product of the Gaussians q(x_t | x_s) and q(x_s | x_0), in float64."""
    s, t = times
    abar = _abar(name)
    ratio = abar[t] / abar[s]
    precision = ratio / (1 - ratio) + 1 / (1 - abar[s])
    schedule = make_schedule(name, 1000)
    tables = (*schedule.at(jnp.array([t])), *schedule.at(jnp.array([s])))
    deviation = float(posterior_deviation(*tables).squeeze())
    assert deviation == pytest.approx(1 / np.sqrt(precision), rel=1e-4)
    assert float(beta_deviation(*tables).squeeze()) == pytest.approx(np.sqrt(1 - ratio), rel=1e-4)
    # The mean, for an x_0 and an x_t of one's choice
    x0, xt = 0.6, -1.3
    bayes = (np.sqrt(ratio) * xt / (1 - ratio) + np.sqrt(abar[s]) * x0 / (1 - abar[s])) / precision
    eps = (xt - np.sqrt(abar[t]) * x0) / np.sqrt(1 - abar[t])
    ours = np.sqrt(abar[s]) * x0 + np.sqrt(max(1 - abar[s] - deviation**2, 0)) * eps
    assert ours == pytest.approx(bayes, abs=2e-3 * abs(eps) + 1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_every_single_step_has_the_right_beta(name):
    schedule = make_schedule(name, 1000)
    t = jnp.arange(1, 1000)
    found = beta_deviation(*schedule.at(t), *schedule.at(t - 1)).squeeze()
    abar = _abar(name)
    np.testing.assert_allclose(found, np.sqrt(1 - abar[1:] / abar[:-1]), rtol=1e-4)
    last = (*schedule.at(jnp.array([0])), *schedule.at(jnp.array([-1])))
    assert float(beta_deviation(*last).squeeze()) == 0
    assert float(posterior_deviation(*last).squeeze()) == 0


def test_ddim_with_eta_one_is_ancestral(start):
    schedule = make_schedule("cosine", 100)
    denoise = _gaussian(schedule)
    both = (
        ddim(denoise, schedule, start, key=KEY, steps=100, eta=1.0),
        ancestral(denoise, schedule, start, key=KEY, variance="posterior"),
    )
    np.testing.assert_array_equal(*both)
    other = ddim(denoise, schedule, start, key=jax.random.key(1), steps=100, eta=1.0)
    assert float(jnp.abs(both[0] - other).max()) > 0.01


def test_a_perfect_denoiser_gives_its_image(start):
    schedule = linear()
    image = jnp.tanh(jax.random.normal(jax.random.key(9), start.shape))

    def knows(noisy, time):
        signal, noise = schedule.at(time)
        return image, (noisy - signal * image) / noise

    for eta in (0.0, 0.5):
        found = ddim(knows, schedule, start, key=KEY, steps=12, eta=eta)
        np.testing.assert_allclose(found, image, atol=1e-6)
    np.testing.assert_allclose(ancestral(knows, schedule, start, key=KEY, steps=12, variance="beta"), image, atol=1e-6)


def test_ddim_stays_on_the_line_of_one_image_and_one_noise(start):
    """With the true eps every x_t is a x_0 + s eps, so that x_0 = (x_t - s eps) / a is the same all along."""
    schedule = linear()
    image = jnp.tanh(jax.random.normal(jax.random.key(9), start.shape))
    signal, noise = schedule.at(jnp.array([999]))

    def from_noise(noisy, time):
        signal, noise = schedule.at(time)
        return (noisy - noise * start) / signal, start

    end = signal * image + noise * start
    found = ddim(from_noise, schedule, end, key=KEY, steps=20, clip=False)
    np.testing.assert_allclose(found, image, atol=1e-3)  # at t = T, 1 / a = 157 magnifies float32's rounding


def test_images_do_not_depend_on_the_batch(start):
    schedule = make_schedule("cosine", 100)
    all_of_them = ddim(_gaussian(schedule), schedule, start, key=KEY, steps=10)
    np.testing.assert_allclose(
        ddim(_gaussian(schedule), schedule, start[5:8], key=KEY, steps=10), all_of_them[5:8], atol=1e-6
    )


def test_clipping_keeps_the_range(start):
    schedule = linear()
    wide = _gaussian(schedule, 0.0, 4.0)
    free = ddim(wide, schedule, start, key=KEY, steps=10, clip=False)
    assert float(jnp.abs(free).max()) > 2
    for images in (
        ddim(wide, schedule, start, key=KEY, steps=10),
        ancestral(wide, schedule, start, key=KEY, steps=10),
    ):
        assert float(jnp.abs(images).max()) <= 1


@given(angle=st.floats(1e-3, 1.56), x0=st.floats(-50, 50), eps=st.floats(-4, 4))
def test_clipped_estimates_still_explain_the_noisy_image(angle, x0, eps):
    a, s = np.cos(angle), np.sin(angle)
    image = lambda value: jnp.full((1, 1, 1, 1), value, jnp.float32)
    new_x0, new_eps = (float(v.squeeze()) for v in clip_x0(image(x0), image(eps), image(a), image(s)))
    assert new_x0 == pytest.approx(min(max(x0, -1), 1), rel=1e-6)
    assert a * new_x0 + s * new_eps == pytest.approx(a * x0 + s * eps, abs=2e-5)
    if abs(x0) <= 1:
        assert new_eps == pytest.approx(np.float32(eps), rel=0, abs=1e-37)  # but for subnormal numbers


@given(length=st.integers(1, 2000), share=st.floats(0, 1))
def test_sampling_times(length, share):
    steps = max(1, round(share * length))
    times = sampling_times(length, steps)
    assert len(times) == steps
    assert times[0] == length - 1
    assert (np.diff(times) < 0).all()
    if steps > 1:
        assert times[-1] == 0
        gaps = -np.diff(times)
        assert gaps.max() - gaps.min() <= 1 + (steps < length)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps(steps, start):
    with pytest.raises(UserError, match="choose 1 to 1000"):
        ddim(_gaussian(linear()), linear(), start, key=KEY, steps=steps)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_times_may_be_given(name, start):
    """Integers, or real numbers that are integers, are the same walk as the number of steps that means them."""
    schedule = make_schedule(name, 100)
    times = sampling_times(100, 7)
    for sampler in (partial(ddim, eta=0.5), ancestral):
        walk = partial(sampler, _gaussian(schedule), schedule, start, key=KEY)
        by_steps = walk(steps=7)
        np.testing.assert_array_equal(walk(times=times), by_steps)
        np.testing.assert_array_equal(walk(times=times.astype(np.float32)), by_steps)


def test_times_between_integers_converge_to_the_solution_of_the_ode(start):
    """On a coarse schedule, where integer times leave an error; x_0 = m + d z as above."""
    schedule = make_schedule("linear", 20)
    signal, noise = (float(scale.squeeze()) for scale in schedule.at(jnp.array([19])))
    z = (start - signal * MEAN) / np.sqrt((signal * DEVIATION) ** 2 + noise**2)

    def error(count):
        times = np.linspace(19, -1, count, endpoint=False, dtype=np.float32)
        found = ddim(_gaussian(schedule), schedule, start, key=KEY, times=times, clip=False)
        return float(jnp.abs(found - (MEAN + DEVIATION * z)).max())

    integers, twice, ten_times, often = (error(20 * refinement) for refinement in (1, 2, 10, 100))
    assert integers > 1.5 * twice > 4 * ten_times > 20 * often
    assert often < 3e-3


@pytest.mark.parametrize("times", [[], [5, 5, 1], [1, 4], [3.0, -1.0]])
def test_times_that_are_no_walk(times, start):
    with pytest.raises(UserError, match="the times of a sampler decrease, and end before that of the clean image, -1"):
        ddim(_gaussian(linear()), linear(), start, key=KEY, times=np.asarray(times))


@pytest.mark.parametrize("sampler", [partial(ddim, eta=1.0), ancestral])
def test_noise_goes_with_the_number_of_the_sample(sampler, start):
    schedule = make_schedule("cosine", 100)
    walk = partial(sampler, _gaussian(schedule), schedule, key=KEY, steps=5)
    index = jnp.arange(len(start))
    np.testing.assert_array_equal(walk(start, index=index), walk(start))
    np.testing.assert_allclose(walk(start[5:8], index=index[5:8]), walk(start)[5:8], atol=1e-6)
