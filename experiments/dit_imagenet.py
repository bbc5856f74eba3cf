r"""Diffusion transformers on the latents of ImageNet, after Peebles & Xie 2023 (DiT, arXiv:2212.09748).

The published recipe at 256x256 pixels: DiT-XL/2 (675 M parameters) on 32x32x4 latents of the first stage of Stable
Diffusion, linear schedule of 1000 steps, the noise as target, AdamW 1e-4 without decay or warm-up, batch 256, EMA
0.9999, 10 % of labels left out, flips, 7 M steps, and a learned variance of the steps. The paper reports a Frechet
distance of 9.62, and 2.27 with guidance 1.5, in 250 ancestral steps. This code has not been run to that length.

    python -m experiments.dit_imagenet --quick                        a laptop: shapes world at 64x64 pixels
    python -m experiments.dit_imagenet --first-stage.path sd-vae-ft-ema --first-stage.scale published \
      --first-stage.latents latents --data.dir ~/tensorflow_datasets --mesh.fsdp 8 --model.dtype bfloat16     the recipe
    python -m vision sample dit_imagenet --init-from DiT-XL-2-256/transformer --first-stage.path DiT-XL-2-256/vae \
      --first-stage.scale published --count 16                        published weights, nothing trained

``--first-stage.path`` must be named, but with ``--quick``. ``--first-stage.latents`` is a folder where the latents of
all images, and of their flips, are kept once they are computed (42 GB in float16: means and deviations): later runs and
all hosts of a pod read them. ImageNet itself is read as it is.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from vision.data.dataset import DataConfig
from vision.errors import UserError
from vision.launch.about import About
from vision.launch.run import main
from vision.models.dit import DIT_XL
from vision.recipes.diffusion import DiffusionRunConfig, diffusion
from vision.recipes.diffusion_networks import SMALL_DIT, NetworkConfig, network_by_name
from vision.recipes.first_stage import NAME, SHAPES
from vision.recipes.generative import QUICK_GENERATION
from vision.recipes.latents import FirstStageConfig
from vision.recipes.quick_data import GENERATION, tiny, tiny_data
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import AdamConfig

ABOUT = About(task="diffusion", paper="Peebles & Xie 2023, arXiv:2212.09748", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(DiffusionRunConfig):
    """The recipe."""

    model: NetworkConfig = network_by_name(replace(DIT_XL, classes=1000, channels=4, remat=True))
    data: DataConfig = DataConfig(name="imagenet2012", resolution=256, test_split="validation", stream=True, workers=8)
    first_stage: FirstStageConfig = FirstStageConfig(path=SHAPES)
    diffusion: DiffusionConfig = DiffusionConfig(data_deviation=1.0, variance="learned")
    sampling: SamplingConfig = SamplingConfig(
        method="ancestral", steps=250, variance="learned", guidance=1.5, threshold="none"
    )
    optimizer: AdamConfig = AdamConfig(lr=1e-4)
    intervals: Intervals = Intervals(log=25_600, evaluate=12_800_000, save=2_560_000)
    images: int = 1_792_000_000
    batch_size: int = 256


QUICK = replace(
    Config(
        model=replace(SMALL_DIT, channels=4, patch=2),
        **{
            **QUICK_GENERATION,
            "data": replace(GENERATION, resolution=64),
            "first_stage": FirstStageConfig(path=SHAPES, measured=2_000),
            "diffusion": DiffusionConfig(schedule="cosine", prediction="v", data_deviation=1.0),
            "sampling": SamplingConfig(method="unipc", steps=20, guidance=2.0, threshold="none"),
        },
    ),
    optimizer=AdamConfig(lr=1e-3, warmup=6_400, schedule="cosine", b2=0.99, clip=1.0),
)
TINY = tiny(
    QUICK,
    model=replace(QUICK.model, width=16, depth=1, heads=2, classes=4),
    data=tiny_data(QUICK.data),
    first_stage=replace(QUICK.first_stage, measured=16),
    diffusion=replace(QUICK.diffusion, steps=20),
    sampling=replace(QUICK.sampling, steps=2),
    samples=4,
    classified=4,
    held_out=8,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "unet": {"model": "unet"},
    "fixed_variance": {"diffusion.variance": "fixed", "sampling.variance": "beta"},
    "small": {"model": "dit_s"},
    "base": {"model": "dit_b"},
    "large": {"model": "dit_l"},
    "patch_4": {"model.patch": 4},
    "patch_8": {"model.patch": 8},
    "flow": {
        "diffusion.schedule": "flow",
        "diffusion.prediction": "velocity",
        "diffusion.variance": "fixed",
        "sampling.method": "ddim",
    },
    "min_snr": {"diffusion.weighting": "min_snr"},
    "unguided": {"sampling.guidance": 1.0},
    "strong_guidance": {"sampling.guidance": 4.0},
    "guidance_on_an_interval": {"sampling.guidance_range": (0.2, 5.0)},
    "few_steps": {"sampling.method": "dpm_solver", "sampling.steps": 20},
}


def build(config: Config) -> Experiment:
    """The recipe of diffusion transformers on latents; what is trained needs a first stage of its images."""
    made = diffusion(config)
    if config.first_stage.path != SHAPES or config.data.name == "shapes":
        return made
    stage = replace(made.frozen[NAME], load=_no_first_stage)
    return replace(made, frozen={**made.frozen, NAME: stage})


def _no_first_stage() -> NoReturn:
    raise UserError(
        "it is of the shapes world, and latents of ImageNet are those of a published first stage, such as "
        "sd-vae-ft-ema: name its folder with --first-stage.path"
    )


if __name__ == "__main__":
    sys.exit(main("dit_imagenet", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
