"""Editing as a task: one function for each method, over the denoisers of any generator, in pixels or latents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Array, Float, Int, Key

from vision.diffusion.editing.blended import blended
from vision.diffusion.editing.composite import Weight
from vision.diffusion.editing.inverted import inverted
from vision.diffusion.editing.repaint import repaint
from vision.diffusion.editing.sdedit import sdedit
from vision.diffusion.grids import time_grid
from vision.diffusion.process import Process
from vision.diffusion.samplers.ddim import ddim
from vision.diffusion.samplers.plan import Denoiser
from vision.ranges import Depth, Fraction
from vision.tasks.sampling import SamplingConfig, make_threshold

GeneralMethod = Literal["sdedit", "repaint", "blended", "inversion"]
Images = Float[Array, "b h w c"]


@dataclass(frozen=True, kw_only=True)
class EditingConfig:
    """How a generator that was not trained to edit does."""

    method: GeneralMethod = "sdedit"
    strength: Fraction = 0.75
    """Share of the sampler's steps that an edit takes: 0 returns the image. Unused by repaint, which takes all."""
    resamplings: Depth = 10
    """How often repaint makes each step."""
    jump: Depth = 5
    """Steps that repaint takes back at once."""
    iterations: Depth = 1
    """Evaluations of each step of an inversion."""


EditFunction = Callable[[Denoiser, Denoiser, Images, Weight, Int[Array, " b"], Key[Array, ""]], Images]
"""(denoiser that describes the image, denoiser that describes the result, image, weight, index, key) -> the result, not
yet composited."""


def edit_function(config: EditingConfig, process: Process, sampling: SamplingConfig) -> EditFunction:
    """The method of ``config`` on the times, with the noise and under the threshold of ``sampling``.

    Steps are those of ddim, with the noise ``sampling.eta``, but for RePaint and blended diffusion, whose steps are
    ancestral as published. Only inversion uses the first denoiser.
    """
    times = time_grid(process, sampling.grid, sampling.steps, rho=sampling.rho, shift=sampling.shift)
    threshold = make_threshold(sampling)

    def edit(
        source: Denoiser, target: Denoiser, image: Images, weight: Weight, index: Int[Array, " b"], key: Key[Array, ""]
    ) -> Images:
        noise: dict[str, Any] = {"key": key, "index": index, "threshold": threshold}
        match config.method:
            case "sdedit":
                plan = lambda process, left: ddim(process, left, eta=sampling.eta)
                return sdedit(target, process, times, image, strength=config.strength, plan=plan, **noise)
            case "repaint":
                of = {"resamplings": config.resamplings, "jump": config.jump}
                return repaint(target, process, times, image, weight, **of, **noise)
            case "blended":
                return blended(target, process, times, image, weight, strength=config.strength, **noise)
            case "inversion":
                of = {"strength": config.strength, "iterations": config.iterations, "threshold": threshold}
                return inverted(source, target, process, times, image, **of).edited

    return edit
