"""Recognise CIFAR-10 quickly, after Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498).

A whitening convolution that is computed from the images, three blocks of two convolutions, labels smoothed by 0.2,
Nesterov SGD with a linear fall, flips and crops. The paper's network (2.0 M parameters) reaches 94.0 % in 9.9 epochs of
all 50,000 images. Here the learning rate is one for all parameters, flips are random, and the average is an EMA.

    python -m experiments.speedrun_cifar --quick                                 shapes world, two minutes on a laptop
    python -m experiments.speedrun_cifar --data.dir ~/tensorflow_datasets        CIFAR-10
    python -m vision predict RUN '*.png'                                         after training, RUN being its folder

CIFAR-10 itself: ``python -m vision.data.cifar10 --data-dir ~/tensorflow_datasets`` (170 MB, needs no TensorFlow).
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.augment.image import AugmentConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.speedrun import SpeedrunConfig
from vision.recipes.classification import ClassificationRunConfig, classification
from vision.recipes.classifiers import network
from vision.recipes.quick_data import RECOGNITION, tiny, tiny_data
from vision.tasks.classification import ClassificationConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="recognition", paper="Jordan 2024, arXiv:2404.00498", quick="2 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationRunConfig):
    """The recipe."""

    model: SpeedrunConfig = SpeedrunConfig()
    augment: AugmentConfig = AugmentConfig(flip=True, pad_crop=2, pad_mode="reflect")
    loss: ClassificationConfig = ClassificationConfig(smoothing=0.2)
    optimizer: OptimizerConfig = OptimizerConfig(
        lr=0.2, momentum=0.85, weight_decay=5e-4, warmup=100_000, schedule="linear"
    )
    intervals: Intervals = Intervals(log=10_000, evaluate=125_000, save=125_000)
    flip_tta: bool = True
    ema: float = 0.99
    images: int = 495_000
    batch_size: int = 512


QUICK = Config(
    model=SpeedrunConfig(widths=(16, 32, 64), classes=36),
    data=RECOGNITION,
    optimizer=OptimizerConfig(lr=0.2, momentum=0.85, warmup=10_000, schedule="linear"),
    intervals=Intervals(log=5_000, evaluate=30_000, save=30_000),
    images=60_000,
    batch_size=125,
)
TINY = tiny(QUICK, model=replace(QUICK.model, widths=(8,), classes=4), data=tiny_data(QUICK.data))

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_smoothing": {"loss.smoothing": 0.0},
    "no_flip": {"augment.flip": False},
    "no_crop": {"augment.pad_crop": 0},
    "cutout": {"augment.cutout": 12},
    "no_flip_tta": {"flip_tta": False},
    "half_width": {"model.widths": (32, 128, 128)},
    "muon": {"optimizer.name": "muon", "optimizer.lr": 0.02},
    "cosine": {"optimizer.schedule": "cosine"},
}


def build(config: Config) -> Experiment:
    """The recipe of classifiers."""
    return classification(config, network(config.model))


if __name__ == "__main__":
    sys.exit(main("speedrun_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
