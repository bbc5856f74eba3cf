"""Denoising diffusion on CIFAR-10, after Ho et al. 2020, "Denoising Diffusion Probabilistic Models".

The defaults are the published recipe: UNet of 35,746,307 parameters, linear schedule of 1000 steps, epsilon target,
Adam 2e-4 with 5000 steps of warm-up, batch 128, dropout 0.1, EMA 0.9999, random flips, 800k steps. The paper reports an
Inception score of 9.46 and a Frechet distance of 3.17 to the training set after 102.4 M images, on a TPU v3-8 in 10.6
hours; this code has not been run to that length. Three things differ: times are stratified over the batch, the EMA
forgets the random start (``warmed_up``), and strided convolutions are padded evenly (``--model.resampling
strided_after`` pads them as published). ``--model ddpm_plus_plus``, ``adm_64`` or ``edm2`` are other networks.

    python -m experiments.diffusion_cifar --quick                         a laptop: shapes world, under 5 minutes
    python -m experiments.diffusion_cifar --data.dir ~/tensorflow_datasets   the recipe
    python -m experiments.diffusion_cifar --mesh.fsdp 8 --model.dtype bfloat16
    python -m vision sample RUN --count 100                                  after training, RUN being its folder

``--init-from FOLDER`` starts from a network that is published in diffusers' layout (docs/weights.md), with the options
that the first attempt names; ``python -m vision export RUN FOLDER`` writes one.

CIFAR-10 itself: ``python -m vision.data.cifar10 --data-dir ~/tensorflow_datasets`` (170 MB, needs no TensorFlow).
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import UNetConfig
from vision.recipes.diffusion import QUICK_DIFFUSION, DiffusionRunConfig, diffusion
from vision.recipes.diffusion_networks import SMALL_UNET, NetworkConfig, network_by_name
from vision.recipes.quick_data import tiny, tiny_data
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment

ABOUT = About(task="diffusion", paper="Ho et al. 2020, arXiv:2006.11239", quick="5 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(DiffusionRunConfig):
    """The recipe."""

    model: NetworkConfig = network_by_name(UNetConfig())
    sampling: SamplingConfig = SamplingConfig(method="ancestral", steps=1000, variance="beta")


QUICK = Config(
    model=SMALL_UNET,
    **QUICK_DIFFUSION,
)
TINY = tiny(
    QUICK,
    model=replace(SMALL_UNET, width=16, multipliers=(1,), classes=4),
    data=tiny_data(QUICK.data),
    diffusion=replace(QUICK.diffusion, steps=20),
    sampling=replace(QUICK.sampling, steps=2),
    samples=4,
    classified=4,
    held_out=8,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "epsilon": {"diffusion.prediction": "epsilon", "diffusion.weighting": "simple"},
    "x0": {"diffusion.prediction": "x0"},
    "v": {"diffusion.prediction": "v"},
    "linear": {"diffusion.schedule": "linear"},
    "cosine": {"diffusion.schedule": "cosine"},
    "sigmoid": {"diffusion.schedule": "sigmoid"},
    "min_snr": {"diffusion.weighting": "min_snr"},
    "x0_min_snr": {"diffusion.prediction": "x0", "diffusion.weighting": "min_snr"},
    "v_min_snr": {"diffusion.prediction": "v", "diffusion.weighting": "min_snr"},
    "v_truncated_snr": {"diffusion.prediction": "v", "diffusion.weighting": "truncated_snr"},
    "edm": {
        "diffusion.schedule": "edm",
        "diffusion.prediction": "edm",
        "diffusion.weighting": "simple",
        "diffusion.times": "log_normal",
    },
    "flow": {"diffusion.schedule": "flow", "diffusion.prediction": "velocity", "diffusion.weighting": "simple"},
    "flow_x0": {"diffusion.schedule": "flow", "diffusion.prediction": "x0"},
    "log_normal_times": {"diffusion.times": "log_normal", "diffusion.time_mean": 0.0},
    "learned_variance": {
        "diffusion.variance": "learned",
        "sampling.method": "ancestral",
        "sampling.variance": "learned",
    },
    "no_attention": {"model.attention": ()},
    "no_dropout": {"model.dropout": 0.0},
    "unguided": {"sampling.guidance": 1.0},
    "strong_guidance": {"sampling.guidance": 4.0},
    "ddim_10": {"sampling.method": "ddim", "sampling.steps": 10},
    "ddim_50": {"sampling.method": "ddim", "sampling.steps": 50},
    "dpm_solver_10": {"sampling.method": "dpm_solver", "sampling.steps": 10},
    "unipc_10": {"sampling.method": "unipc", "sampling.steps": 10},
    "ancestral_50": {"sampling.method": "ancestral", "sampling.steps": 50},
    "average_of_100_steps": {"ema": 0.99},
    "average_of_1000_steps": {"ema": 0.999},
    "half_width": {"model.width": 64},
}


def build(config: Config) -> Experiment:
    """The recipe of diffusion models with the UNet."""
    return diffusion(config)


if __name__ == "__main__":
    sys.exit(main("diffusion_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
