"""Recognise MNIST quickly, by the network of ``experiments.speedrun_cifar`` (Jordan 2024, arXiv:2404.00498) in grey.

Five epochs, widths 32, 64 and 128, crops of images padded by 2, no flips, since a flipped digit is no digit.

    python -m experiments.speedrun_mnist --quick                              six shapes of the shapes world, a minute
    python -m experiments.speedrun_mnist --data.dir ~/tensorflow_datasets     MNIST, 99.66 % in 4 minutes on 2 cores

Prepared by ``tfds build mnist --file_format=array_record``, which needs TensorFlow once; training never does.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.augment.image import AugmentConfig
from vision.data.labelled import LabelledConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.speedrun import SpeedrunConfig
from vision.recipes.classification import ClassificationRunConfig, classification
from vision.recipes.classifiers import network
from vision.recipes.quick_data import RECOGNITION, tiny, tiny_data
from vision.tasks.classification import ClassificationConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="recognition", paper="Jordan 2024, arXiv:2404.00498", quick="1 minute")


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationRunConfig):
    """The recipe."""

    model: SpeedrunConfig = SpeedrunConfig(widths=(32, 64, 128), channels=1)
    data: LabelledConfig = LabelledConfig(name="mnist", resolution=28)
    augment: AugmentConfig = AugmentConfig(pad_crop=2, pad_mode="edge")
    loss: ClassificationConfig = ClassificationConfig(smoothing=0.2)
    optimizer: OptimizerConfig = OptimizerConfig(
        lr=0.5, momentum=0.85, weight_decay=1e-3, warmup=40_000, schedule="linear"
    )
    intervals: Intervals = Intervals(log=10_000, evaluate=60_000, save=60_000)
    ema: float = 0.99
    images: int = 300_000
    batch_size: int = 200


QUICK = Config(
    model=SpeedrunConfig(widths=(16, 32, 64), classes=6),
    data=replace(RECOGNITION, resolution=28, shapes=replace(RECOGNITION.shapes, colours=("yellow",))),
    optimizer=OptimizerConfig(lr=0.2, momentum=0.85, warmup=10_000, schedule="linear"),
    intervals=Intervals(log=5_000, evaluate=30_000, save=30_000),
    images=30_000,
    batch_size=125,
)
TINY = tiny(QUICK, model=replace(QUICK.model, widths=(8,), classes=4), data=tiny_data(QUICK.data))

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_smoothing": {"loss.smoothing": 0.0},
    "no_crop": {"augment.pad_crop": 0},
    "erasing": {"augment.erasing": 0.25},
    "half_width": {"model.widths": (16, 32, 64)},
    "one_epoch": {"images": 60_000},
}


def build(config: Config) -> Experiment:
    """The recipe of classifiers."""
    return classification(config, network(config.model))


if __name__ == "__main__":
    sys.exit(main("speedrun_mnist", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
