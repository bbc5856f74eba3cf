"""The recipe of MeanFlow: a network of average velocities, trained from scratch, that samples in a step or a few."""

from dataclasses import dataclass, replace
from typing import Any

from vision.diffusion.conditions import label_conditioning
from vision.errors import UserError
from vision.models.unet import UNetConfig
from vision.recipes.diffusion_networks import NetworkConfig, diffusion_network, network_by_name
from vision.recipes.generative import QUICK_GENERATION, GenerativeRunConfig, Objective, generative, samples_of
from vision.tasks.mean_flow import (
    MeanFlowConfig,
    MeanFlowSamplingConfig,
    check,
    held_out_error,
    mean_flow_loss,
    mean_flow_sampler,
)
from vision.train.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class MeanFlowRunConfig(GenerativeRunConfig):
    """A recipe of MeanFlow."""

    model: NetworkConfig = network_by_name(UNetConfig(durations=True))
    mean_flow: MeanFlowConfig = MeanFlowConfig()
    sampling: MeanFlowSamplingConfig = MeanFlowSamplingConfig()


QUICK_MEAN_FLOW: dict[str, Any] = {
    **QUICK_GENERATION,
    "mean_flow": MeanFlowConfig(guidance=2.0, prediction="x0", time_mean=0.0, time_deviation=2.0),
    "images": 60_000,
}
"""What ``--quick`` has: data, budget, guidance that the network learns, and times near 1, where samples begin."""


def mean_flow(config: MeanFlowRunConfig) -> Experiment:
    """The experiment.

    Raises ``UserError`` for settings that contradict each other.
    """
    if not config.model.durations:
        raise UserError(
            "MeanFlow's network is given the time over which the velocity is averaged: set --model.durations, which "
            "UNets and DiTs have"
        )
    samples = samples_of(config)
    network = diffusion_network(config.model, samples.shape)
    conditioning = label_conditioning(config.model.classes)
    check(config.mean_flow, conditioning=conditioning, batch_size=config.batch_size // config.microbatches)
    if samples.space and config.sampling.threshold != "none":
        raise UserError("latents are not confined to [-1, 1] as images are: set --sampling.threshold none")
    steps, scale = config.sampling.steps, config.mean_flow.guidance
    return generative(
        config,
        replace(network, folder=None),
        samples,
        Objective(
            loss=mean_flow_loss(network.module, config.mean_flow, conditioning=conditioning),
            held_out=held_out_error(network.module, config.mean_flow, conditioning=conditioning),
            error="mean squared error of the velocity, the average over no time",
            sample=mean_flow_sampler(network.module, config.mean_flow, config.sampling, image_shape=samples.shape),
            sampling=f"MeanFlow, {steps} step{'s' * (steps > 1)}, guidance {scale:g} in the network",
        ),
    )
