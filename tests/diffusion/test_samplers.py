"""Samplers on data in closed form, where the best denoiser and every law along the way are known."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.diffusion.closed_form import DEVIATION, MEAN, gaussian, mixture, walk, walked_mixture
from vision.diffusion.continuous import EDM, Flow, VarianceExploding, VariancePreserving
from vision.diffusion.grids import time_grid
from vision.diffusion.guidance import static_threshold
from vision.diffusion.samplers.ddim import ancestral, ddim, inversion, posterior_deviation, transition_deviation
from vision.diffusion.samplers.heun import heun
from vision.diffusion.samplers.multistep import dpm_solver, unipc
from vision.diffusion.samplers.plan import integrate, path
from vision.diffusion.schedules import linear, make_schedule, sampling_times, zero_terminal_snr
from vision.errors import UserError

KEY = jax.random.key(0)
PROCESSES = {
    "linear": linear(),
    "cosine, no last signal": zero_terminal_snr(make_schedule("cosine", 1000)),
    "flow": Flow(),
    "edm": EDM(),
    "vp": VariancePreserving(),
    "ve": VarianceExploding(),
}
PLANS = {
    "ddim": ddim,
    "ddim with noise": partial(ddim, eta=1.0),
    "ancestral": ancestral,
    "ancestral, beta": partial(ancestral, variance="beta"),
    "heun": heun,
    "dpm_solver": dpm_solver,
    "dpm_solver, stochastic": partial(dpm_solver, stochastic=True),
    "unipc": unipc,
    "unipc of order 3": partial(unipc, order=3),
}


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


def _textbook(name, start, steps, *, variance=None, key=None):
    """The samplers in float64 for Gaussian data, as the papers print them.

    DDIM is Song et al. 2021, eq. 12 with sigma = 0; with a variance, Ho et al. 2020, eq. 7 and algorithm 2.
    """
    abar, x = _abar(name), np.asarray(start, np.float64)
    times = sampling_times(1000, steps)
    for index, t in enumerate(times):
        now, then = abar[t], abar[times[index + 1]] if index + 1 < steps else 1.0
        x0 = MEAN + np.sqrt(now) * DEVIATION**2 / (now * DEVIATION**2 + 1 - now) * (x - np.sqrt(now) * MEAN)
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


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_ddim_of_1000_steps_in_float32_agrees_with_float64(name, start):
    schedule = make_schedule(name, 1000)
    found = integrate(ddim(schedule, schedule.times(1000)), gaussian(schedule), start)
    np.testing.assert_allclose(found, _textbook(name, start, 1000), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "steps", "variance"),
    [("linear", 1000, "posterior"), ("linear", 1000, "beta"), ("linear", 30, "beta"), ("cosine", 1000, "posterior")],
)
def test_ancestral_agrees_with_the_textbook_in_float64(name, steps, variance, start):
    schedule = make_schedule(name, 1000)
    plan = ancestral(schedule, schedule.times(steps), variance=variance)
    found = integrate(plan, gaussian(schedule), start, key=KEY)
    np.testing.assert_allclose(found, _textbook(name, start, steps, variance=variance, key=KEY), atol=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("sampler", PLANS)
def test_every_sampler_reaches_the_law_of_the_data(name, sampler):
    """Mean and deviation of 20,000 samples of N(m, d^2), within what 100 steps and the number of samples leave."""
    process = PROCESSES[name]
    count = 20_000
    spacing = "log_snr" if name in ("edm", "ve") else "default"
    plan = PLANS[sampler](process, time_grid(process, spacing, 100))
    noise = plan.start * jax.random.normal(jax.random.key(3), (count, 1, 1, 1))
    images = jax.jit(partial(integrate, plan, gaussian(process)))(noise, key=KEY)
    assert float(images.mean()) == pytest.approx(MEAN, abs=5 * DEVIATION / np.sqrt(count) + 0.01)
    tolerance = (0.15 if name in ("linear", "vp") else 0.08) if plan.stochastic else 0.05
    assert float(images.std()) == pytest.approx(DEVIATION, rel=tolerance)


@pytest.mark.parametrize("name", ["edm", "linear"])
def test_churn_keeps_the_law_of_the_data(name):
    """A mixture of three: mean, deviation and shares of the components, with as much churn as the step allows."""
    process = PROCESSES[name]
    times = time_grid(process, "karras", 40)
    plan = heun(process, times, churn=40.0, churn_range=(0.01, 50.0))
    assert plan.stochastic
    assert plan.evaluations == 79
    noise = plan.start * jax.random.normal(jax.random.key(3), (20_000, 1, 1, 1))
    images = np.asarray(jax.jit(partial(integrate, plan, mixture(process)))(noise, key=KEY)).ravel()
    shares = [(images < -0.35).mean(), ((images >= -0.35) & (images < 0.5)).mean(), (images >= 0.5).mean()]
    np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=0.025)
    middle = images[(images >= -0.35) & (images < 0.5)]
    assert middle.mean() == pytest.approx(0.1, abs=0.01)
    assert middle.std() == pytest.approx(0.15, rel=0.06)


def test_variances_are_exact_for_the_data_they_are_exact_for():
    """In 8 steps: "beta" keeps the law of N(0, 1) data; "posterior" that of a single image (Ho et al., section 3.2)."""
    schedule = linear()
    count = 40_000
    start = jax.random.normal(jax.random.key(5), (count, 1, 1, 1))
    plan = ancestral(schedule, schedule.times(8), variance="beta")
    images = integrate(plan, gaussian(schedule, 0.0, 1.0), start, key=KEY)
    assert float(images.var()) == pytest.approx(1 - 1e-4, rel=5 * np.sqrt(2 / count))
    plan = ancestral(schedule, schedule.times(8), variance="posterior")
    seen = path(plan, gaussian(schedule, 0.7, 0.0), start, key=KEY)[-2]  # x_t at t = 0
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
    tables = (*schedule.scales(np.array([t])), *schedule.scales(np.array([s])))
    deviation = float(posterior_deviation(*tables).squeeze())
    assert deviation == pytest.approx(1 / np.sqrt(precision), rel=1e-5)
    assert float(transition_deviation(*tables).squeeze()) == pytest.approx(np.sqrt(1 - ratio), rel=1e-5)
    # The mean, for an x_0 and an x_t of one's choice
    x0, xt = 0.6, -1.3
    bayes = (np.sqrt(ratio) * xt / (1 - ratio) + np.sqrt(abar[s]) * x0 / (1 - abar[s])) / precision
    row = ancestral(schedule, np.array([t, s])).rows[0]
    assert row.from_base * xt + row.move[0] * x0 == pytest.approx(bayes, abs=1e-6)


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
def test_every_single_step_has_the_right_beta(name):
    schedule = make_schedule(name, 1000)
    t = np.arange(1, 1000)
    found = transition_deviation(*schedule.scales(t), *schedule.scales(t - 1))
    abar = _abar(name)
    np.testing.assert_allclose(found, np.sqrt(1 - abar[1:] / abar[:-1]), rtol=1e-6)
    last = (*schedule.scales(np.array([0])), *schedule.scales(np.array([-1])))
    assert float(transition_deviation(*last).squeeze()) == 0
    assert float(posterior_deviation(*last).squeeze()) == 0


def test_ddim_with_eta_one_is_ancestral():
    schedule = make_schedule("cosine", 100)
    times = schedule.times(100)
    assert ddim(schedule, times, eta=1.0).rows == ancestral(schedule, times).rows
    assert ddim(schedule, times, eta=0.5).rows != ddim(schedule, times).rows


@pytest.mark.parametrize("sampler", PLANS)
@pytest.mark.parametrize("name", PROCESSES)
def test_a_perfect_denoiser_gives_its_image(name, sampler, start):
    process = PROCESSES[name]
    image = jnp.tanh(jax.random.normal(jax.random.key(9), start.shape))
    plan = PLANS[sampler](process, time_grid(process, "default", 12))
    found = integrate(plan, lambda noisy, time: image, plan.start * start, key=KEY)
    np.testing.assert_allclose(found, image, atol=1e-6)


def test_samplers_without_noise_stay_on_the_line_of_one_image_and_one_noise(start):
    """Where the estimate is the one image behind x_t, every x_t is a x_0 + s eps with the eps of the start."""
    image = jnp.tanh(jax.random.normal(jax.random.key(9), start.shape))
    for process in PROCESSES.values():
        for sampler in (ddim, heun, dpm_solver, unipc):
            plan = sampler(process, time_grid(process, "default", 9))
            a, s = (float(scale[0]) for scale in process.scales(np.asarray(plan.times[:1], np.float64)))
            points = path(plan, lambda noisy, time: image, a * image + s * start)
            on_grid = [number for number in range(plan.evaluations - 1) if plan.times[number] != plan.times[number + 1]]
            for number in on_grid[:3]:
                a, s = process.scales(np.asarray(plan.times[number + 1 : number + 2], np.float64))
                expected = a[0] * image + s[0] * start
                np.testing.assert_allclose(points[number], expected, atol=2e-6 * max(1.0, s[0]) + 1e-6)


def test_scan_agrees_with_a_walk_in_float64(start):
    """The table of coefficients, the memory of estimates and the corrector, against ``closed_form.walk``."""
    for process in (linear(), EDM(), Flow()):
        for sampler in (ddim, heun, dpm_solver, unipc, partial(unipc, order=3)):
            plan = sampler(process, time_grid(process, "default", 12))
            first = plan.start * start
            found = integrate(plan, mixture(process), first)
            np.testing.assert_allclose(found, walked_mixture(process, plan, first), atol=2e-4)


def test_images_do_not_depend_on_the_batch(start):
    schedule = make_schedule("cosine", 100)
    plan = ddim(schedule, schedule.times(10))
    all_of_them = integrate(plan, gaussian(schedule), start)
    np.testing.assert_allclose(integrate(plan, gaussian(schedule), start[5:8]), all_of_them[5:8], atol=1e-6)


@pytest.mark.parametrize("plan", [partial(ddim, eta=1.0), ancestral, partial(dpm_solver, stochastic=True)])
def test_noise_goes_with_the_number_of_the_sample(plan, start):
    schedule = make_schedule("cosine", 100)
    walked = partial(integrate, plan(schedule, schedule.times(5)), gaussian(schedule), key=KEY)
    index = jnp.arange(len(start))
    np.testing.assert_array_equal(walked(start, index=index), walked(start))
    np.testing.assert_allclose(walked(start[5:8], index=index[5:8]), walked(start)[5:8], atol=1e-6)
    other = integrate(plan(schedule, schedule.times(5)), gaussian(schedule), start, key=jax.random.key(1))
    assert float(jnp.abs(walked(start) - other).max()) > 0.01


def test_a_threshold_keeps_the_range(start):
    schedule = linear()
    wide = gaussian(schedule, 0.0, 4.0)
    times = schedule.times(10)
    free = integrate(ddim(schedule, times), wide, start)
    assert float(jnp.abs(free).max()) > 2
    for plan in (ddim(schedule, times), ancestral(schedule, times), heun(schedule, times)):
        images = integrate(plan, wide, start, key=KEY, threshold=static_threshold())
        assert float(jnp.abs(images).max()) <= 1


def test_inversion_finds_the_noise_of_an_image(start):
    """Error of inverting and sampling again: it falls with the iterations of each step, at equal times."""
    process = linear()
    times = process.times(20)
    noise = integrate(ddim(process, times), mixture(process), start)
    errors = []
    for iterations in (1, 2, 4):
        plan = inversion(process, times, iterations=iterations)
        assert plan.evaluations == 20 * iterations
        found = integrate(plan, mixture(process), noise)
        errors.append(float(jnp.abs(integrate(ddim(process, times), mixture(process), found) - noise).mean()))
    assert errors[0] < 0.1
    assert errors[2] < 0.3 * errors[0]


def test_refusals(start):
    with pytest.raises(ValueError, match="needs a key"):
        integrate(ancestral(linear(), linear().times(5)), gaussian(linear()), start)
    with pytest.raises(UserError, match="the order of UniPC is 1, 2 or 3, not 4"):
        unipc(linear(), linear().times(5), order=4)
    with pytest.raises(UserError, match="at least 1 evaluation a step"):
        inversion(linear(), linear().times(5), iterations=0)
    with pytest.raises(UserError, match="no image can be found again in pure noise"):
        inversion(Flow(), Flow().times(5))
    with pytest.raises(UserError, match="sigma is infinite at the first time"):
        heun(Flow(), Flow().times(5), churn=1.0)


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
def test_impossible_numbers_of_steps(steps):
    with pytest.raises(UserError, match="choose 1 to 1000"):
        linear().times(steps)


@pytest.mark.parametrize("sampler", PLANS)
@pytest.mark.parametrize("times", [[], [5, 5, 1], [1, 4], [3.0, -1.0]])
def test_times_that_are_no_walk(times, sampler):
    with pytest.raises(UserError, match="the times of a sampler decrease, and end before that of the clean image, -1"):
        PLANS[sampler](linear(), np.asarray(times))


def test_integer_and_real_times_are_the_same_walk(start):
    schedule = make_schedule("cosine", 100)
    times = sampling_times(100, 7)
    for sampler in (ddim, dpm_solver):
        whole, real = sampler(schedule, times), sampler(schedule, times.astype(np.float64))
        assert whole.rows == real.rows
        np.testing.assert_allclose(
            integrate(whole, gaussian(schedule), start), integrate(real, gaussian(schedule), start), atol=1e-6
        )
    assert walk(ddim(schedule, times), lambda x, number: x * 0, np.ones(1)).shape == (7, 1)
