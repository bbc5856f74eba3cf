"""The recipe of diffusion models: a network, a process, a loss, an optimizer, data, evaluation."""

from dataclasses import dataclass
from typing import Any

from vision.diffusion.conditions import label_conditioning
from vision.errors import UserError
from vision.recipes.diffusion_networks import diffusion_network
from vision.recipes.generative import QUICK_GENERATION, GenerativeRunConfig, Objective, generative, samples_of
from vision.tasks.diffusion import DiffusionConfig, check_diffusion, diffusion_loss, held_out_error, make_process
from vision.tasks.sampling import SamplingConfig, check, describe, sampler
from vision.train.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class DiffusionRunConfig(GenerativeRunConfig):
    """A diffusion recipe."""

    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig()


QUICK_DIFFUSION: dict[str, Any] = {
    **QUICK_GENERATION,
    # predicting the image lets a network this narrow ignore the noise that 4x4 patches would make it copy
    "diffusion": DiffusionConfig(schedule="cosine", prediction="x0", weighting="truncated_snr"),
    "sampling": SamplingConfig(steps=20, guidance=2.0),
}
"""What ``--quick`` of the diffusion experiments share: data, process, sampling, budget."""


def diffusion(config: DiffusionRunConfig) -> Experiment:
    """The experiment.

    Raises ``UserError`` for settings that contradict each other.
    """
    samples = samples_of(config)
    network = diffusion_network(config.model, samples.shape)
    conditioning = label_conditioning(config.model.classes)
    check(config.diffusion, config.sampling, conditioning=conditioning)
    check_diffusion(config.diffusion, batch_size=config.batch_size // config.microbatches)
    if samples.space and config.sampling.threshold != "none":
        raise UserError("latents are not confined to [-1, 1] as images are: set --sampling.threshold none")
    if config.model.durations:
        raise UserError("model.durations is for networks of average velocities (mean_flow): leave it False")
    process = make_process(config.diffusion)
    of = {"conditioning": conditioning}
    return generative(
        config,
        network,
        samples,
        Objective(
            loss=diffusion_loss(network.module, config.diffusion, process, log_variance=network.log_variance, **of),
            held_out=held_out_error(network.module, config.diffusion, process, **of),
            error=f"mean squared error of the {config.diffusion.prediction} target",
            sample=sampler(network.module, config.diffusion, process, config.sampling, image_shape=samples.shape, **of),
            sampling=describe(config.sampling),
        ),
    )
