r"""The prior of unCLIP: from a text to the CLIP embedding of an image (Ramesh et al. 2022, "DALL-E 2").

A causal transformer denoises the embedding of an image, given the text's hidden states and embedding by a frozen CLIP;
of two samples the one nearer to the text is taken. The defaults are those of the paper (section 2.2, table 3): a
billion parameters, a cosine schedule of 1000 steps, the embedding itself as target, texts left out for a tenth of the
samples, batches of 4096 for 600,000 steps of AdamW with 1.1e-4, an average of 0.9999, 64 sampling steps. The paper
trained on 250 million pairs and compares priors by the images of a decoder (section 5). This code has not been run to
that length.

    python -m experiments.prior_shapes --quick                        the shapes world, by a CLIP that comes with this
    python -m experiments.prior_shapes --quick --clip.weights runs/clip_shapes/default --clip.embeddings embeddings
    python -m experiments.prior_shapes --data.name shards --data.dir tars --clip.weights clip-vit-large-patch14 \
        --clip.embeddings embeddings --mesh.fsdp 8 --model.dtype bfloat16     images with captions, a published CLIP
    python -m vision evaluate prior_shapes --init-from karlo-v1-alpha/prior --model karlo \
        --clip.weights clip-vit-large-patch14 --data.dir coco         published weights, nothing trained

``--clip.embeddings`` is a folder where the embeddings of all images are kept once they are computed, by the hash of
the CLIP and of the data; without it each start computes them. ``vision.recipes.prior_sampler`` uses a run's samples.
Their numbers are next to those of the embedding of the text itself, of zeros and of chance: ``r1`` is the share of
samples of held-out captions whose own image is the most similar of 256, ``cosine_margin`` how much more similar a
sample is to its own image than to others, ``variance_share`` the variance of the samples of a text over that of real
images with it.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vision.data.captions.data import CaptionedConfig
from vision.evaluation.prior import PriorEvaluationConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.prior import PriorSize
from vision.recipes.prior import QUICK_SIZE, ClipSourceConfig, PriorRunConfig, prior, size_by_name
from vision.recipes.quick_data import PAIRS, tiny, tiny_captions
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="images and texts", paper="Ramesh et al. 2022, arXiv:2204.06125", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(PriorRunConfig):
    """The paper's prior."""

    model: PriorSize = size_by_name(PriorSize(remat=True))
    data: CaptionedConfig = CaptionedConfig(name="coco", dir=Path("coco"), resolution=224, stream=True, workers=8)
    intervals: Intervals = Intervals(log=1_000_000, evaluate=40_000_000, save=10_000_000)
    images: int = 2_457_600_000
    batch_size: int = 4_096
    ema: float = 0.9999


QUICK = Config(
    model=QUICK_SIZE,
    data=PAIRS,
    sampling=replace(Config.sampling, steps=25),
    optimizer=OptimizerConfig(name="adamw", lr=1e-3, b2=0.99, weight_decay=0.01, warmup=12_800, clip=1.0),
    intervals=Intervals(log=12_800, evaluate=128_000, save=64_000),
    evaluation=PriorEvaluationConfig(texts=24),
    images=128_000,
    batch_size=128,
    ema=0.995,
)
TINY = tiny(
    QUICK,
    model=replace(QUICK_SIZE, width=16, depth=1, heads=2),
    data=tiny_captions(PAIRS),
    clip=ClipSourceConfig(batch=16),
    diffusion=replace(QUICK.diffusion, steps=20),
    sampling=replace(QUICK.sampling, steps=2),
    evaluation=PriorEvaluationConfig(images=24, compared=8, texts=2, scenes=2),
    held_out=8,
    evaluation_batch=8,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "embedding_alone": {"text": "embedding"},
    "states_alone": {"text": "states"},
    "one_candidate": {"candidates": 1},
    "many_candidates": {"candidates": 8},
    "unguided": {"sampling.guidance": 1.0},
    "strong_guidance": {"sampling.guidance": 4.0},
    "no_dropout": {"diffusion.condition_dropout": 0.0, "sampling.guidance": 1.0},
    "epsilon": {"diffusion.prediction": "epsilon"},
    "v": {"diffusion.prediction": "v"},
    "linear_schedule": {"diffusion.schedule": "linear"},
    "flow": {
        "diffusion.schedule": "flow",
        "diffusion.prediction": "velocity",
        "sampling.method": "heun",
        "sampling.steps": 12,
    },
    "ddim": {"sampling.method": "ddim"},
    "without_query": {"model.query": False},
    "shallow": {"model.depth": 2},
    "narrow": {"model.width": 64},
}


def build(config: Config) -> Experiment:
    """The recipe of priors."""
    return prior(config)


if __name__ == "__main__":
    sys.exit(main("prior_shapes", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
