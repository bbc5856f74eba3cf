"""The times at which samplers evaluate their network: grids with names, on the host in float64."""

from typing import Literal

import numpy as np
from jaxtyping import Float, Num

from vision.diffusion.continuous import checked_steps, karras_sigmas
from vision.diffusion.process import Process, sigmas
from vision.diffusion.schedules import NoiseSchedule, sampling_times
from vision.errors import UserError

Spacing = Literal["default", "uniform", "leading", "trailing", "karras", "log_snr"]


def time_grid(
    process: Process, spacing: Spacing, steps: int, *, rho: float = 7.0, shift: float = 1.0
) -> Num[np.ndarray, " n"]:
    """``steps`` decreasing times of ``process``, integers for discrete ones where the spacing allows it.

    Args:
      process: in whose unit times are.
      spacing:
        "default" is the process's own, ``process.times``;
        "uniform" is evenly spaced in time from the noisiest to the earliest, both included;
        "leading" and "trailing" cut time into ``steps`` equal parts and take their early or late ends (Lin et al. 2024,
        table 2): trailing starts at the noisiest time, leading does not;
        "karras" is Karras et al. 2022, equation 5, in sigma;
        "log_snr" is evenly spaced in ln sigma, which is half the logarithm of the signal-to-noise ratio.
      steps: at least 1.
      rho: of "karras": 7 as published; larger values take more of the small sigmas.
      shift: factor on every sigma, for a flow the shift of Esser et al. 2024, equation 23: t' = shift t / (1 + (shift -
      1)
        t); above 1 for larger images, whose noise hides less.

    Raises:
      UserError: more steps than a discrete process has times, or a spacing that the process has not.
    """
    times = _spaced(process, spacing, checked_steps(steps), rho)
    if shift != 1.0:
        shifted = process.time_at(shift * sigmas(process, times))
        times = np.clip(shifted, min(times[-1], shifted[-1]), process.noisiest)
        if len(np.unique(times)) < steps:
            raise UserError(
                f"sampling.shift {shift:g} pushes several times to an end of the process: choose a shift nearer 1"
            )
    return times


def _spaced(process: Process, spacing: Spacing, steps: int, rho: float) -> Num[np.ndarray, " n"]:
    """The times before the shift."""
    discrete = isinstance(process, NoiseSchedule)
    length = process.noisiest - process.clean
    match spacing:
        case "default":
            return process.times(steps)
        case "uniform":
            return process.times(steps) if discrete else np.linspace(process.noisiest, process.earliest, steps)
        case "leading" | "trailing":
            if discrete:
                sampling_times(process.steps, steps)  # refuses too many
                if spacing == "leading":
                    return (np.arange(steps) * (process.steps // steps))[::-1].astype(np.int32)
                return np.round(np.arange(steps, 0, -1) * (process.steps / steps)).astype(np.int32) - 1
            if spacing == "leading" or not np.isfinite(length):
                raise UserError(
                    f"sampling.grid {spacing} is for discrete times, or for a time of the clean image: choose "
                    "uniform, karras or log_snr"
                )
            return process.clean + length * np.arange(steps, 0, -1) / steps
        case "karras" | "log_snr":
            ends = np.asarray([process.noisiest, process.earliest])
            high, low = sigmas(process, ends)
            if not np.isfinite(high):
                # pure noise has no sigma: the first time stays, the others are spaced from the next of the default grid
                return (
                    np.append(process.noisiest, _between(process, spacing, steps - 1, rho)) if steps > 1 else ends[:1]
                )
            return process.time_at(_sigma_grid(spacing, low, high, steps, rho))


def _between(process: Process, spacing: Spacing, steps: int, rho: float) -> Float[np.ndarray, " n"]:
    """Times from just below the noisiest one to the earliest, spaced in sigma."""
    start = process.noisiest - (process.noisiest - process.earliest) / 50.0
    high, low = sigmas(process, np.asarray([start, process.earliest]))
    return process.time_at(_sigma_grid(spacing, low, high, steps, rho))


def _sigma_grid(spacing: Spacing, low: float, high: float, steps: int, rho: float) -> Float[np.ndarray, " n"]:
    """Decreasing sigmas, both ends included; ``high`` alone for one step."""
    if spacing == "karras":
        return karras_sigmas(low, high, steps, rho=rho)
    return np.exp(np.linspace(np.log(high), np.log(low), steps))
