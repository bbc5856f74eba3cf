r"""Upsamplers of a cascade: diffusion of large images given small ones (Ramesh et al. 2022; Saharia et al. 2021).

The small image, enlarged, is concatenated to the noisy one. In training it gets noise of a random level, which the
network is given, and half of the time a blur (Ho et al. 2022, "Cascaded Diffusion Models"), so that the faults of
generated images do not matter. No text is needed; ``--clip.weights`` adds one. The paper's two upsamplers are
``--model unclip_256`` from 64 to 256 pixels (732 M parameters, 700 M there) and ``--model unclip_1024`` from 256 to
1024 (283 M, 300 M there), trained on crops; they have not been trained here.

    python -m experiments.upsampler_shapes --quick                                32 to 64 pixels, the shapes world
    python -m experiments.upsampler_shapes --quick --data.resolution 128          64 to 128
    python -m experiments.upsampler_shapes --quick --clip.weights vision/pretrained/shapes_clip    with texts
    python -m vision sample RUN --image small/*.png --upsampling.sampled-level 0.1
    python -m experiments.upsampler_shapes --data.name folder --data.dir my_images --data.resolution 256 \
        --upsampling.factor 4 --upsampling.crop 64 --model unclip_256 --data.stream
    python -m experiments.upsampler_shapes --data.name folder --data.dir my_images --data.resolution 1024 \
        --upsampling.factor 4 --upsampling.crop 256 --model unclip_1024 --diffusion.schedule linear --data.stream
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.captions.data import CaptionedConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import UNetConfig
from vision.recipes.generative import QUICK_GENERATION
from vision.recipes.quick_data import PAIRS, tiny, tiny_captions
from vision.recipes.text_networks import SMALL_UPSAMPLER, UPSAMPLING_UNET, upsampler_by_name
from vision.recipes.upsampler import UpsamplerRunConfig, upsampler
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.tasks.upsampling import UpsamplingConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import AdamConfig

ABOUT = About(task="images and texts", paper="Ramesh et al. 2022, arXiv:2204.06125", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(UpsamplerRunConfig):
    """The recipe."""

    model: UNetConfig = upsampler_by_name(UPSAMPLING_UNET)
    data: CaptionedConfig = CaptionedConfig(name="folder", resolution=256, stream=True)
    upsampling: UpsamplingConfig = UpsamplingConfig(factor=4, crop=64)
    diffusion: DiffusionConfig = DiffusionConfig(schedule="cosine")
    sampling: SamplingConfig = SamplingConfig(steps=27)
    optimizer: AdamConfig = AdamConfig(lr=1.2e-4, warmup=640_000, b2=0.999, clip=1.0)
    images: int = 100_000_000
    batch_size: int = 256
    evaluation_batch: int = 32


QUICK = Config(
    model=SMALL_UPSAMPLER,
    upsampling=UpsamplingConfig(),
    **{
        **QUICK_GENERATION,
        "data": replace(PAIRS, resolution=64, shapes_count=10_000),
        "diffusion": DiffusionConfig(schedule="cosine", prediction="x0", weighting="truncated_snr"),
        "sampling": SamplingConfig(steps=10),
        "intervals": Intervals(log=1_600, evaluate=20_000, save=10_000),
        "images": 40_000,
        "samples": 64,
        "held_out": 256,
    },
)
TINY = tiny(
    QUICK,
    model=replace(SMALL_UPSAMPLER, width=16, multipliers=(1,)),
    data=tiny_captions(QUICK.data),
    diffusion=replace(QUICK.diffusion, steps=20),
    sampling=replace(QUICK.sampling, steps=2),
    samples=4,
    held_out=8,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_noise": {"upsampling.noise": 0.0},
    "no_blur": {"upsampling.blur": 0.0},
    "noise_in_sampling": {"upsampling.sampled_level": 0.2},
    "epsilon": {"diffusion.prediction": "epsilon", "diffusion.weighting": "simple"},
    "learned_variance": {
        "diffusion.variance": "learned",
        "sampling.method": "ancestral",
        "sampling.variance": "learned",
    },
    "few_steps": {"sampling.steps": 4},
}


def build(config: Config) -> Experiment:
    """The recipe of upsamplers."""
    return upsampler(config)


if __name__ == "__main__":
    sys.exit(main("upsampler_shapes", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
