"""Processes in continuous time: EDM, flow matching, and the two stochastic differential equations of Song et al. 2021.

Each is a ``vision.diffusion.process.Process``; formulas hold for NumPy arrays in float64 and JAX arrays in float32.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vision.diffusion.process import Values, array_namespace
from vision.errors import UserError


@dataclass(frozen=True)
class ContinuousProcess:
    """What the processes of this file share; each defines ``scales``, ``time_at``, ``network_time`` and ``times``."""

    @property
    def clean(self) -> float:
        """Time 0."""
        return 0.0

    @property
    def earliest(self) -> float:
        """A thousandth."""
        return 1e-3

    @property
    def noisiest(self) -> float:
        """Time 1."""
        return 1.0

    @property
    def preserves_variance(self) -> bool:
        """Whether networks can see x_t as it is."""
        return True

    @property
    def straight(self) -> bool:
        """Whether signal + noise = 1."""
        return False

    def scales(self, time: Values) -> tuple[Values, Values]:
        """(signal, noise) at times of any shape; float64 for NumPy arrays."""
        raise NotImplementedError

    def at(self, time: Num[Array, " b"]) -> tuple[Float[Array, "b 1 1 1"], Float[Array, "b 1 1 1"]]:
        """(signal, noise) at times [b], float32, ready to multiply images."""
        signal, noise = self.scales(time.astype(jnp.float32))
        return signal[:, None, None, None], noise[:, None, None, None]


@dataclass(frozen=True)
class Flow(ContinuousProcess):
    """The straight line from data at t = 0 to noise at t = 1: x_t = (1 - t) x_0 + t eps.

    Lipman et al. 2023 and Liu et al. 2023, whose time runs from noise to data; as Esser et al. 2024 have it.
    """

    @property
    def straight(self) -> bool:
        """True: signal + noise = 1."""
        return True

    def scales(self, time: Values) -> tuple[Values, Values]:
        """(1 - t, t) at times t in [0, 1]."""
        return 1.0 - time, time

    def time_at(self, sigma: Values) -> Values:
        """Time t = sigma / (1 + sigma), from t / (1 - t) = sigma."""
        return 1.0 / (1.0 + 1.0 / sigma)

    def network_time(self, time: Num[Array, " b"]) -> Float[Array, " b"]:
        """1000 t (Esser et al. 2024), the range of networks for discrete times."""
        return 1000.0 * time

    def times(self, steps: int) -> Float[np.ndarray, " steps"]:
        """1, 1 - 1/n, ..., 1/n."""
        return np.arange(checked_steps(steps), 0, -1) / steps


@dataclass(frozen=True)
class EDM(ContinuousProcess):
    """The process of Karras et al. 2022: x_t = x_0 + sigma eps, where time is sigma itself (table 1, last column)."""

    sigma_min: float = 0.002
    """The cleanest sigma at which samplers evaluate their network."""
    sigma_max: float = 80.0
    """The noisiest."""

    @property
    def preserves_variance(self) -> bool:
        """False: networks see x_t scaled."""
        return False

    @property
    def earliest(self) -> float:
        """sigma_min."""
        return self.sigma_min

    @property
    def noisiest(self) -> float:
        """sigma_max."""
        return self.sigma_max

    def scales(self, time: Values) -> tuple[Values, Values]:
        """(1, sigma)."""
        return array_namespace(time).ones_like(time), time

    def time_at(self, sigma: Values) -> Values:
        """The sigma itself."""
        return sigma

    def network_time(self, time: Num[Array, " b"]) -> Float[Array, " b"]:
        """c_noise = ln(sigma) / 4."""
        return jnp.log(time) / 4.0

    def times(self, steps: int) -> Float[np.ndarray, " steps"]:
        """Equation 5 with rho = 7."""
        return karras_sigmas(self.sigma_min, self.sigma_max, steps, rho=7.0)


@dataclass(frozen=True)
class VarianceExploding(ContinuousProcess):
    """Noise that grows geometrically (Song et al. 2021, appendix C).

    x_t = x_0 + sigma_min (sigma_max / sigma_min)^t eps. Time 0 is that of sigma_min; there is no time of the clean
    image itself, which samplers reach from ``earliest``.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    @property
    def clean(self) -> float:
        """Minus infinity."""
        return -np.inf

    @property
    def earliest(self) -> float:
        """Time 0, that of sigma_min."""
        return 0.0

    @property
    def preserves_variance(self) -> bool:
        """False: networks see x_t scaled."""
        return False

    def scales(self, time: Values) -> tuple[Values, Values]:
        """(1, sigma(t)) at times t in [0, 1]."""
        xp = array_namespace(time)
        return xp.ones_like(time), self.sigma_min * xp.exp(time * np.log(self.sigma_max / self.sigma_min))

    def time_at(self, sigma: Values) -> Values:
        """ln(sigma / sigma_min) / ln(sigma_max / sigma_min)."""
        return array_namespace(sigma).log(sigma / self.sigma_min) / np.log(self.sigma_max / self.sigma_min)

    def network_time(self, time: Num[Array, " b"]) -> Float[Array, " b"]:
        """c_noise = ln(sigma / 2) (Karras et al. 2022, table 1)."""
        return jnp.log(0.5 * self.scales(time)[1])

    def times(self, steps: int) -> Float[np.ndarray, " steps"]:
        """1 to 0, evenly spaced: sigmas in geometric progression."""
        return np.linspace(1.0, 0.0, checked_steps(steps))


@dataclass(frozen=True)
class VariancePreserving(ContinuousProcess):
    """The limit of the linear schedule (Song et al. 2021, appendix C).

    ln signal(t) = -t^2 (b1 - b0) / 4 - t b0 / 2, with b0 = beta_min and b1 = beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def scales(self, time: Values) -> tuple[Values, Values]:
        """signal^2 + noise^2 = 1 at times t in [0, 1]."""
        xp = array_namespace(time)
        log_signal = -0.25 * time**2 * (self.beta_max - self.beta_min) - 0.5 * time * self.beta_min
        return xp.exp(log_signal), xp.sqrt(-xp.expm1(2.0 * log_signal))

    def time_at(self, sigma: Values) -> Values:
        """The root of t^2 (b1 - b0) / 2 + t b0 = ln(1 + sigma^2)."""
        xp, slope = array_namespace(sigma), self.beta_max - self.beta_min
        rate = 2.0 * xp.log1p(sigma**2)
        # the root in the form that does not cancel for small sigma
        return rate / (self.beta_min + xp.sqrt(self.beta_min**2 + slope * rate))

    def network_time(self, time: Num[Array, " b"]) -> Float[Array, " b"]:
        """c_noise = 999 t (Karras et al. 2022, table 1)."""
        return 999.0 * time

    def times(self, steps: int) -> Float[np.ndarray, " steps"]:
        """1 to 0.001, evenly spaced, both included."""
        return np.linspace(1.0, self.earliest, checked_steps(steps))


def karras_sigmas(sigma_min: float, sigma_max: float, steps: int, *, rho: float) -> Float[np.ndarray, " steps"]:
    """Karras et al. 2022, equation 5: sigma^(1/rho) falls linearly from ``sigma_max`` to ``sigma_min``, both kept."""
    ends = np.linspace(sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho), checked_steps(steps))
    return ends**rho


def checked_steps(steps: int) -> int:
    """``steps``. Raises ``UserError`` unless it is at least 1."""
    if steps < 1:
        raise UserError(f"sampling in {steps} steps is impossible: choose at least 1")
    return steps
