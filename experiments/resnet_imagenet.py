"""Recognise ImageNet with a ResNet-50: the 90-epoch baseline, and the recipes of Wightman et al. 2021 as deltas.

Baseline (He et al. 2016; Goyal et al. 2017): Nesterov SGD 0.1 for each 256 images, 5 epochs of warm-up, a cosine,
weight decay 1e-4, random resized crops and flips; usually 76 to 76.5 % top 1 at 224 pixels. "ResNet
strikes back" (Wightman et al. 2021) at 224 pixels: A3 78.1 %, A2 79.8 %, A1 80.4 %, after 60, 220 and 440 V100-hours.
This code has not been run to those lengths.

    python -m experiments.resnet_imagenet --quick                                 shapes world, a few minutes
    python -m experiments.resnet_imagenet --data.dir ~/tensorflow_datasets        ImageNet from TFDS
    python -m experiments.resnet_imagenet --data.name folder --data.dir train --data.test-dir val   from folders
    python -m experiments.ablate resnet_imagenet --named A3,A2,A1 --seeds 1       the recipes of Wightman et al.

``tfds build imagenet2012 --file_format=array_record`` prepares the first; ``train`` and ``val`` have a folder a class.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.augment.image import AugmentConfig
from vision.data.labelled import LabelledConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.resnet import RESNET50
from vision.recipes.classification import ClassificationRunConfig, classification
from vision.recipes.classifiers import ClassifierConfig, chosen_by_name, network
from vision.recipes.quick_data import RECOGNITION, tiny, tiny_data
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(
    task="recognition",
    paper="He et al. 2016, arXiv:1512.03385; Wightman et al. 2021, arXiv:2110.00476",
    quick="a few minutes",
)

EPOCH = 1_281_167
"""Training images of ImageNet-1k."""


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationRunConfig):
    """The 90-epoch baseline."""

    model: ClassifierConfig = chosen_by_name(RESNET50)
    data: LabelledConfig = LabelledConfig(
        name="imagenet2012", resolution=224, test_split="validation", stream=True, workers=8
    )
    imagenet_statistics: bool = True
    augment: AugmentConfig = AugmentConfig(flip=True)
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.4, weight_decay=1e-4, warmup=5 * EPOCH)
    intervals: Intervals = Intervals(log=100_000, evaluate=5 * EPOCH, save=EPOCH)
    images: int = 90 * EPOCH
    batch_size: int = 1024
    ema: float = 0.9999


QUICK = Config(
    model=replace(RESNET50, depths=(1, 1, 1, 1), width=16, classes=36),
    data=replace(RECOGNITION, resolution=64),
    optimizer=OptimizerConfig(lr=0.1, weight_decay=1e-4, warmup=2_000),
    intervals=Intervals(log=2_000, evaluate=20_000, save=20_000),
    images=20_000,
    batch_size=64,
    ema=0.99,
)
TINY = tiny(QUICK, model=replace(QUICK.model, width=8, depths=(1,), classes=4), data=tiny_data(QUICK.data))

# Wightman et al. 2021, table 1: LAMB, binary cross-entropy, RandAugment, mixup 0.1 or 0.2, CutMix 1.0
_STRIKES_BACK = {
    "optimizer.name": "lamb",
    "optimizer.warmup": 5 * EPOCH,
    "optimizer.weight_decay": 0.02,
    "loss.loss": "binary",
    "loss.threshold": 0.2,
    "augment.policy": "randaugment",
    "augment.magnitude_std": 0.5,
    "mix.cutmix": 1.0,
    "batch_size": 2048,
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "A3": {
        **_STRIKES_BACK,
        "images": 100 * EPOCH,
        "data.resolution": 160,
        "data.test_resize": 236,
        "optimizer.lr": 8e-3,
        "augment.magnitude": 6.0,
        "mix.mixup": 0.1,
    },
    "A2": {
        **_STRIKES_BACK,
        "images": 300 * EPOCH,
        "data.test_resize": 236,
        "optimizer.lr": 5e-3,
        "augment.magnitude": 7.0,
        "mix.mixup": 0.1,
        "model.stochastic_depth": 0.05,
    },
    "A1": {
        **_STRIKES_BACK,
        "images": 600 * EPOCH,
        "data.test_resize": 236,
        "optimizer.lr": 5e-3,
        "optimizer.weight_decay": 0.01,
        "augment.magnitude": 7.0,
        "mix.mixup": 0.2,
        "loss.smoothing": 0.1,
        "model.stochastic_depth": 0.05,
    },
    "resnet_d": {"model.stem": "deep", "model.shortcut": "average"},
    "squeeze_excite": {"model.squeeze_excite": 0.0625},
    "resnext": {"model.groups": 32, "model.group_width": 4},
}


def build(config: Config) -> Experiment:
    """The recipe of classifiers."""
    return classification(config, network(config.model))


if __name__ == "__main__":
    sys.exit(main("resnet_imagenet", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
