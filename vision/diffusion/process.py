"""What samplers, guidance and losses need to know of a diffusion process."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Num


@runtime_checkable
class Process(Protocol):
    """Gaussian noise that is added over time: x_t = signal(t) x_0 + noise(t) eps with standard normal eps.

    ``vision.diffusion.schedules.NoiseSchedule`` is the discrete-time process of Ho et al. 2020, with t in steps. Other
    processes may count time in their own unit, and need not preserve variance.
    """

    @property
    def clean(self) -> float:
        """The time of the clean image, where signal is 1 and noise is 0, and where samplers end."""
        ...

    def at(self, time: Num[Array, " b"]) -> tuple[Float[Array, "b 1 1 1"], Float[Array, "b 1 1 1"]]:
        """(signal, noise) at times [b], float32, ready to multiply images."""
        ...

    def snr(self, time: Num[Array, " b"]) -> Float[Array, " b"]:
        """Signal-to-noise ratio (signal / noise)^2 at times [b]."""
        ...

    def times(self, steps: int) -> Num[np.ndarray, " steps"]:
        """Decreasing times, the noisiest first, at which a sampler of ``steps`` steps evaluates its network."""
        ...
