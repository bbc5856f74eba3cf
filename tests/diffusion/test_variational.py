"""A learned variance and its variational bound, against closed forms and numerical integrals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from vision.diffusion.guidance import denoiser, guided
from vision.diffusion.samplers.ddim import ancestral
from vision.diffusion.samplers.plan import integrate
from vision.diffusion.schedules import cosine, linear
from vision.diffusion.variational import (
    discrete_bound,
    discretised_log_likelihood,
    gaussian_divergence,
    interpolated_log_variance,
    reverse_steps,
    variational_term,
)

MEAN, DEVIATION = 0.3, 0.4


@pytest.mark.parametrize(
    ("mean", "variance", "other_mean", "other_variance"),
    [(0.2, 0.5, -0.3, 0.8), (0.0, 1e-3, 0.02, 2e-3), (1.0, 0.09, 1.0, 0.09), (-2.0, 2.0, 0.5, 0.3)],
)
def test_divergence_of_two_gaussians_by_integration(mean, variance, other_mean, other_variance):
    x = np.linspace(mean - 12 * variance**0.5, mean + 12 * variance**0.5, 200_001)
    one, other = (norm(m, v**0.5) for m, v in ((mean, variance), (other_mean, other_variance)))
    expected = np.trapezoid(one.pdf(x) * (one.logpdf(x) - other.logpdf(x)), x)
    logs = jnp.log(jnp.asarray([variance, other_variance], jnp.float32))
    found = gaussian_divergence(jnp.float32(mean - other_mean), *logs)
    assert float(found) == pytest.approx(expected, abs=1e-5, rel=1e-4)


def test_log_variances_are_interpolated():
    """Nichol & Dhariwal 2021, equation 15: the geometric mean of the variances at a half, the bounds at the ends."""
    least, most = jnp.log(jnp.asarray([0.01])), jnp.log(jnp.asarray([0.04]))
    found = [float(jnp.exp(interpolated_log_variance(jnp.asarray([v]), least, most))[0]) for v in (0.0, 0.5, 1.0, 2.0)]
    np.testing.assert_allclose(found, [0.01, 0.02, 0.04, 0.16], rtol=1e-5)


@pytest.mark.parametrize("schedule", [linear(100), cosine(100), linear(1000)], ids=["linear", "cosine", "thousand"])
def test_bounds_of_the_variance_are_those_of_ho(schedule):
    """Beta and (1 - abar_{t-1}) / (1 - abar_t) beta, by the products that define them, in exact arithmetic's order."""
    abar = schedule.signal**2
    before = np.append(1.0, abar[:-1])
    beta = 1.0 - abar / before
    steps = reverse_steps(schedule)
    np.testing.assert_allclose(np.exp(steps.log_most), beta, rtol=1e-8)
    posterior = (1.0 - before) / (1.0 - abar) * beta
    np.testing.assert_allclose(np.exp(steps.log_least[1:]), posterior[1:], rtol=1e-8)
    assert steps.log_least[0] == steps.log_least[1]
    np.testing.assert_allclose(steps.of_x0, np.sqrt(before) * beta / (1.0 - abar), rtol=1e-8)


@pytest.mark.parametrize("deviation", [1.0, 0.1, 4e-3, 1e-4])
def test_probabilities_of_all_levels_sum_to_one(deviation):
    values = jnp.linspace(-1.0, 1.0, 256).reshape(1, 16, 16, 1)
    for mean in (-1.1, -0.31, 0.0, 0.997):
        of = jnp.full(values.shape, mean), jnp.full(values.shape, 2 * math.log(deviation))
        logs = discretised_log_likelihood(values, *of)
        assert float(jnp.exp(logs).sum()) == pytest.approx(1.0, abs=1e-4)
        assert np.isfinite(np.asarray(logs)).all()


def exact(schedule, share=None):
    """E[x_0 | x_t] for data N(MEAN, DEVIATION^2), and the place of the exact variance of q(x_{t-1} | x_t)."""
    signal, noise = schedule.signal, schedule.noise
    before_noise = np.append(0.0, noise[:-1])
    steps = reverse_steps(schedule)
    of_x0_given_xt = DEVIATION**2 * noise**2 / ((signal * DEVIATION) ** 2 + noise**2)
    beta = np.exp(steps.log_most)
    variance = (before_noise / noise) ** 2 * beta + steps.of_x0**2 * of_x0_given_xt
    place = (np.log(variance) - steps.log_least) / (steps.log_most - steps.log_least)

    def denoise(noisy, time):
        a, s = schedule.at(time)
        gain = a * DEVIATION**2 / ((a * DEVIATION) ** 2 + s**2)
        estimate = MEAN + gain * (noisy - a * MEAN)
        found = jnp.asarray(place, jnp.float32)[time] if share is None else jnp.full(time.shape, share)
        return jnp.concatenate([estimate, jnp.broadcast_to(found[:, None, None, None], noisy.shape)], axis=-1)

    return denoise


def test_the_bound_is_exact_where_every_reverse_step_is():
    """Where p(x_{t-1} | x_t) is q's own at every t, the chain is that of the data, and the bound is its entropy."""
    schedule = linear(50)
    key = jax.random.key(3)
    image = MEAN + DEVIATION * jax.random.normal(key, (64, 8, 8, 1))
    log_density = norm(MEAN, DEVIATION).logpdf(np.asarray(image, np.float64)).sum((1, 2, 3))
    bound = {}
    for share in (None, 0.0, 1.0):
        denoise = exact(schedule, share)
        of_images = lambda image, denoise=denoise: discrete_bound(
            denoise, schedule, image, samples=100, levels=None, key=jax.random.key(4)
        )
        made = jax.jit(of_images)(image)
        assert float(jnp.mean(made["bound"])) == pytest.approx(
            float(jnp.mean(made["prior"] + made["diffusion"] + made["reconstruction"])), rel=1e-5
        )
        bound[share] = float(jnp.mean(made["bound"]))
    assert bound[None] == pytest.approx(-log_density.mean(), rel=0.01)
    assert bound[0.0] > bound[None] + 1.0
    assert bound[1.0] > bound[None] + 1.0


@pytest.mark.parametrize("steps", [3, 10])
def test_samples_have_the_deviation_of_the_data_in_any_number_of_steps(steps):
    """With the exact variance between the two bounds; either bound is off in a few steps."""
    schedule = linear(1000)
    times = schedule.times(steps)
    signal, noise = (np.append(each[times], end) for each, end in ((schedule.signal, 1.0), (schedule.noise, 0.0)))

    def denoise(noisy, time):
        at = jnp.argmax(jnp.asarray(times) == time[0])
        a, s = (jnp.asarray(each, jnp.float32)[at] for each in (signal, noise))
        b, r = (jnp.asarray(each, jnp.float32)[at + 1] for each in (signal, noise))
        gain = a * DEVIATION**2 / ((a * DEVIATION) ** 2 + s**2)
        beta = s**2 - (a / b * r) ** 2
        variance = (r / s) ** 2 * beta + (b * beta / s**2) ** 2 * DEVIATION**2 * s**2 / ((a * DEVIATION) ** 2 + s**2)
        place = (jnp.log(variance) - jnp.log((r / s) ** 2 * beta)) / -jnp.log((r / s) ** 2)
        estimate = MEAN + gain * (noisy - a * MEAN)
        return jnp.concatenate([estimate, jnp.broadcast_to(place, noisy.shape)], axis=-1)

    start = jax.random.normal(jax.random.key(0), (400, 8, 8, 1))
    found = {}
    for variance in ("posterior", "beta", "learned"):
        plan = ancestral(schedule, times, variance=variance)
        of = denoise if variance == "learned" else lambda noisy, time: denoise(noisy, time)[..., :1]
        made = jax.jit(lambda start, plan=plan, of=of: integrate(plan, of, start, key=jax.random.key(1)))(start)
        # no noise is added in the last step, whose estimate is the mean of x_0 given the last x_t
        last = signal[-2] * DEVIATION**2 / math.hypot(signal[-2] * DEVIATION, noise[-2])
        found[variance] = float(made.std()) / last
    assert found["learned"] == pytest.approx(1.0, abs=0.02)
    assert abs(found["posterior"] - 1.0) > 0.05
    assert abs(found["beta"] - 1.0) > 0.05


def test_the_variance_is_the_conditional_one_under_guidance():
    schedule = linear(20)
    predict = lambda x, time, condition: jnp.concatenate(
        [0.1 * x, jnp.broadcast_to(condition["label"][:, None, None, None] * 0.5, x.shape)], axis=-1
    )
    condition, null = {"label": jnp.array([1.0, -1.0])}, {"label": jnp.zeros(2)}
    noisy, time = jnp.ones((2, 2, 2, 3)), jnp.full(2, 5)
    denoise = denoiser(predict, schedule, "x0", variance=True)
    for scale in (1.0, 3.0):
        found = guided(denoise, condition=condition, null=null, scale=scale, rescale=0.5 * (scale > 1))(noisy, time)
        assert found.shape == (2, 2, 2, 6)
        np.testing.assert_allclose(found[..., 3:], np.broadcast_to([0.75, 0.25], (2, 2, 3, 2)).transpose(3, 0, 1, 2))


def test_terms_by_hand():
    """At t = 0 the probability of the image's levels, later the divergence of the two steps, by SciPy."""
    schedule = linear(10)
    steps = reverse_steps(schedule)
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (2, 3, 3, 1))
    image = (levels / 127.5 - 1).astype(np.float32)
    estimate = (image + generator.normal(0, 0.01, image.shape)).astype(np.float32)
    place = generator.uniform(0, 1, image.shape).astype(np.float32)
    found = variational_term(steps, jnp.asarray(image), jnp.array([0, 6]), jnp.asarray(estimate), jnp.asarray(place))
    most, least = (log[[0, 6]][:, None, None, None] for log in (steps.log_most, steps.log_least))
    log_variance = place * most + (1 - place) * least
    high = np.where(levels == 255, np.inf, image + 1 / 255)
    low = np.where(levels == 0, -np.inf, image - 1 / 255)
    step = norm(estimate, np.exp(0.5 * log_variance))
    first = -np.log(step.cdf(high) - step.cdf(low))[0].sum()
    apart = steps.of_x0[6] * (image - estimate)[1]
    ratio = steps.log_least[6] - log_variance[1]
    later = 0.5 * (np.exp(ratio) - 1 - ratio + apart**2 / np.exp(log_variance[1])).sum()
    np.testing.assert_allclose(found, [first, later], rtol=2e-3)
