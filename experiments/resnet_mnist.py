"""Recognise MNIST with a small ResNet (He et al. 2016): digits of 28 x 28 pixels, byte for byte those of LeCun et al.

Three stages of one block each, 16 to 64 channels, about 78,000 parameters; crops of images padded by 2, no flips.

    python -m experiments.resnet_mnist --quick                              six shapes of the shapes world, a minute
    python -m experiments.resnet_mnist --data.dir ~/tensorflow_datasets     MNIST, ten minutes on two CPU cores

Prepared by ``tfds build mnist --file_format=array_record``, which needs TensorFlow once; training never does.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.augment.image import AugmentConfig
from vision.data.labelled import LabelledConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.resnet import CIFAR_RESNET18, ResNetConfig
from vision.recipes.classification import ClassificationRunConfig, classification
from vision.recipes.classifiers import network
from vision.recipes.quick_data import RECOGNITION, tiny, tiny_data
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="recognition", paper="He et al. 2016, arXiv:1512.03385", quick="1 minute")


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationRunConfig):
    """The recipe."""

    model: ResNetConfig = replace(CIFAR_RESNET18, depths=(1, 1, 1), width=16, channels=1)
    data: LabelledConfig = LabelledConfig(name="mnist", resolution=28)
    augment: AugmentConfig = AugmentConfig(pad_crop=2, pad_mode="edge")
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.1, weight_decay=5e-4, warmup=20_000)
    intervals: Intervals = Intervals(log=10_000, evaluate=120_000, save=120_000)
    images: int = 360_000
    batch_size: int = 128
    ema: float = 0.998


QUICK = Config(
    model=replace(CIFAR_RESNET18, depths=(1, 1, 1), width=8, classes=6),
    data=replace(RECOGNITION, resolution=28, shapes=replace(RECOGNITION.shapes, colours=("yellow",))),
    optimizer=OptimizerConfig(lr=0.1, warmup=2_000),
    intervals=Intervals(log=4_000, evaluate=20_000, save=20_000),
    images=20_000,
    batch_size=100,
)
TINY = tiny(QUICK, model=replace(QUICK.model, width=8, depths=(1,), classes=4), data=tiny_data(QUICK.data))

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_crop": {"augment.pad_crop": 0},
    "erasing": {"augment.erasing": 0.25},
    "smoothing": {"loss.smoothing": 0.1},
    "adamw": {"optimizer.name": "adamw", "optimizer.lr": 2e-3, "optimizer.weight_decay": 0.05},
    "twice_the_width": {"model.width": 32},
}


def build(config: Config) -> Experiment:
    """The recipe of classifiers."""
    return classification(config, network(config.model))


if __name__ == "__main__":
    sys.exit(main("resnet_mnist", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
