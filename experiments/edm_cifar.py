"""EDM on CIFAR-10, after Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models".

The published recipe: DDPM++ of 55,732,739 parameters, sigma log-normal, preconditioned network and weights of their
table 1, Adam 1e-3 with 10 M images of warm-up, batch 512, dropout 0.13, an average with a half-life of 0.5 M images,
200 M images, Heun's method in 18 steps (35 evaluations). The paper reports a Frechet distance of 1.97 (1.79 with
labels) with conditional augmentation, of which only flips are implemented here; on 8 V100 in about 2 days. This
code has not been run to that length.

    python -m experiments.edm_cifar --quick                             a laptop: shapes world
    python -m experiments.edm_cifar --data.dir ~/tensorflow_datasets    the recipe
    python -m experiments.edm_cifar --model.classes 10                  with labels
    python -m experiments.edm_cifar --model edm2 --model.uncertainty --optimizer.lr 1e-2 \
      --optimizer.schedule inverse_sqrt --optimizer.decay-after 35000000   the magnitude-preserving network
    python -m experiments.edm_cifar --sampling.churn 30 --sampling.churn-range 0.01 1 --sampling.churn-noise 1.007
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import DDPM_PLUS_PLUS
from vision.recipes.diffusion import DiffusionRunConfig, diffusion
from vision.recipes.diffusion_networks import SMALL_UNET, NetworkConfig, network_by_name
from vision.recipes.generative import QUICK_GENERATION
from vision.recipes.quick_data import tiny, tiny_data
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig

ABOUT = About(task="diffusion", paper="Karras et al. 2022, arXiv:2206.00364", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(DiffusionRunConfig):
    """The recipe."""

    model: NetworkConfig = network_by_name(DDPM_PLUS_PLUS)
    diffusion: DiffusionConfig = DiffusionConfig(schedule="edm", prediction="edm", times="log_normal")
    sampling: SamplingConfig = SamplingConfig(method="heun", steps=18)
    optimizer: AdamConfig = AdamConfig(lr=1e-3, warmup=10_000_000, clip=0.0)
    images: int = 200_000_000
    batch_size: int = 512
    ema: float = 0.99929
    """0.5 ** (512 / 500,000)."""


QUICK = Config(
    model=SMALL_UNET, **{**QUICK_GENERATION, "sampling": SamplingConfig(method="heun", steps=10, guidance=2.0)}
)
TINY = tiny(
    QUICK,
    model=replace(SMALL_UNET, width=16, multipliers=(1,), classes=4),
    data=tiny_data(QUICK.data),
    sampling=replace(QUICK.sampling, steps=2),
    samples=4,
    classified=4,
    held_out=8,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "x0": {"diffusion.prediction": "x0", "diffusion.weighting": "edm"},
    "epsilon": {"diffusion.prediction": "epsilon"},
    "min_snr": {"diffusion.weighting": "min_snr"},
    "variance_preserving": {"diffusion.schedule": "vp"},
    "variance_exploding": {"diffusion.schedule": "ve"},
    "flow": {"diffusion.schedule": "flow", "diffusion.prediction": "velocity"},
    "larger_sigmas": {"diffusion.time_mean": -0.4},
    "wider_sigmas": {"diffusion.time_deviation": 1.6},
    "churn": {"sampling.churn": 10.0},
    "ddim": {"sampling.method": "ddim", "sampling.steps": 19},
    "dpm_solver": {"sampling.method": "dpm_solver", "sampling.steps": 19},
    "heun_9_evaluations": {"sampling.steps": 5},
    "heun_79_evaluations": {"sampling.steps": 40},
    "unipc": {"sampling.method": "unipc", "sampling.steps": 10},
    "unguided": {"sampling.guidance": 1.0},
    "strong_guidance": {"sampling.guidance": 4.0},
    "average_of_100_steps": {"ema": 0.99},
    "average_of_10000_steps": {"ema": 0.9999},
    "guidance_on_an_interval": {"sampling.guidance_range": (0.2, 5.0)},
}


def build(config: Config) -> Experiment:
    """The recipe of diffusion models, with the process of EDM."""
    return diffusion(config)


if __name__ == "__main__":
    sys.exit(main("edm_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
