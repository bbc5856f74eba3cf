"""Noise schedules of discrete-time diffusion and the forward process that they define.

Notation of Ho et al. 2020: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps for t = 0 .. T-1 (the paper counts from 1).
All tables are float64, for the coefficients of samplers, and float32 on devices; ``signal`` = sqrt(abar) and ``noise``
= sqrt(1 - abar) are stored separately, since 1 - abar loses every digit near t = 0 and abar near t = T when one is
formed from the other in float32.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Array, Float, Int, Num

from vision.diffusion.process import Values, array_namespace
from vision.errors import UserError

ScheduleName = Literal["linear", "scaled_linear", "cosine", "sigmoid"]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The tables of a schedule: float64 [T], signal**2 + noise**2 = 1, signal falls and noise rises with t.

    A ``vision.diffusion.process.Process`` at any real time in [-1, T-1]: at integers the values are those of the
    tables, and between them the logarithm of the signal-to-noise ratio is linear. From the clean image at -1, where
    that is infinite, to time 0 it is the noise that rises linearly; so does the signal fall to a last time without any.
    """

    signal: Float[np.ndarray, " T"] = field(repr=False)
    noise: Float[np.ndarray, " T"] = field(repr=False)

    @property
    def steps(self) -> int:
        """T, the number of diffusion times."""
        return len(self.signal)

    @property
    def clean(self) -> float:
        """-1, the time of the clean image."""
        return -1.0

    @property
    def earliest(self) -> float:
        """0, the first diffusion time."""
        return 0.0

    @property
    def noisiest(self) -> float:
        """T - 1, the last diffusion time."""
        return self.steps - 1.0

    @property
    def preserves_variance(self) -> bool:
        """True, since signal**2 + noise**2 = 1."""
        return True

    @property
    def straight(self) -> bool:
        """False."""
        return False

    def scales(self, time: Values) -> tuple[Values, Values]:
        """(signal, noise) at times in [-1, T-1]; t = -1 is the clean image."""
        xp = array_namespace(time)
        kind = np.float64 if xp is np else np.float32
        signal, noise = (np.append(clean, table) for clean, table in ((1.0, self.signal), (0.0, self.noise)))
        pick = lambda table, place: xp.asarray(table.astype(kind))[place + 1]
        if xp.issubdtype(time.dtype, xp.integer):
            return pick(signal, time), pick(noise, time)
        time = time.astype(kind)
        before = xp.floor(time).astype(np.int32)
        share, after = time - before, xp.minimum(before + 1, self.steps - 1)
        # a^2 + s^2 = 1 and a^2 / s^2 = exp(lambda) make a^2 = sigmoid(lambda) and s^2 = sigmoid(-lambda)
        log_snr = np.log(np.maximum(self.signal, 1e-30) / self.noise) * 2.0
        log_snr = (1.0 - share) * pick(np.append(0.0, log_snr), before) + share * pick(np.append(0.0, log_snr), after)
        between_signal, between_noise = (1.0 / xp.sqrt(1.0 + xp.exp(sign * log_snr)) for sign in (-1.0, 1.0))
        # at either end, where lambda is infinite, the smaller of the two is linear
        first = share * kind(self.noise[0])
        between_noise = xp.where(before < 0, first, between_noise)
        between_signal = xp.where(before < 0, xp.sqrt((1.0 - first) * (1.0 + first)), between_signal)
        if self.signal[-1] == 0.0:
            last, final = (1.0 - share) * kind(self.signal[-2]), before == self.steps - 2
            between_signal = xp.where(final, last, between_signal)
            between_noise = xp.where(final, xp.sqrt((1.0 - last) * (1.0 + last)), between_noise)
        return (
            xp.where(share == 0.0, pick(signal, before), between_signal),
            xp.where(share == 0.0, pick(noise, before), between_noise),
        )

    def at(self, time: Num[Array, " b"]) -> tuple[Float[Array, "b 1 1 1"], Float[Array, "b 1 1 1"]]:
        """(signal, noise) at times [b] in [-1, T-1], ready to multiply images."""
        signal, noise = self.scales(time)
        return signal[:, None, None, None], noise[:, None, None, None]

    def time_at(self, sigma: Values) -> Values:
        """The real time in [0, T-1] whose noise / signal is ``sigma``; the nearest end beyond the tables."""
        xp = array_namespace(sigma)
        places = np.arange(self.steps, dtype=np.float64)
        log_sigma = np.log(self.noise / np.maximum(self.signal, 1e-30))
        kind = sigma.dtype if xp is np else np.float32
        return xp.interp(xp.log(sigma), log_sigma.astype(kind), places.astype(kind))

    def network_time(self, time: Num[Array, " b"]) -> Num[Array, " b"]:
        """The time itself, in steps."""
        return time

    def times(self, steps: int) -> Int[np.ndarray, " steps"]:
        """``sampling_times`` of this schedule."""
        return sampling_times(self.steps, steps)


def sampling_times(schedule_steps: int, steps: int) -> Int[np.ndarray, " steps"]:
    """``steps`` integer times from T-1 down to 0, evenly spaced, both ends included.

    Raises ``UserError`` unless 1 <= steps <= T. A single step is T-1.
    """
    if not 1 <= steps <= schedule_steps:
        raise UserError(
            f"sampling in {steps} steps is impossible: choose 1 to {schedule_steps}, the length of the schedule"
        )
    return np.round(np.linspace(schedule_steps - 1, 0, steps)).astype(np.int32)


def from_betas(betas: Float[np.ndarray, " T"]) -> NoiseSchedule:
    """The schedule with abar_t = prod_{s<=t} (1 - beta_s) (Ho et al. 2020, above eq. 4), from float64 betas."""
    log_abar = np.cumsum(np.log1p(-betas.astype(np.float64)))
    return NoiseSchedule(
        signal=np.exp(0.5 * log_abar),
        noise=np.sqrt(-np.expm1(log_abar)),
    )


def from_abar(abar: Float[np.ndarray, " T_plus_1"]) -> NoiseSchedule:
    """The schedule with abar(0..T) given, by betas 1 - abar_t / abar_{t-1}, capped at 0.999.

    The cap is that of Nichol & Dhariwal 2021 (below eq. 17): it keeps the last step from being singular.
    """
    return from_betas(np.clip(1.0 - abar[1:] / abar[:-1], 0.0, 0.999))


def linear(steps: int = 1000) -> NoiseSchedule:
    """Ho et al. 2020, section 4: betas rise linearly from 1e-4 to 0.02 over 1000 steps.

    Another number of steps scales the betas by 1000 / steps, so that the last abar stays about the same, from 20
    steps on.
    """
    scale = 1000.0 / steps
    return from_betas(np.minimum(np.linspace(1e-4 * scale, 0.02 * scale, steps), 0.999))


def scaled_linear(steps: int = 1000, *, first: float = 0.00085, last: float = 0.012) -> NoiseSchedule:
    """Betas whose square roots rise linearly: the schedule of released latent diffusion models (Rombach et al. 2022).

    Another number of steps scales the betas by 1000 / steps, as for :func:`linear`.
    """
    return from_betas(np.minimum(np.linspace(first**0.5, last**0.5, steps) ** 2 * (1000.0 / steps), 0.999))


def cosine(steps: int = 1000, *, offset: float = 0.008) -> NoiseSchedule:
    """Nichol & Dhariwal 2021, eq. 17: abar(t) = f(t) / f(0), f(t) = cos^2((t/T + s) / (1 + s) * pi / 2)."""
    t = np.arange(steps + 1, dtype=np.float64) / steps
    f = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_abar(f / f[0])


def sigmoid(steps: int = 1000, *, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> NoiseSchedule:
    """Jabri et al. 2022, appendix B (also Chen 2023, algorithm 1): abar falls as a sigmoid of t from 1 to 0."""
    t = np.arange(steps + 1, dtype=np.float64) / steps
    logistic = lambda x: 1.0 / (1.0 + np.exp(-x))
    low, high = logistic(start / tau), logistic(end / tau)
    abar = (high - logistic((t * (end - start) + start) / tau)) / (high - low)
    return from_abar(np.clip(abar, 1e-9, 1.0))


def zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """The schedule rescaled so that its last time has no signal (Lin et al. 2024, algorithm 1).

    sqrt(abar) is shifted and scaled. The first time keeps its signal. Networks that predict the noise learn nothing at
    the last time: predict v or x0.
    """
    first, last = schedule.signal[0], schedule.signal[-1]
    signal = (schedule.signal - last) * first / (first - last)
    return NoiseSchedule(signal=signal, noise=np.sqrt((1.0 - signal) * (1.0 + signal)))


def make_schedule(name: ScheduleName, steps: int) -> NoiseSchedule:
    """The schedule that a configuration names, with its published constants.

    Raises ``UserError`` where ``steps`` is too small to be a diffusion (under 10).
    """
    if steps < 10:
        raise UserError(f"a diffusion of {steps} steps is too short: use at least 10, 1000 as published")
    match name:
        case "linear":
            return linear(steps)
        case "scaled_linear":
            return scaled_linear(steps)
        case "cosine":
            return cosine(steps)
        case "sigmoid":
            return sigmoid(steps)
