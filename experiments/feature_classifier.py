"""Train a small classifier whose features judge generated images (see `vision.pretrained.feature_classifier`).

Five convolutions, 122,000 parameters, by the recipe that the classification experiments share: crops of images padded
by 2, mirrored where the class allows it, Nesterov SGD with a linear fall, the average kept. Labels are not smoothed:
that gathers the features of a class about one point (Müller et al. 2019), and a judge is to see what differs within it.

    python -m experiments.feature_classifier --quick                                  shapes world, a minute
    python -m experiments.feature_classifier --data.dir ~/tensorflow_datasets         CIFAR-10
    python -m experiments.feature_classifier --data.dir ~/tensorflow_datasets --data.name mnist --data.resolution 28 \
        --model.channels 1 --augment.no-flip --images 240000 --workdir runs/feature_classifier/mnist

Then ``experiments.feature_classifier_weights`` writes the file that the package reads.
"""

import re
import sys
from dataclasses import dataclass, replace
from typing import Any

from experiments import classification, speedrun_cifar
from experiments.classification import Network, compose
from vision.data.augment.image import AugmentConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.pretrained.feature_classifier import FeatureNetwork, FeatureNetworkConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="feature extractors", paper="", quick="1 minute")


@dataclass(frozen=True)
class Config(classification.Config):
    """The recipe."""

    model: FeatureNetworkConfig = FeatureNetworkConfig()
    augment: AugmentConfig = AugmentConfig(flip=True, pad_crop=2, pad_mode="reflect")
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.2, weight_decay=5e-4, warmup=50_000, schedule="linear")
    intervals: Intervals = Intervals(log=10_000, evaluate=125_000, save=125_000)
    ema: float = 0.998
    images: int = 400_000
    batch_size: int = 125


QUICK = Config(
    model=FeatureNetworkConfig(widths=(16, 24, 32), strides=(2, 2, 1), classes=36),
    data=replace(speedrun_cifar.QUICK.data, shapes_count=10_000),
    optimizer=OptimizerConfig(lr=0.1, warmup=5_000, schedule="linear"),
    intervals=Intervals(log=5_000, evaluate=20_000, save=20_000),
    images=20_000,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "smoothing": {"loss.smoothing": 0.1},
    "no_crop": {"augment.pad_crop": 0},
    "half_width": {"model.widths": (20, 24, 32, 32, 32), "model.strides": (2, 1, 2, 1, 1)},
    "adamw": {"optimizer.name": "adamw", "optimizer.lr": 3e-3, "optimizer.weight_decay": 0.05},
}


def network(config: FeatureNetworkConfig) -> Network:
    """The network and what a recipe must know of it; a layer for each convolution, then the head."""
    layers = len(config.widths) + 1
    found = lambda path: re.search(r"(?:conv|norm)_(\d+)", path)
    layer_of = lambda path: int(match.group(1)) if (match := found(path)) else layers - 1
    return Network(FeatureNetwork(config), (), layer_of, layers)


def build(config: Config) -> Experiment:
    """Compose the recipe."""
    return compose(config, network(config.model))


if __name__ == "__main__":
    sys.exit(main("feature_classifier", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
