"""Images from sentences in the latents of an autoencoder: a published pipeline fine-tuned, or trained from the start.

With a pipeline of diffusers (Stable Diffusion 1 and 2, Rombach et al. 2022) its network is fine-tuned on captioned
images; autoencoder, text encoder and tokenizer stay as they are. Without one, a network of the same kind and its text
encoder are trained from the start, as in section 4.3.1 of the paper, on the latents of a first stage; the paper's model
has 1.45 billion parameters and was trained on LAION-400M. Neither has been run at that scale here, since no published
weights are part of this project.

    python -m experiments.text_pipeline --quick                           the shapes world and its captions
    python -m experiments.text_pipeline --pipeline.path stable-diffusion-v1-5 --data.name folder --data.dir my_images
    python -m vision sample text_pipeline --pipeline.path stable-diffusion-v1-5 --prompt "a red star" --count 4
    python -m vision sample RUN --prompt "a red star" "a blue circle" --sampling.guidance 5 --negative-prompt "blurred"
    python -m vision sample text_pipeline --pipeline.path instruct-pix2pix --prompt "make it night" --image photo.jpg
    python -m vision export RUN my-stable-diffusion                      a pipeline for diffusers
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.captions.data import CaptionedConfig
from vision.data.text.training import END
from vision.launch.about import About
from vision.launch.run import main
from vision.models.clip.text import TextConfig
from vision.models.unet_condition.unet import ConditionUNetConfig
from vision.recipes.first_stage import SHAPES
from vision.recipes.latents import FirstStageConfig
from vision.recipes.quick_data import GENERATION, tiny, tiny_data
from vision.recipes.text_pipeline import TextPipelineConfig, text_pipeline
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="diffusion", paper="Rombach et al. 2022, arXiv:2112.10752", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(TextPipelineConfig):
    """Fine-tuning of Stable Diffusion."""

    intervals: Intervals = Intervals(log=1_000, evaluate=10_000, save=10_000)
    images: int = 100_000
    batch_size: int = 32
    ema: float = 0.999
    evaluation_batch: int = 16


QUICK = Config(
    model=ConditionUNetConfig(
        widths=(64, 128),
        blocks=(1, 1),
        attending=(1,),
        layers=(1, 1),
        heads=(4, 4),
        context=64,
        groups=16,
        conditioning="scale_shift",
    ),
    text=TextConfig(vocabulary=400, length=16, end=END, width=64, depth=2, heads=4),
    data=CaptionedConfig(
        resolution=64, shapes_count=GENERATION.shapes_count, shapes=replace(GENERATION.shapes, resolution=64)
    ),
    first_stage=FirstStageConfig(path=SHAPES, measured=2_000),
    diffusion=DiffusionConfig(schedule="cosine", prediction="v"),
    sampling=SamplingConfig(method="dpm_solver", grid="trailing", steps=15, guidance=3.0, threshold="none"),
    optimizer=OptimizerConfig(name="adamw", lr=1e-3, b2=0.99, weight_decay=1e-2, warmup=6_400, clip=1.0),
    intervals=Intervals(log=3_200, evaluate=20_000, save=10_000),
    images=40_000,
    samples=36,
    ema=0.995,
    evaluation_batch=36,
)
TINY = tiny(
    QUICK,
    model=replace(QUICK.model, widths=(16,), blocks=(1,), layers=(1,), heads=(2,), attending=(), context=16, groups=4),
    text=replace(QUICK.text, vocabulary=300, width=16, depth=1, heads=2),
    data=tiny_data(QUICK.data),
    first_stage=replace(QUICK.first_stage, measured=16),
    sampling=replace(QUICK.sampling, steps=2),
    samples=4,
    held_out=8,
    evaluation_batch=4,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "joint_attention": {"model.attention": "joint", "model.resampling": "residual"},
    "context_alone": {"model.context_only": (1,)},
    "epsilon": {"diffusion.prediction": "epsilon"},
    "captions_never_left_out": {"diffusion.condition_dropout": 0.0, "sampling.guidance": 1.0},
    "strong_guidance": {"sampling.guidance": 7.5},
}


def build(config: Config) -> Experiment:
    """The recipe of text-to-image models in latents."""
    return text_pipeline(config)


if __name__ == "__main__":
    sys.exit(main("text_pipeline", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
