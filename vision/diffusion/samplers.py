"""Samplers of diffusion: ancestral (Ho et al. 2020) and DDIM (Song et al. 2021).

A sampler knows a ``Denoiser``, nothing of networks, conditions or guidance. Both are one ``lax.scan`` over a decreasing
sequence of times, and both sample a generalised posterior q(x_s | x_t, x_0) with x_0 replaced by its estimate.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from vision.diffusion.noise import normal_rows
from vision.diffusion.process import Process
from vision.diffusion.schedules import NoiseSchedule
from vision.errors import UserError

Images = Float[Array, "b h w c"]

Denoiser = Callable[[Images, Num[Array, " b"]], tuple[Images, Images]]
"""(x_t, t [b]) -> (estimate of x_0, estimate of eps), float32."""

Scales = Callable[[Array, Array, Array, Array], tuple[Array, Array]]
"""(signal, noise) of now and of the next time -> two standard deviations, see ``_walk``."""


def clip_x0(x0: Images, eps: Images, signal: Array, noise: Array) -> tuple[Images, Images]:
    """Clip the estimate of x_0 to the range of images, [-1, 1], and let eps follow so that x_t stays explained."""
    clipped = jnp.clip(x0, -1.0, 1.0)
    # eps' = (x_t - a x0') / s = eps + (a / s)(x0 - x0'): the second form is exact where nothing was clipped, even
    # at times where s is so small that the first would cancel.
    return clipped, eps + (signal / noise) * (x0 - clipped)


def ddim(
    denoise: Denoiser,
    process: Process,
    start: Images,
    *,
    key: Key[Array, ""],
    steps: int = 50,
    times: Num[np.ndarray, " n"] | None = None,
    index: Int[Array, " b"] | None = None,
    eta: float = 0.0,
    clip: bool = True,
) -> Images:
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12).

    Args:
      denoise: estimates of x_0 and eps.
      process: the process that the denoiser was trained on.
      start: x_T, standard normal noise: with ``eta`` 0 the image is a function of it alone.
      key: randomness of the steps; unused when ``eta`` is 0.
      steps: number of network evaluations, at ``process.times(steps)``; unused where ``times`` are given.
      times: decreasing times to visit instead, integers or real numbers, all later than the clean image.
      index: numbers of the samples, on which and on the key alone the noise of each depends; 0 to b-1 by default.
      eta: 0 for the deterministic sampler, 1 for the ancestral one on the same times (eq. 16).
      clip: clip estimates of x_0 to [-1, 1] on the way.

    Returns:
      x_0, float32, of the shape of ``start``; in [-1, 1] when clipped.

    Raises:
      UserError: ``times`` are empty, do not decrease, or reach the clean image.
    """

    def scales(*now_and_next: Array) -> tuple[Array, Array]:
        spread = eta * posterior_deviation(*now_and_next)
        return spread, spread

    times = process.times(steps) if times is None else times
    return _walk(denoise, process, start, scales, key=key if eta > 0 else None, times=times, index=index, clip=clip)


def ancestral(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    start: Images,
    *,
    key: Key[Array, ""],
    steps: int | None = None,
    times: Num[np.ndarray, " n"] | None = None,
    index: Int[Array, " b"] | None = None,
    variance: Literal["posterior", "beta"] = "posterior",
    clip: bool = True,
) -> Images:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), on all T times unless ``steps`` says fewer.

    ``variance`` is that of p(x_{t-1} | x_t) (section 3.2): "beta" is beta_t, the upper bound on the entropy of the
    reverse process, "posterior" is (1 - abar_{t-1}) / (1 - abar_t) beta_t, the lower. Arguments and result
    otherwise as for :func:`ddim`. On a subset of times, beta is that of the shortened chain, 1 - abar_t / abar_s. No
    noise is added in the last step.
    """

    def scales(*now_and_next: Array) -> tuple[Array, Array]:
        posterior = posterior_deviation(*now_and_next)
        return posterior, posterior if variance == "posterior" else beta_deviation(*now_and_next)

    times = schedule.times(schedule.steps if steps is None else steps) if times is None else times
    return _walk(denoise, schedule, start, scales, key=key, times=times, index=index, clip=clip)


def beta_deviation(signal: Array, noise: Array, next_signal: Array, next_noise: Array) -> Array:
    """sqrt(beta) of the step from t to the earlier time s, 0 in the last step, which ends at the clean image."""
    # beta = 1 - abar_t / abar_s = (s_t^2 - s_s^2) / a_s^2 = (a_s^2 - a_t^2) / a_s^2, by the smaller of noise and
    # signal: the larger nears one at an end of the schedule, where float32 loses the difference (7 % off at t = T)
    by_noise = (noise - next_noise) * (noise + next_noise)
    by_signal = (next_signal - signal) * (next_signal + signal)
    beta = jnp.where(noise < signal, by_noise, by_signal) / next_signal**2
    return jnp.where(next_noise > 0, jnp.sqrt(beta), 0.0)


def posterior_deviation(signal: Array, noise: Array, next_signal: Array, next_noise: Array) -> Array:
    """Standard deviation of q(x_s | x_t, x_0): Ho et al. 2020, eq. 7, and Song et al. 2021, eq. 16 with eta = 1."""
    return (next_noise / noise) * beta_deviation(signal, noise, next_signal, next_noise)


def _walk(
    denoise: Denoiser,
    process: Process,
    start: Images,
    scales: Scales,
    *,
    key: Key[Array, ""] | None,
    times: Num[np.ndarray, " n"],
    index: Int[Array, " b"] | None,
    clip: bool,
) -> Images:
    """Scan x_t -> x_s; ``scales`` gives the deviation that the mean leaves room for and that of the added noise."""
    if not len(times) or (np.diff(times) >= 0).any() or times[-1] <= process.clean:
        raise UserError(
            f"the times of a sampler decrease, and end before that of the clean image, {process.clean:g}: not {times}"
        )
    following = np.append(times[1:], np.asarray(process.clean, times.dtype))
    index = jnp.arange(start.shape[0]) if index is None else index

    def move(noisy: Images, at: tuple[Array, Array, Array]) -> tuple[Images, None]:
        time, next_time, step = at
        x0, eps = denoise(noisy, jnp.broadcast_to(time, (noisy.shape[0],)))
        now = process.at(time[None])
        then = process.at(next_time[None])
        if clip:
            x0, eps = clip_x0(x0, eps, *now)
        room, added = scales(*now, *then)
        # Song et al. 2021, eq. 12: x_s = a_s x_0 + sqrt(s_s^2 - sigma^2) eps + sigma z
        moved = then[0] * x0 + jnp.sqrt(jnp.maximum(then[1] ** 2 - room**2, 0.0)) * eps
        if key is not None:
            moved = moved + added * normal_rows(jax.random.fold_in(key, step), index, noisy.shape[1:])
        return moved, None

    steps_in_order = (jnp.asarray(times), jnp.asarray(following), jnp.arange(len(times)))
    images, _ = jax.lax.scan(move, start, steps_in_order)
    return images
