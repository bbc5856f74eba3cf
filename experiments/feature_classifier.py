"""Train a small classifier as the feature extractor of generation metrics (`vision.pretrained.feature_classifier`).

Five convolutions, 122,000 parameters, by the recipe that the classification experiments share: crops of images padded
by 2, flips where the class allows it, Nesterov SGD with a linear decay, the average kept. Labels are not smoothed: that
gathers the features of a class about one point (Müller et al. 2019), and metrics need the variation within a class.

    python -m experiments.feature_classifier --quick                                  shapes world, a minute
    python -m experiments.feature_classifier --data.dir ~/tensorflow_datasets         CIFAR-10
    python -m experiments.feature_classifier --data.dir ~/tensorflow_datasets --data.name mnist --data.resolution 28 \
        --model.channels 1 --augment.no-flip --images 240000 --workdir runs/feature_classifier/mnist

Then ``experiments.feature_classifier_weights`` writes the file that the package reads.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.augment.image import AugmentConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.pretrained.feature_classifier import FeatureNetworkConfig
from vision.recipes.classification import ClassificationRunConfig, classification
from vision.recipes.classifiers import network
from vision.recipes.quick_data import RECOGNITION, tiny, tiny_data
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="feature extractors", paper="", quick="1 minute")


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationRunConfig):
    """The recipe."""

    model: FeatureNetworkConfig = FeatureNetworkConfig()
    augment: AugmentConfig = AugmentConfig(flip=True, pad_crop=2, pad_mode="reflect")
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.2, weight_decay=5e-4, warmup=50_000, schedule="linear")
    intervals: Intervals = Intervals(log=10_000, evaluate=125_000, save=125_000)
    ema: float = 0.998
    images: int = 400_000
    batch_size: int = 128


QUICK = Config(
    model=FeatureNetworkConfig(widths=(16, 24, 32), strides=(2, 2, 1), classes=36),
    data=replace(RECOGNITION, shapes_count=10_000),
    optimizer=OptimizerConfig(lr=0.1, warmup=5_000, schedule="linear"),
    intervals=Intervals(log=5_000, evaluate=20_000, save=20_000),
    images=20_000,
)
TINY = tiny(QUICK, model=replace(QUICK.model, widths=(8,), strides=(2,), classes=4), data=tiny_data(QUICK.data))

ABLATIONS: dict[str, dict[str, Any]] = {
    "smoothing": {"loss.smoothing": 0.1},
    "no_crop": {"augment.pad_crop": 0},
    "half_width": {"model.widths": (20, 24, 32, 32, 32), "model.strides": (2, 1, 2, 1, 1)},
    "adamw": {"optimizer.name": "adamw", "optimizer.lr": 3e-3, "optimizer.weight_decay": 0.05},
}


def build(config: Config) -> Experiment:
    """The recipe of classifiers."""
    return classification(config, network(config.model))


if __name__ == "__main__":
    sys.exit(main("feature_classifier", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
