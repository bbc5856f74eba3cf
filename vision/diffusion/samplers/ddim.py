"""DDIM (Song et al. 2021), its inversion, and ancestral sampling (Ho et al. 2020).

All sample a generalised posterior q(x_s | x_t, x_0) with x_0 replaced by its estimate. DDIM without noise is Euler's
method for the probability-flow equation, in sigma as in the straight line of a flow: both keep x_0 and eps over a step.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Num

from vision.diffusion.process import Process
from vision.diffusion.samplers.plan import Plan, Row, grid_scales, start_deviation
from vision.errors import UserError

Scales = Float[np.ndarray, " n"]


def ddim(process: Process, times: Num[np.ndarray, " n"], *, eta: float = 0.0) -> Plan:
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12).

    Args:
      process: the process that the denoiser was trained on.
      times: decreasing times of the evaluations, later than the clean image.
      eta: 0 for the deterministic sampler, 1 for the ancestral one on the same times (eq. 16).

    Raises:
      UserError: ``times`` are empty, do not decrease, or reach the clean image.
    """
    signal, noise = grid_scales(process, times)
    spread = eta * posterior_deviation(signal[:-1], noise[:-1], signal[1:], noise[1:])
    return _posterior_plan(process, times, signal, noise, room=spread, added=spread)


def ancestral(
    process: Process, times: Num[np.ndarray, " n"], *, variance: Literal["posterior", "beta", "learned"] = "posterior"
) -> Plan:
    """Ancestral sampling (Ho et al. 2020, algorithm 2).

    ``variance`` is that of p(x_{t-1} | x_t) (section 3.2): "beta" is beta_t, the upper bound on the entropy of the
    reverse process, "posterior" is (1 - abar_{t-1}) / (1 - abar_t) beta_t, the lower. On a subset of times, beta is
    that of the shortened chain, 1 - abar_t / abar_s. "learned" is between the two, where the network says (Nichol &
    Dhariwal 2021, section 3.1); its denoiser gives twice the channels. No noise is added in the last step. Arguments
    otherwise as for :func:`ddim`.
    """
    signal, noise = grid_scales(process, times)
    now_and_next = signal[:-1], noise[:-1], signal[1:], noise[1:]
    room = posterior_deviation(*now_and_next)
    added = room if variance == "posterior" else transition_deviation(*now_and_next)
    plan = _posterior_plan(process, times, signal, noise, room=room, added=added)
    if variance != "learned":
        return plan
    # beta~ = (s_s / s_t)^2 beta
    narrowest = np.where(noise[1:] > 0.0, noise[1:] / noise[:-1], 1.0)
    rows = tuple(replace(row, narrowest=float(least)) for row, least in zip(plan.rows, narrowest, strict=True))
    return replace(plan, rows=rows)


def inversion(process: Process, times: Num[np.ndarray, " n"], *, iterations: int = 1) -> Plan:
    """From an image to the noise that :func:`ddim` without noise turns into it (Song et al. 2021, section 4.3).

    The steps of DDIM are taken backwards: from the clean image to ``times[-1]``, and on to ``times[0]``. A step to time
    t needs the noise that the network sees at t, and takes what it sees there in the image before the step. Each
    further iteration evaluates the point that the one before found, and so approaches the exact inverse.

    Args:
      process: the process that the denoiser was trained on.
      times: decreasing times of the sampler to invert.
      iterations: evaluations a step, at least 1.

    Raises:
      UserError: ``times`` are empty, do not decrease, or reach the clean image; no iterations; no signal at times[0].
    """
    if iterations < 1:
        raise UserError(f"inversion takes at least 1 evaluation a step, not {iterations}")
    signal, noise = grid_scales(process, times)
    if signal[0] == 0.0:
        raise UserError("no image can be found again in pure noise: invert to a time that has some signal")
    rows, visited = [], []
    for step in reversed(range(len(times))):
        a, s, clean_a, clean_s = signal[step], noise[step], signal[step + 1], noise[step + 1]
        # x_t = (a_t / a_s) x_s + (s_t - a_t s_s / a_s) eps with eps = (x - a_t m) / s_t at the point x evaluated at t
        ratio, rate = a / clean_a, 1.0 - (a / clean_a) * (clean_s / s)
        for number in range(iterations):
            again = number > 0
            rows.append(
                Row(keep=float(again), take=float(not again), from_base=ratio, from_point=rate, move=(-rate * a,))
            )
            visited.append(times[step])
    return Plan(np.asarray(visited), tuple(rows), 1.0)


def transition_deviation(signal: Scales, noise: Scales, next_signal: Scales, next_noise: Scales) -> Scales:
    """Standard deviation of q(x_t | x_s) for s before t, 0 in the last step: sqrt(beta) where variance is preserved."""
    # s_t^2 - (a_t / a_s)^2 s_s^2, factored so that neighbours do not cancel
    ratio = signal / next_signal * next_noise
    variance = (noise - ratio) * (noise + ratio)
    return np.where(next_noise > 0, np.sqrt(np.maximum(variance, 0.0)), 0.0)


def posterior_deviation(signal: Scales, noise: Scales, next_signal: Scales, next_noise: Scales) -> Scales:
    """Standard deviation of q(x_s | x_t, x_0): Ho et al. 2020, eq. 7, and Song et al. 2021, eq. 16 with eta = 1."""
    return (next_noise / noise) * transition_deviation(signal, noise, next_signal, next_noise)


def _posterior_plan(
    process: Process,
    times: Num[np.ndarray, " n"],
    signal: Float[np.ndarray, " n_plus_1"],
    noise: Float[np.ndarray, " n_plus_1"],
    *,
    room: Scales,
    added: Scales,
) -> Plan:
    """Rows of x_s = a_s x_0 + sqrt(s_s^2 - room^2) eps + added z, with eps = (x_t - a_t x_0) / s_t."""
    ratio = np.sqrt(np.maximum((noise[1:] - room) * (noise[1:] + room), 0.0)) / noise[:-1]
    estimate = signal[1:] - ratio * signal[:-1]
    rows = tuple(
        Row(from_base=float(r), move=(float(m),), deviation=float(d))
        for r, m, d in zip(ratio, estimate, added, strict=True)
    )
    return Plan(np.asarray(times), rows, start_deviation(process, times))
