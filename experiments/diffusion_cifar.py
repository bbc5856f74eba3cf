"""Denoising diffusion on CIFAR-10, after Ho et al. 2020, "Denoising Diffusion Probabilistic Models".

The defaults are the published recipe: UNet of 35,746,307 parameters, linear schedule of 1000 steps, epsilon target,
Adam 2e-4 with 5000 steps of warm-up, batch 128, dropout 0.1, EMA 0.9999, random flips, 800k steps. The paper reports an
Inception score of 9.46 and a Frechet distance of 3.17 to the training set after 102.4 M images, on a TPU v3-8 in 10.6
hours; this code has not been run to that length. Three things differ: times are stratified over the batch, the EMA
forgets the random start (``warmed_up``), and strided convolutions are padded evenly (``--model.resampling
strided_after`` pads them as published). DDPM++ and ADM are options too: `DDPM_PLUS_PLUS` and `ADM_64` of
``vision/models/unet.py`` list them.

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

from vision.errors import UserError
from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import SHARDING_RULES, UNet, UNetConfig
from vision.pretrained.unet2d import unet2d_source
from vision.recipes.diffusion import QUICK_DIFFUSION, DiffusionRunConfig, averaged_params, diffusion
from vision.recipes.published_start import with_published_folder
from vision.recipes.quick_data import tiny, tiny_data
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment

ABOUT = About(task="diffusion", paper="Ho et al. 2020, arXiv:2006.11239", quick="5 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(DiffusionRunConfig):
    """The recipe."""

    model: UNetConfig = UNetConfig()
    sampling: SamplingConfig = SamplingConfig(method="ancestral", steps=1000, variance="beta")


QUICK = Config(
    model=UNetConfig(
        width=64,
        multipliers=(1, 2),
        blocks=1,
        attention=(),
        dropout=0.0,
        classes=36,
        conditioning="scale_shift",
        patch=4,
    ),
    **QUICK_DIFFUSION,
)
TINY = tiny(
    QUICK,
    model=replace(QUICK.model, width=16, multipliers=(1,), classes=4),
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
    "no_attention": {"model.attention": ()},
    "no_dropout": {"model.dropout": 0.0},
    "unguided": {"sampling.guidance": 1.0},
    "half_width": {"model.width": 64},
}


def build(config: Config) -> Experiment:
    """The recipe of diffusion models with the UNet."""
    if any(config.model.width * multiplier % config.model.heads for multiplier in config.model.multipliers):
        raise UserError(f"model.heads {config.model.heads} must divide the channels of every level")
    coarsest = config.model.patch * 2 ** (len(config.model.multipliers) - 1)
    if config.data.resolution % coarsest:
        raise UserError(
            f"images of {config.data.resolution} pixels cannot be divided by {coarsest} (model.patch, and one halving "
            f"a level): choose --data.resolution as a multiple of {coarsest}, or fewer levels"
        )
    experiment = diffusion(config, UNet(config.model), rules=SHARDING_RULES)
    source = unet2d_source(config.model, side=config.data.resolution)
    return with_published_folder(experiment, config, source, variables=averaged_params)


if __name__ == "__main__":
    sys.exit(main("diffusion_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
