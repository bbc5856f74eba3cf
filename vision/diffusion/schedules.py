"""Noise schedules of discrete-time diffusion and the forward process that they define.

Notation of Ho et al. 2020: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps for t = 0 .. T-1 (the paper counts from 1).
All tables are made in float64 and stored as float32, and ``signal`` = sqrt(abar) and ``noise`` = sqrt(1 - abar) are
stored separately, since 1 - abar loses every digit near t = 0 and abar near t = T when one is formed from the other
in float32.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import nn
from jaxtyping import Array, Float, Int, Num

from vision.errors import UserError

ScheduleName = Literal["linear", "cosine", "sigmoid"]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The tables of a schedule: float32 [T], signal**2 + noise**2 = 1, signal falls and noise rises with t.

    A ``vision.diffusion.process.Process`` at any real time in [-1, T-1]: at integers the values are those of the
    tables, and between them the logarithm of the signal-to-noise ratio is linear. From the clean image at -1, where
    that is infinite, to time 0 it is the noise that rises linearly.
    """

    signal: Float[np.ndarray, " T"]
    noise: Float[np.ndarray, " T"]

    @property
    def steps(self) -> int:
        """T, the number of diffusion times."""
        return len(self.signal)

    @property
    def clean(self) -> float:
        """-1, the time of the clean image."""
        return -1.0

    def at(self, time: Num[Array, " b"]) -> tuple[Float[Array, "b 1 1 1"], Float[Array, "b 1 1 1"]]:
        """(signal, noise) at times [b] in [-1, T-1], ready to multiply images; t = -1 is the clean image."""
        if not jnp.issubdtype(time.dtype, jnp.integer):
            signal, noise = self._between(time.astype(jnp.float32))
            return signal[:, None, None, None], noise[:, None, None, None]
        pick = lambda values, clean: _with_clean(values, clean)[time + 1][:, None, None, None]
        return pick(self.signal, 1.0), pick(self.noise, 0.0)

    def snr(self, time: Num[Array, " b"]) -> Float[Array, " b"]:
        """Signal-to-noise ratio abar / (1 - abar) at times [b]: integers in [0, T-1], or real numbers in [-1, T-1]."""
        if not jnp.issubdtype(time.dtype, jnp.integer):
            signal, noise = self._between(time.astype(jnp.float32))
            return (signal / noise) ** 2
        return (jnp.asarray(self.signal)[time] / jnp.asarray(self.noise)[time]) ** 2

    def times(self, steps: int) -> Int[np.ndarray, " steps"]:
        """``sampling_times`` of this schedule."""
        return sampling_times(self.steps, steps)

    def _between(self, time: Float[Array, " b"]) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """(signal, noise) at real times: those of the tables at integers, interpolated elsewhere."""
        before = jnp.floor(time).astype(jnp.int32)
        after = jnp.minimum(before + 1, self.steps - 1)
        share = time - before
        log_snr = 2.0 * (np.log(self.signal.astype(np.float64)) - np.log(self.noise.astype(np.float64)))
        log_snr = jnp.asarray(log_snr, jnp.float32)
        log_snr = (1.0 - share) * log_snr[jnp.maximum(before, 0)] + share * log_snr[after]
        first = share * self.noise[0]
        # a^2 + s^2 = 1 and a^2 / s^2 = exp(lambda) make a^2 = sigmoid(lambda) and s^2 = sigmoid(-lambda)
        signal = jnp.where(before < 0, jnp.sqrt((1.0 - first) * (1.0 + first)), jnp.sqrt(nn.sigmoid(log_snr)))
        noise = jnp.where(before < 0, first, jnp.sqrt(nn.sigmoid(-log_snr)))
        integer = share == 0.0
        return (
            jnp.where(integer, _with_clean(self.signal, 1.0)[before + 1], signal),
            jnp.where(integer, _with_clean(self.noise, 0.0)[before + 1], noise),
        )


def _with_clean(values: Float[np.ndarray, " T"], clean: float) -> Float[Array, " T_plus_1"]:
    """A table that starts at t = -1, the clean image."""
    return jnp.concatenate([jnp.full((1,), clean), jnp.asarray(values)])


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
        signal=np.exp(0.5 * log_abar).astype(np.float32),
        noise=np.sqrt(-np.expm1(log_abar)).astype(np.float32),
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


def make_schedule(name: ScheduleName, steps: int) -> NoiseSchedule:
    """The schedule that a configuration names, with its published constants.

    Raises ``UserError`` where ``steps`` is too small to be a diffusion (under 10).
    """
    if steps < 10:
        raise UserError(f"a diffusion of {steps} steps is too short: use at least 10, 1000 as published")
    match name:
        case "linear":
            return linear(steps)
        case "cosine":
            return cosine(steps)
        case "sigmoid":
            return sigmoid(steps)
