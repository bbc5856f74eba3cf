"""Multistep samplers: DPM-Solver++ (Lu et al. 2022) and UniPC (Zhao et al. 2023).

With lambda = ln(a / s) and h = lambda_s - lambda_t > 0 over a step from t to s, the exact solution of the
probability-flow equation is x_s = (s_s / s_t) x_t + a_s (1 - e^-h) m for a constant estimate m of x_0; estimates of the
steps before make m a polynomial in lambda. One evaluation a step.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float, Num

from vision.diffusion.process import Process
from vision.diffusion.samplers.plan import Plan, Row, grid_scales, start_deviation
from vision.errors import UserError


def dpm_solver(process: Process, times: Num[np.ndarray, " n"], *, stochastic: bool = False) -> Plan:
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2), or its form for the stochastic equation, SDE-DPM-Solver++ 2M.

    The last step, to the clean image, is of first order, where lambda is infinite; so is the first, which has no
    estimate before it.

    Args:
      process: the process that the denoiser was trained on.
      times: decreasing times of the evaluations, later than the clean image.
      stochastic: whether to add noise (equation 19 and below).

    Raises:
      UserError: ``times`` are empty, do not decrease, or reach the clean image.
    """
    signal, noise = grid_scales(process, times)
    lambdas = _lambdas(signal, noise)
    rows = []
    for i in range(len(times)):
        h = lambdas[i + 1] - lambdas[i]
        before, now = 0.0, 1.0
        if 0 < i < len(times) - 1:
            # D = (1 + 1 / (2 r)) m_i - 1 / (2 r) m_{i-1} with r = h_{i-1} / h_i (equation 17 and algorithm 2)
            half = 0.5 * h / (lambdas[i] - lambdas[i - 1])
            before, now = -half, 1.0 + half
        if stochastic:
            kept, gain = noise[i + 1] / noise[i] * math.exp(-h), -math.expm1(-2.0 * h)
            deviation = noise[i + 1] * math.sqrt(gain)
        else:
            kept, gain, deviation = noise[i + 1] / noise[i], -math.expm1(-h), 0.0
        rate = signal[i + 1] * gain
        rows.append(Row(from_base=float(kept), move=(float(rate * now), float(rate * before)), deviation=deviation))
    return Plan(np.asarray(times), tuple(rows), start_deviation(process, times))


def unipc(
    process: Process, times: Num[np.ndarray, " n"], *, order: int = 2, variant: Literal["bh1", "bh2"] = "bh2"
) -> Plan:
    """UniPC (Zhao et al. 2023, algorithms 1 and 2) for estimates of x_0: a predictor and a free corrector.

    The estimate at the predicted point serves twice: it corrects the step that led there, and predicts the next from
    the corrected point. The order rises from 1 at the first steps and falls to 1 at the last.

    Args:
      process: the process that the denoiser was trained on.
      times: decreasing times of the evaluations, later than the clean image.
      order: of the predictor, 1 to 3; the corrector's is one more.
      variant: B(h) of section 3.1: "bh1" is h, "bh2" is e^h - 1.

    Raises:
      UserError: ``times`` are empty, do not decrease, or reach the clean image; another order.
    """
    if not 1 <= order <= 3:
        raise UserError(f"the order of UniPC is 1, 2 or 3, not {order}")
    signal, noise = grid_scales(process, times)
    lambdas = _lambdas(signal, noise)
    steps, rows = len(times), []
    infinite = int(not np.isfinite(lambdas[0]))  # of an estimate at pure noise no polynomial in lambda is made
    orders = [min(order, max(i + 1 - infinite, 1), steps - i) for i in range(steps)]
    for i in range(steps):
        keep, take, correct = 0.0, 1.0, ()
        if i > 0 and np.isfinite(lambdas[i - 1]):
            # the corrector of the step from i-1 to i, whose newest estimate is that of this row
            keep, correct = _unipc_step(signal, noise, lambdas, i - 1, orders[i - 1], variant, corrector=True)
            take = 0.0
        kept, move = _unipc_step(signal, noise, lambdas, i, orders[i], variant, corrector=False)
        rows.append(Row(keep=keep, take=take, correct=correct, from_base=kept, move=move))
    return Plan(np.asarray(times), tuple(rows), start_deviation(process, times))


def _unipc_step(
    signal: Float[np.ndarray, " n"],
    noise: Float[np.ndarray, " n"],
    lambdas: Float[np.ndarray, " n"],
    i: int,
    order: int,
    variant: str,
    *,
    corrector: bool,
) -> tuple[float, tuple[float, ...]]:
    """The step from time i to i + 1 as (factor of x_i, factors of the estimates, the newest first).

    The newest estimate is m_i for the predictor, and m_{i+1} for the corrector.
    """
    h = lambdas[i + 1] - lambdas[i]
    gain = math.expm1(-h)  # h phi_1(-h), negative
    scale = -h if variant == "bh1" else gain  # B(h)
    ratios = [(lambdas[i - k] - lambdas[i]) / h for k in range(1, order)] + ([1.0] if corrector else [])
    weights = _unipc_weights(h, gain, scale, ratios)
    # x = (s' / s) x_i - a' gain m_i - a' B(h) sum_k w_k (m_k - m_i) / r_k
    shares = [weight / ratio for weight, ratio in zip(weights, ratios, strict=True)]
    kept, a = float(noise[i + 1] / noise[i]), signal[i + 1]
    of_now = -a * gain + (a * scale * sum(shares) if shares else 0.0)  # B(h) is infinite in a last step of order 1
    of_others = [-a * scale * share for share in shares]
    newest = [of_others.pop()] if corrector else []
    return kept, tuple(float(value) for value in (*newest, of_now, *of_others))


def _unipc_weights(h: float, gain: float, scale: float, ratios: list[float]) -> list[float]:
    """The solution w of equation 5: sum_k r_k^(n-1) w_k = n! phi_{n+1}(h) h / B(h) for n = 1 .. number of ratios."""
    count = len(ratios)
    if count == 0:
        return []
    if count == 1:
        return [0.5]  # independent of h to the order that matters (section 3.4)
    right, phi, factorial = [], gain / -h - 1.0, 1.0
    for n in range(1, count + 1):
        right.append(phi * factorial / scale)
        factorial *= n + 1
        phi = phi / -h - 1.0 / factorial
    powers = np.asarray([[ratio ** (n - 1) for ratio in ratios] for n in range(1, count + 1)])
    return [float(w) for w in np.linalg.solve(powers, np.asarray(right))]


def _lambdas(signal: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """ln(signal / noise): minus infinity without signal, infinity without noise."""
    with np.errstate(divide="ignore"):
        return np.log(signal) - np.log(noise)
