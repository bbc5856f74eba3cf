"""The classification accuracy score of a conditional generator, after Ravuri & Vinyals 2019, arXiv:1905.10887.

A classifier is trained on generated images, with the requested classes as labels, and evaluated on real test images:
what the generator has not learnt of a class, the classifier cannot learn either. Compare it with the same training on
as many real images, which is what runs without ``--generator``. The classifier is that of
``experiments.feature_classifier``. Digits of ``experiments.gan_mnist`` reach 97.2 %, as many real ones, 10,000, 99.1 %.

    python -m experiments.accuracy_score --quick                              real shapes, a minute
    python -m experiments.accuracy_score --generator runs/gan_mnist/default --data.dir ~/tensorflow_datasets \
        --data.name mnist --data.resolution 28 --model.channels 1 --augment.no-flip --images 120000
    python -m experiments.accuracy_score --data.dir ~/tensorflow_datasets \
        --data.name mnist --data.resolution 28 --model.channels 1 --augment.no-flip --images 120000
"""

import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vision.data.augment.image import AugmentConfig
from vision.data.image_data import HostBatch
from vision.data.labelled import labelled_source
from vision.data.pipeline import batches
from vision.data.source import ArraySource, in_memory
from vision.errors import UserError
from vision.launch.about import About
from vision.launch.load_run import load_run
from vision.launch.run import main
from vision.pretrained.feature_classifier import FeatureNetworkConfig
from vision.ranges import PositiveInt
from vision.recipes.classification import ClassificationRunConfig, classification
from vision.recipes.classifiers import network
from vision.recipes.quick_data import RECOGNITION, tiny, tiny_data
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig
from vision.types import SampleRequest

ABOUT = About(task="recognition", paper="Ravuri & Vinyals 2019", quick="1 min")


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
    generator: Path | None = None
    """Folder of a run of a class-conditional generator; without one, real images are trained on."""
    samples: PositiveInt = 10_000
    """Number of images to train on, at least 1."""


QUICK = Config(
    model=FeatureNetworkConfig(widths=(16, 24, 32), strides=(2, 2, 1), classes=36),
    data=replace(RECOGNITION, shapes_count=10_000),
    optimizer=OptimizerConfig(lr=0.1, warmup=5_000, schedule="linear"),
    intervals=Intervals(log=5_000, evaluate=20_000, save=20_000),
    images=20_000,
    samples=5_000,
)
TINY = tiny(
    QUICK,
    model=replace(QUICK.model, widths=(8,), strides=(2,), classes=4),
    data=tiny_data(QUICK.data),
    samples=32,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "twice_as_many": {"samples": 20_000},
    "no_crop": {"augment.pad_crop": 0},
}


def build(config: Config) -> Experiment:
    """The recipe of classifiers, with other images to train on."""
    experiment = classification(config, network(config.model))
    images = functools.cache(lambda: training_images(config))

    def train_batches(*, seed: int, start_step: int, process_index: int, process_count: int) -> Iterator[HostBatch]:
        share: dict[str, Any] = {"process_index": process_index, "process_count": process_count}
        return batches(images(), batch_size=config.batch_size, seed=seed, start_step=start_step, **share)

    return replace(experiment, batches=train_batches)


def training_images(config: Config) -> ArraySource:
    """``config.samples`` images, generated or real ones chosen at random."""
    real = in_memory(labelled_source(config.data, "train", seed=config.seed))
    if config.generator is not None:
        return sampled_from(config.generator, config.samples, tuple(real.class_names))
    chosen = np.random.default_rng(0).permutation(len(real))[: config.samples]
    return ArraySource({name: real.arrays[name][chosen] for name in ("image", "label")}, real.class_names)


def sampled_from(folder: Path, count: int, class_names: tuple[str, ...]) -> ArraySource:
    """Images of the newest checkpoint of a run, equal numbers of all classes, labelled with the requested class.

    Args:
      folder: the run folder.
      count: the number of images.
      class_names: of the real data.

    Raises ``UserError`` where there is no such run, or its images have no classes, or other ones than ``class_names``.
    """
    run = load_run(folder)
    if run.experiment.sampling is None:
        raise UserError(f"{run.name} does not generate images: choose another --generator than {folder}")
    request = SampleRequest(count=count, seed=run.experiment.seed)
    samples = run.experiment.sampling(run.compiler)(run.state, request)
    unknown = sorted(set(samples.captions) - set(class_names))
    if not samples.captions or unknown:
        what = f"of {unknown[0]!r}, which the data does not know" if unknown else "without classes"
        raise UserError(f"{folder} generates images {what}: the accuracy score is of conditional generators")
    labels = np.array([class_names.index(caption) for caption in samples.captions], np.int32)
    return ArraySource({"image": samples.images, "label": labels}, class_names)


if __name__ == "__main__":
    sys.exit(main("accuracy_score", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
