r"""Images for sentences by diffusion that is conditioned on texts alone, without a prior: the baseline.

A frozen text tower reads the caption; its tokens are attended to, its embedding is added to the time (Nichol et al.
2021, "GLIDE", here with the tower of a CLIP, as Rombach et al. 2022). The tower is that of a run of
``experiments.clip_shapes`` or of a published CLIP, named by ``--clip.weights``; by default a small one of the shapes
world that comes with this project. The defaults are for images of 64x64 pixels on one accelerator; this code has not
been run to that length.

    python -m experiments.text_to_image_shapes --quick                            the shapes world at 32x32 pixels
    python -m experiments.text_to_image_shapes --quick --data.resolution 64 --model.patch 8
    python -m vision sample RUN --prompt "a red star left of a blue circle" "two green hearts" --count 16
    python -m vision sample RUN --prompt "a pink heart" --sampling.guidance 4 --best-of 8 --seed 1
    python -m experiments.text_to_image_shapes --data.name folder --data.dir my_images --clip.weights runs/my_clip
    python -m experiments.text_to_image_shapes --data.name coco --data.dir coco --data.stream --data.workers 8 \
        --clip.weights clip-vit-large-patch14                                        COCO captions
    python -m experiments.text_to_image_shapes --quick --model.channels 4 --model.patch 2 --data.resolution 64 \
        --first-stage.path vision/pretrained/shapes_first_stage --sampling.threshold none       in latents

Shapes world: "facts_single" and "facts_pair" are the shares of held-out captions all of whose facts the samples show.
``--data.held-out "red star" "blue cross"`` leaves kinds of figures out of training and reports them by themselves.
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.data.captions.data import CaptionedConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import UNetConfig
from vision.recipes.clip_encoder import SHAPES
from vision.recipes.quick_data import tiny
from vision.recipes.text_conditions import ClipPartConfig
from vision.recipes.text_networks import TEXT_UNET, text_network_by_name
from vision.recipes.text_to_image import (
    QUICK_TEXT_TO_IMAGE,
    TINY_TEXT_TO_IMAGE,
    TextToImageRunConfig,
    text_to_image,
)
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig

ABOUT = About(task="images and texts", paper="Nichol et al. 2021, arXiv:2112.10741", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(TextToImageRunConfig):
    """The recipe."""

    model: UNetConfig = text_network_by_name(TEXT_UNET)
    data: CaptionedConfig = CaptionedConfig(name="folder", resolution=64)
    clip: ClipPartConfig = ClipPartConfig(weights=SHAPES)
    diffusion: DiffusionConfig = DiffusionConfig(schedule="cosine", prediction="v")
    sampling: SamplingConfig = SamplingConfig(steps=50, guidance=3.0)
    optimizer: AdamConfig = AdamConfig(lr=1e-4, warmup=640_000, clip=1.0)
    images: int = 100_000_000
    batch_size: int = 256


QUICK = Config(**QUICK_TEXT_TO_IMAGE)
TINY = tiny(QUICK, **TINY_TEXT_TO_IMAGE)

ABLATIONS: dict[str, dict[str, Any]] = {
    "unguided": {"sampling.guidance": 1.0},
    "strong_guidance": {"sampling.guidance": 4.0},
    "dynamic_threshold": {"sampling.guidance": 4.0, "sampling.threshold": "dynamic"},
    "no_attention": {"model.attention": (), "model.mid_attention": "none"},
    "no_dropout_of_texts": {"diffusion.condition_dropout": 0.0, "sampling.guidance": 1.0},
    "learned_variance": {
        "diffusion.variance": "learned",
        "sampling.method": "ancestral",
        "sampling.variance": "learned",
    },
}


def build(config: Config) -> Experiment:
    """The recipe of generating images for texts."""
    return text_to_image(config)


if __name__ == "__main__":
    sys.exit(main("text_to_image_shapes", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
