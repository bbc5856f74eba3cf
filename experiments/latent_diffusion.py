r"""Latent diffusion, after Rombach et al. 2022: diffusion in the latents of an autoencoder, here by flow matching.

The first stage is a finished run of ``experiments.autoencoder_cifar`` or a published AutoencoderKL, and stays as it is;
latents are computed once into ``--first-stage.latents`` and reused by later runs and by pods. The defaults are for
images of 64x64 pixels and latents of 16x16x4; a UNet with attention at 16 and 8 (the form of their table 12).

    python -m experiments.latent_diffusion --quick                 a laptop: shapes world at 64x64 pixels
    python -m experiments.latent_diffusion --first-stage.path runs/autoencoder_cifar/default \
      --first-stage.latents latents --data.name folder --data.dir my_images --data.resolution 64
    python -m experiments.latent_diffusion --first-stage.path sd-vae-ft-mse --data.resolution 256 --model dit_b \
      --data.name folder --data.dir my_images                      32x32x4 latents of a published first stage
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.dataset import DataConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import UNetConfig
from vision.recipes.diffusion import DiffusionRunConfig, diffusion
from vision.recipes.diffusion_networks import SMALL_UNET, NetworkConfig, network_by_name
from vision.recipes.first_stage import SHAPES
from vision.recipes.generative import QUICK_GENERATION
from vision.recipes.latents import FirstStageConfig
from vision.recipes.quick_data import GENERATION, tiny, tiny_data
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig

ABOUT = About(task="diffusion", paper="Rombach et al. 2022, arXiv:2112.10752", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(DiffusionRunConfig):
    """The recipe."""

    model: NetworkConfig = network_by_name(
        UNetConfig(multipliers=(1, 2, 4), attention=(16, 8), channels=4, head_channels=64, dropout=0.0)
    )
    data: DataConfig = DataConfig(name="folder", resolution=64)
    first_stage: FirstStageConfig = FirstStageConfig(path=SHAPES)
    diffusion: DiffusionConfig = DiffusionConfig(
        schedule="flow",
        prediction="velocity",
        times="log_normal",
        time_mean=0.0,
        time_deviation=1.0,
        data_deviation=1.0,
    )
    sampling: SamplingConfig = SamplingConfig(method="heun", steps=25, threshold="none")
    optimizer: AdamConfig = AdamConfig(lr=1e-4, warmup=100_000, clip=1.0)
    images: int = 20_000_000
    batch_size: int = 256


QUICK = Config(
    model=replace(SMALL_UNET, channels=4, patch=2),
    **{
        **QUICK_GENERATION,
        "data": replace(GENERATION, resolution=64),
        "first_stage": FirstStageConfig(path=SHAPES, measured=2_000),
        "sampling": SamplingConfig(method="heun", steps=10, guidance=2.0, threshold="none"),
    },
)
TINY = tiny(
    QUICK,
    model=replace(QUICK.model, width=16, multipliers=(1,), classes=4),
    data=tiny_data(QUICK.data),
    first_stage=replace(QUICK.first_stage, measured=16),
    sampling=replace(QUICK.sampling, steps=2),
    samples=4,
    classified=4,
    held_out=8,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "dit": {"model": "dit_s", "model.patch": 2},
    "uniform_times": {"diffusion.times": "uniform"},
    "epsilon": {"diffusion.schedule": "scaled_linear", "diffusion.prediction": "epsilon", "diffusion.times": "uniform"},
    "v": {"diffusion.schedule": "scaled_linear", "diffusion.prediction": "v", "diffusion.times": "uniform"},
    "edm": {"diffusion.schedule": "edm", "diffusion.prediction": "edm", "diffusion.time_mean": -0.4},
    "patch_1": {"model.patch": 1},
    "pixels": {"first_stage.path": None, "model.channels": 3, "diffusion.data_deviation": 0.5},
    "unguided": {"sampling.guidance": 1.0},
    "strong_guidance": {"sampling.guidance": 4.0},
    "guidance_on_an_interval": {"sampling.guidance_range": (0.2, 5.0)},
    "few_steps": {"sampling.method": "unipc", "sampling.steps": 8},
}


def build(config: Config) -> Experiment:
    """The recipe of diffusion models on latents."""
    return diffusion(config)


if __name__ == "__main__":
    sys.exit(main("latent_diffusion", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
