"""The variational bound of diffusion in discrete time, term by term, with a learned variance.

Ho et al. 2020, equation 5: -ln P(x_0) <= KL(q(x_T | x_0) || N(0, 1)) + sum_t KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} |
x_t)) - ln P(x_0 | x_1). The logarithm of the variance of p lies between those of the posterior, beta~_t, and of the
transition, beta_t, at a place that the network predicts for each value (Nichol & Dhariwal 2021, section 3.1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Int, Key, Num

from vision.diffusion.likelihood import LEVELS, prior_divergence
from vision.diffusion.parameterization import diffuse
from vision.diffusion.schedules import NoiseSchedule
from vision.diffusion.training_times import stratified

Images = Float[Array, "b h w c"]

EstimateWithShare = Callable[[Images, Num[Array, " b"]], Float[Array, "b h w two_c"]]
"""(x_t, t [b]) -> the estimate of x_0, and after it along the channels the place of the log variance, in about [0, 1]:
0 is beta~_t, 1 is beta_t."""


@dataclass(frozen=True, eq=False)
class ReverseSteps:
    """The tables of q(x_{t-1} | x_t, x_0) for t = 0 .. T-1, float64 [T]; x_{-1} is the clean image."""

    of_x0: Float[np.ndarray, " T"]
    """Factor of x_0 in the mean, of which the rest is a multiple of x_t."""
    log_least: Float[np.ndarray, " T"]
    """ln beta~_t; at t = 0, where beta~ is 0, that of t = 1 (Nichol & Dhariwal 2021, as published with the paper)."""
    log_most: Float[np.ndarray, " T"]
    """ln beta_t."""


def reverse_steps(schedule: NoiseSchedule) -> ReverseSteps:
    """The tables of a schedule (Ho et al. 2020, equations 6 and 7)."""
    signal, noise = schedule.signal, schedule.noise
    next_signal, next_noise = np.append(1.0, signal[:-1]), np.append(0.0, noise[:-1])
    ratio = signal / next_signal
    # 1 - abar_t / abar_{t-1}, factored so that neighbours do not cancel
    beta = (noise - ratio * next_noise) * (noise + ratio * next_noise)
    least = (next_noise / noise) ** 2 * beta
    least[0] = least[1]
    return ReverseSteps(
        of_x0=next_signal * beta / noise**2,
        log_least=np.log(least),
        log_most=np.log(beta),
    )


def interpolated_log_variance(
    share: Float[Array, "..."], least: Float[Array, "..."], most: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Nichol & Dhariwal 2021, equation 15, for logarithms of variances and v = ``share``."""
    return share * most + (1.0 - share) * least


def gaussian_divergence(
    distance: Float[Array, "..."], log_variance: Float[Array, "..."], of_log_variance: Float[Array, "..."]
) -> Float[Array, "..."]:
    """KL(N(m, e^l) || N(m', e^l')) in nats, each value by itself, for ``distance`` m - m' and log variances l, l'."""
    apart = log_variance - of_log_variance
    return 0.5 * (jnp.expm1(apart) - apart + distance**2 * jnp.exp(-of_log_variance))


def discretised_log_likelihood(
    image: Images, mean: Images, log_variance: Images, *, levels: int = LEVELS
) -> Float[Array, "b h w c"]:
    """Ln of the normal probability of the level of each value in [-1, 1] (Ho et al. 2020, equation 13).

    The first and the last level have all that is beyond them.
    """
    half = 1.0 / (levels - 1)
    scale = jnp.exp(-0.5 * log_variance)
    low, high = scale * (image - half - mean), scale * (image + half - mean)
    # in the left tail, where logarithms of the distribution are exact
    flip = low > 0.0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    top, bottom = log_ndtr(high), log_ndtr(low)
    between = top + jnp.log(-jnp.expm1(jnp.minimum(bottom - top, -1e-7)))
    first = log_ndtr(scale * (image + half - mean))
    last = log_ndtr(-scale * (image - half - mean))
    edge = 1.0 - half
    return jnp.where(image < -edge, first, jnp.where(image > edge, last, between))


def variational_term(
    steps: ReverseSteps,
    image: Images,
    time: Int[Array, " b"],
    estimate: Images,
    share: Images,
    *,
    levels: int | None = LEVELS,
) -> Float[Array, " b"]:
    """The term of the bound at each sample's time, in nats of the whole image.

    Args:
      steps: of the schedule.
      image: x_0.
      time: t in [0, T).
      estimate: of x_0, from which the mean of p follows.
      share: place of the log variance, for each value.
      levels: values of a channel in [-1, 1], whose probability is that of the term at t = 0; None where values are
        real, such as latents, for the density.
    """
    at = lambda table: jnp.asarray(table, jnp.float32)[time][:, None, None, None]
    least = at(steps.log_least)
    log_variance = interpolated_log_variance(share, least, at(steps.log_most))
    divergence = gaussian_divergence(at(steps.of_x0) * (image - estimate), least, log_variance)
    # at t = 0 the mean is the estimate itself
    if levels is None:
        first = 0.5 * ((image - estimate) ** 2 * jnp.exp(-log_variance) + log_variance + math.log(2.0 * math.pi))
    else:
        first = -discretised_log_likelihood(image, estimate, log_variance, levels=levels)
    return jnp.sum(jnp.where((time == 0)[:, None, None, None], first, divergence), axis=(1, 2, 3))


def discrete_bound(
    denoise: EstimateWithShare,
    schedule: NoiseSchedule,
    image: Images,
    *,
    samples: int = 1,
    levels: int | None = LEVELS,
    key: Key[Array, ""],
) -> dict[str, Float[Array, " b"]]:
    """An upper bound on -ln P(x_0) in nats, of the chain of all T steps with a learned variance.

    Args:
      denoise: estimates of x_0, and the place of the log variance.
      schedule: of the denoiser.
      image: x_0.
      samples: times and noises for each image, stratified; of the T - 1 terms after the first.
      levels: values of a channel in [-1, 1]; None for real values.
      key: of times and noise.

    Returns:
      "bound", the sum of "prior", "diffusion" (the divergences) and "reconstruction" (the term at t = 0, of one noise).
    """
    steps, count, last = reverse_steps(schedule), image.shape[0], schedule.steps - 1
    time_key, noise_key, end_key = jax.random.split(key, 3)
    uniform = stratified(count * samples, key=time_key).reshape(samples, count)
    times = jnp.minimum(1 + (uniform * last).astype(jnp.int32), last)

    def term(time: Int[Array, " b"], key: Key[Array, ""]) -> Float[Array, " b"]:
        signal, noise = schedule.at(time)
        noisy = diffuse(image, jax.random.normal(key, image.shape), signal=signal, noise=noise)
        estimate, share = jnp.split(denoise(noisy, time), 2, axis=-1)
        return variational_term(steps, image, time, estimate, share, levels=levels)

    terms = jax.lax.map(lambda number: term(times[number], jax.random.fold_in(noise_key, number)), jnp.arange(samples))
    diffusion = last * jnp.mean(terms, axis=0)
    reconstruction = term(jnp.zeros(count, jnp.int32), end_key)
    prior = prior_divergence(schedule, image)
    return {
        "bound": prior + diffusion + reconstruction,
        "prior": prior,
        "diffusion": diffusion,
        "reconstruction": reconstruction,
    }
