r"""Progressive distillation on CIFAR-10, after Salimans & Ho 2022: a sampler of few steps from one of many.

A diffusion model of v under a cosine schedule is the teacher; students of 512, 256, ..., 1 steps learn what their
teacher does in two. The paper trains each student for 50,000 steps of 128 images (the last two for 100,000) with Adam,
and reports Frechet distances of 2.57 in 8 steps, 3.00 in 4, 4.51 in 2 and 9.12 in 1, with a network of its own. Here
all students have the same number of steps, and the learning rate is constant. This code has not been run to that
length.

    python -m experiments.distill_cifar --quick                    a laptop: shapes world, teacher and students
    python -m experiments.diffusion_cifar --data.dir ~/tensorflow_datasets --diffusion.schedule cosine \
      --diffusion.prediction v --diffusion.weighting truncated_snr --workdir runs/teacher
    python -m experiments.distill_cifar --data.dir ~/tensorflow_datasets --init-from runs/teacher \
      --distillation.teacher-images 0 --images 70400000                    a teacher that is trained already
    python -m experiments.distill_cifar --data.dir ~/tensorflow_datasets   both
    python -m experiments.distill_cifar --quick --distillation.last-steps 4 --sampling.steps 4
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import UNetConfig
from vision.recipes.diffusion_networks import SMALL_UNET, NetworkConfig, network_by_name
from vision.recipes.generative import QUICK_GENERATION
from vision.recipes.progressive_distillation import DistillationRunConfig, progressive_distillation
from vision.recipes.quick_data import tiny, tiny_data
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.progressive_distillation import DistillationConfig
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig

ABOUT = About(task="diffusion", paper="Salimans & Ho 2022, arXiv:2202.00512", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(DistillationRunConfig):
    """The recipe."""

    model: NetworkConfig = network_by_name(UNetConfig())
    diffusion: DiffusionConfig = DiffusionConfig(schedule="cosine", prediction="v", weighting="truncated_snr")
    distillation: DistillationConfig = DistillationConfig(teacher_images=102_400_000, first_steps=512)
    sampling: SamplingConfig = SamplingConfig(steps=1, grid="trailing")
    optimizer: AdamConfig = AdamConfig(lr=5e-5, clip=1.0)
    images: int = 172_800_000


QUICK = Config(
    model=SMALL_UNET,
    **{
        **QUICK_GENERATION,
        "diffusion": DiffusionConfig(schedule="flow", prediction="velocity", weighting="truncated_snr"),
        "distillation": DistillationConfig(teacher_images=40_000, first_steps=8, guidance=2.0),
        "sampling": SamplingConfig(steps=1, grid="trailing"),
        "optimizer": AdamConfig(lr=1e-3, warmup=6_400, b2=0.99, clip=1.0),
        "images": 80_000,
    },
)
TINY = tiny(
    QUICK,
    model=replace(SMALL_UNET, width=16, multipliers=(1,), classes=4),
    data=tiny_data(QUICK.data),
    distillation=replace(QUICK.distillation, teacher_images=8, first_steps=1),
    samples=4,
    classified=4,
    held_out=8,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "four_steps": {"distillation.last_steps": 4, "sampling.steps": 4},
    "two_steps": {"distillation.last_steps": 2, "sampling.steps": 2},
    "at_once": {"distillation.first_steps": 1},
    "from_16": {"distillation.first_steps": 16},
    "unguided": {"distillation.guidance": 1.0},
    "weighted_as_x0": {"diffusion.weighting": "x0"},
}


def build(config: Config) -> Experiment:
    """The recipe of progressive distillation."""
    return progressive_distillation(config)


if __name__ == "__main__":
    sys.exit(main("distill_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
