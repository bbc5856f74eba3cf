"""What samplers, guidance and losses need to know of a diffusion process."""

from types import ModuleType
from typing import Protocol, TypeVar, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

Values = TypeVar("Values", np.ndarray, Array)
"""Either float64 NumPy arrays on the host, or float32 JAX arrays."""


def array_namespace(values: np.ndarray | Array) -> ModuleType:
    """``numpy`` for its arrays, else ``jax.numpy``."""
    return np if isinstance(values, np.ndarray) else jnp


@runtime_checkable
class Process(Protocol):
    """Gaussian noise that is added over time: x_t = signal(t) x_0 + noise(t) eps with standard normal eps.

    ``vision.diffusion.schedules.NoiseSchedule`` is the discrete-time process of Ho et al. 2020, with t in steps;
    ``vision.diffusion.continuous`` has processes in continuous time, which need not preserve variance. The ratio
    sigma = noise / signal rises with time: it is the sigma of Karras et al. 2022, by which processes are compared.
    """

    @property
    def clean(self) -> float:
        """The time of the clean image."""
        ...

    @property
    def earliest(self) -> float:
        """The cleanest time, after ``clean``, at which networks are evaluated by grids that include both ends."""
        ...

    @property
    def noisiest(self) -> float:
        """The time of pure noise, at which samplers start."""
        ...

    @property
    def preserves_variance(self) -> bool:
        """Whether x_t is about as large as images at every time, so that networks can see it as it is."""
        ...

    @property
    def straight(self) -> bool:
        """Whether signal + noise = 1, so that x_t moves on a straight line in time (Liu et al. 2023)."""
        ...

    def scales(self, time: Values) -> tuple[Values, Values]:
        """(signal, noise) at times of any shape; float64 for NumPy arrays."""
        ...

    def at(self, time: Num[Array, " b"]) -> tuple[Float[Array, "b 1 1 1"], Float[Array, "b 1 1 1"]]:
        """(signal, noise) at times [b], float32, ready to multiply images."""
        ...

    def time_at(self, sigma: Values) -> Values:
        """The real time at which noise / signal is ``sigma``, the inverse of ``scales``; within the process's times."""
        ...

    def network_time(self, time: Num[Array, " b"]) -> Num[Array, " b"]:
        """Times as networks see them, c_noise of Karras et al. 2022, table 1."""
        ...

    def times(self, steps: int) -> Num[np.ndarray, " steps"]:
        """Decreasing times, the noisiest first, at which a sampler of ``steps`` steps evaluates its network."""
        ...


def snr(process: Process, time: Num[Array, " b"]) -> Float[Array, " b"]:
    """Signal-to-noise ratio (signal / noise)^2 at times [b]."""
    signal, noise = process.scales(time)
    return (signal / noise) ** 2


def sigmas(process: Process, times: Num[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Ratios noise / signal at times on the host, float64; infinite where there is no signal."""
    signal, noise = process.scales(np.asarray(times))
    with np.errstate(divide="ignore"):
        return noise / signal
