"""Euler's and Heun's method for the probability-flow equation, with or without churn (Karras et al. 2022).

In y = x / c and u = s / c the equation is dy/du = (y - D) / u, whatever c of the time is: with c = a, u is sigma and
the slope is eps (their equation 3); with c = a + s, u runs from 0 to 1 and the slope is eps - x_0, that of a flow,
which is also defined where there is no signal. Euler's step is the same in both, Heun's is not.
"""

import dataclasses

import numpy as np
from jaxtyping import Num

from vision.diffusion.process import Process
from vision.diffusion.samplers.ddim import ddim
from vision.diffusion.samplers.plan import Plan, Row, grid_scales, start_deviation
from vision.errors import UserError


def euler(process: Process, times: Num[np.ndarray, " n"]) -> Plan:
    """Euler's method: of first order, one evaluation a step; the same as DDIM without noise."""
    return ddim(process, times)


def heun(
    process: Process,
    times: Num[np.ndarray, " n"],
    *,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, np.inf),
    churn_noise: float = 1.0,
) -> Plan:
    """Heun's method: of second order, 2n - 1 evaluations in n steps (Karras et al. 2022, algorithms 1 and 2).

    Args:
      process: the process that the denoiser was trained on. Steps are taken in sigma, or along the straight line of a
        flow.
      times: decreasing times of the steps, later than the clean image.
      churn: S_churn: 0 for the deterministic sampler; otherwise each step first adds noise that raises sigma by the
        factor 1 + min(churn / n, sqrt(2) - 1).
      churn_range: S_min and S_max: the sigmas at which noise is added.
      churn_noise: S_noise: standard deviation of that noise, slightly above 1 where the network removes too much.

    Raises:
      UserError: ``times`` are empty, do not decrease, or reach the clean image; churn where there is no signal.
    """
    times = np.asarray(times, np.float64)
    signal, noise = grid_scales(process, times)
    if churn and signal[0] == 0.0:
        raise UserError("churn raises sigma by a factor, but sigma is infinite at the first time: leave churn 0")
    straight = process.straight or signal[0] == 0.0  # where sigma is infinite, it is no coordinate
    steps, rows, visited = len(times), [], []
    gamma = [0.0] * steps
    for i in range(steps):
        if churn and churn_range[0] <= noise[i] / signal[i] <= churn_range[1]:
            gamma[i] = min(churn / steps, np.sqrt(2.0) - 1.0)
    churned_times = times.copy()
    if churn:
        churned_times = np.asarray(process.time_at(noise[:-1] / signal[:-1] * (1.0 + np.asarray(gamma))))
        churned_times = np.where(np.asarray(gamma) > 0, churned_times, times)
    churned_signal, churned_noise = process.scales(churned_times)
    start = start_deviation(process, times)
    if gamma[0]:
        start = float(np.hypot(start, _added(signal[0], noise[0], churned_signal[0], churned_noise[0], churn_noise)))
    for i in range(steps):
        a, s, t = float(churned_signal[i]), float(churned_noise[i]), churned_times[i]
        c, next_c = (a + s, signal[i + 1] + noise[i + 1]) if straight else (a, signal[i + 1])
        u, next_u = s / c, noise[i + 1] / next_c
        # predictor: y' = y + (u' - u)(y - m) / u, in x = c y
        made = [Row(from_base=next_c / c * next_u / u, move=(next_c * (1.0 - next_u / u),))]
        visited.append(t)
        if next_u > 0.0:
            # corrector: y' = y + (u' - u) / 2 ((y - m) / u + (y' - m') / u')
            half = 0.5 * (next_u - u)
            made.append(
                Row(
                    keep=next_c / c * (1.0 + half / u),
                    take=half / next_u,
                    correct=(-next_c * half / next_u, -next_c * half / u),
                )
            )
            visited.append(times[i + 1])
        if i + 1 < steps and gamma[i + 1]:
            made[-1] = _churned(
                made[-1],
                ratio=float(churned_signal[i + 1] / signal[i + 1]),
                added=_added(signal[i + 1], noise[i + 1], churned_signal[i + 1], churned_noise[i + 1], churn_noise),
            )
        rows += made
    return Plan(np.asarray(visited), tuple(rows), start)


def _added(signal: float, noise: float, churned_signal: float, churned_noise: float, churn_noise: float) -> float:
    """Deviation of the noise that takes x at sigma to the larger sigma: a' S_noise sqrt(sigma'^2 - sigma^2)."""
    sigma, churned = noise / signal, churned_noise / churned_signal
    return float(churned_signal * churn_noise * np.sqrt(max((churned - sigma) * (churned + sigma), 0.0)))


def _churned(row: Row, *, ratio: float, added: float) -> Row:
    """The row whose point is scaled and given noise afterwards, as the next step starts."""
    return dataclasses.replace(
        row,
        from_base=row.from_base * ratio,
        from_point=row.from_point * ratio,
        move=tuple(value * ratio for value in row.move),
        deviation=added,
    )
