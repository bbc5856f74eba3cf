"""Recognise CIFAR-10 with a ResNet-18, after He et al. 2016, "Deep Residual Learning for Image Recognition".

The usual form for small images: a 3x3 stem, no pooling, 64 to 512 channels (11,173,962 parameters); Nesterov SGD 0.1
with a cosine, weight decay 5e-4, batch 128, flips and crops of images padded by 4, 200 epochs. In this form others
report 95 to 95.5 % on all 50,000 images, after about 4 GPU-hours on a card of 2018; this code has not been run to that
length. ``experiments.speedrun_cifar`` is the quick way to CIFAR-10; the 6n+2 family of the paper is ``--model.stem
cifar --model.shortcut identity --model.width 16 --model.depths 3 3 3`` (ResNet-20).

    python -m experiments.resnet_cifar --quick        shapes world, two minutes of CPU time, 35 % of 36 classes right
    python -m experiments.resnet_cifar --data.dir ~/tensorflow_datasets     CIFAR-10
    python -m vision predict RUN 'photographs/*.jpg'     after training, RUN being its folder
"""

import functools
import sys
from dataclasses import dataclass, replace
from typing import Any

from experiments import classification, speedrun_cifar
from experiments.classification import Network, compose
from vision.data.augment.image import AugmentConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.resnet import CIFAR_RESNET18, SHARDING_RULES, ResNet, ResNetConfig, layer_of, layers
from vision.pretrained.resnet import IGNORED, cifar_resnet_rules, resnet_rules
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="recognition", paper="He et al. 2016, arXiv:1512.03385", quick="2 minutes")


@dataclass(frozen=True)
class Config(classification.Config):
    """The recipe."""

    model: ResNetConfig = CIFAR_RESNET18
    augment: AugmentConfig = AugmentConfig(flip=True, pad_crop=4)
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.1, weight_decay=5e-4)
    intervals: Intervals = Intervals(log=10_000, evaluate=250_000, save=250_000)
    images: int = 10_000_000
    batch_size: int = 128


QUICK = Config(
    model=replace(CIFAR_RESNET18, depths=(1, 1, 1), width=16, classes=36),
    data=speedrun_cifar.QUICK.data,
    optimizer=OptimizerConfig(lr=0.05, warmup=4_000),
    intervals=Intervals(log=4_000, evaluate=20_000, save=20_000),
    images=40_000,
    batch_size=32,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_flip": {"augment.flip": False},
    "no_crop": {"augment.pad_crop": 0},
    "cutout": {"augment.cutout": 16},
    "trivialaugment": {"augment.policy": "trivialaugment"},
    "smoothing": {"loss.smoothing": 0.1},
    "mixup": {"mix.mixup": 0.2},
    "cutmix": {"mix.cutmix": 1.0},
    "adamw": {"optimizer.name": "adamw", "optimizer.lr": 1e-3, "optimizer.weight_decay": 0.05},
    "muon": {"optimizer.name": "muon", "optimizer.lr": 0.02},
    "squeeze_excite": {"model.squeeze_excite": 0.0625},
    "identity_shortcuts": {"model.shortcut": "identity"},
    "stochastic_depth": {"model.stochastic_depth": 0.1},
}


def network(config: ResNetConfig) -> Network:
    """A ResNet and what a recipe must know of it."""
    rules = cifar_resnet_rules(config) if config.stem == "cifar" else resnet_rules(config)
    return Network(ResNet(config), SHARDING_RULES, functools.partial(layer_of, config), layers(config), rules, IGNORED)


def build(config: Config) -> Experiment:
    """Compose the recipe."""
    return compose(config, network(config.model))


if __name__ == "__main__":
    sys.exit(main("resnet_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
