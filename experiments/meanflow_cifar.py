"""MeanFlow on CIFAR-10: generation in one step, trained from scratch, after Geng et al. 2025 (arXiv:2505.13447).

The published recipe for CIFAR-10: the DDPM++ UNet with a second time embedding, Adam 6e-4 with 10,000 steps of warm-up,
batch 1,024, dropout 0.2, EMA 0.99995, 800k steps; logit t normal with mean -2 and deviation 2, r < t for 75 % of
samples, adaptive weights with p = 0.75. The paper reports a Frechet distance of 2.92 with one evaluation an image. This
code has not been run to that length.

    python -m experiments.meanflow_cifar --quick                             a laptop: shapes world, 5 minutes
    python -m experiments.meanflow_cifar --data.dir ~/tensorflow_datasets    the recipe
    python -m vision sample RUN --sampling.steps 4                           a few steps
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import DDPM_PLUS_PLUS
from vision.recipes.diffusion_networks import SMALL_UNET, NetworkConfig, network_by_name
from vision.recipes.mean_flow import QUICK_MEAN_FLOW, MeanFlowRunConfig, mean_flow
from vision.recipes.quick_data import tiny, tiny_data
from vision.tasks.mean_flow import MeanFlowConfig
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig

ABOUT = About(task="diffusion", paper="Geng et al. 2025, arXiv:2505.13447", quick="5 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(MeanFlowRunConfig):
    """The recipe."""

    model: NetworkConfig = network_by_name(replace(DDPM_PLUS_PLUS, dropout=0.2, durations=True))
    mean_flow: MeanFlowConfig = MeanFlowConfig(apart=3, time_mean=-2.0, time_deviation=2.0, power=0.75)
    optimizer: AdamConfig = AdamConfig(lr=6e-4, warmup=10_240_000, clip=0.0)
    images: int = 819_200_000
    batch_size: int = 1024
    ema: float = 0.99995


QUICK = Config(model=replace(SMALL_UNET, durations=True), **QUICK_MEAN_FLOW)
TINY = tiny(
    QUICK,
    model=replace(SMALL_UNET, width=16, multipliers=(1,), classes=4, durations=True),
    data=tiny_data(QUICK.data),
    samples=4,
    classified=4,
    held_out=8,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "unguided": {"mean_flow.guidance": 1.0},
    "strong_guidance": {"mean_flow.guidance": 4.0},
    "improved": {"mean_flow.tangent": "network"},
    "half_apart": {"mean_flow.apart": 2},
    "three_quarters_apart": {"mean_flow.apart": 3},
    "squared_error": {"mean_flow.power": 0.0},
    "two_steps": {"sampling.steps": 2},
    "four_steps": {"sampling.steps": 4},
}


def build(config: Config) -> Experiment:
    """The recipe of MeanFlow."""
    return mean_flow(config)


if __name__ == "__main__":
    sys.exit(main("meanflow_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
