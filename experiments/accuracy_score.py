"""The classification accuracy score of a conditional generator, after Ravuri & Vinyals 2019, arXiv:1905.10887.

A classifier is trained on images that the generator draws, as many as asked for, and recognises real test images: what
the generator does not know of a class, the classifier cannot learn. Beside it belongs the same training on as many real
images, which is what runs without ``--generator``. The classifier is that of ``experiments.feature_classifier``. Digits
of ``experiments.gan_mnist`` make it 97.2 %, as many real ones, 10,000, 99.1 %.

    python -m experiments.accuracy_score --quick                              real shapes, a minute
    python -m experiments.accuracy_score --generator runs/gan_mnist/default --data.dir ~/tensorflow_datasets \
        --data.name mnist --data.resolution 28 --model.channels 1 --augment.no-flip --images 120000
    python -m experiments.accuracy_score --data.dir ~/tensorflow_datasets \
        --data.name mnist --data.resolution 28 --model.channels 1 --augment.no-flip --images 120000
"""

import functools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import feature_classifier
from vision.data.labelled import labelled_source
from vision.data.pipeline import batches
from vision.data.source import ArraySource, in_memory
from vision.errors import UserError, at_least_one
from vision.launch.about import About
from vision.launch.load_run import load_run
from vision.launch.run import main
from vision.train.experiment import Experiment
from vision.types import SampleRequest

ABOUT = About(task="feature extractors", paper="Ravuri & Vinyals 2019, arXiv:1905.10887", quick="1 minute")


@dataclass(frozen=True)
class Config(feature_classifier.Config):
    """The recipe."""

    generator: Path | None = None
    """Work directory of a run whose images have classes; without one, real images are learnt from."""
    drawn: int = 10_000
    """How many images to train on."""


QUICK = Config(**{**vars(feature_classifier.QUICK), "drawn": 5_000})

ABLATIONS: dict[str, dict[str, Any]] = {
    "twice_as_many": {"drawn": 20_000},
    "no_crop": {"augment.pad_crop": 0},
}


def build(config: Config) -> Experiment:
    """The classifier, with other images to train on."""
    at_least_one(config, "drawn")
    made = feature_classifier.build(config)

    @functools.cache
    def images() -> ArraySource:
        real = in_memory(labelled_source(config.data, "train", seed=config.seed))
        if config.generator is None:
            chosen = np.random.default_rng(0).permutation(len(real))[: config.drawn]
            return ArraySource({name: real.arrays[name][chosen] for name in ("image", "label")}, real.class_names)
        return sampled_from(config.generator, config.drawn, tuple(real.class_names))

    def train_batches(*, seed: int, start_step: int, process_index: int, process_count: int):
        share: dict[str, Any] = {"process_index": process_index, "process_count": process_count}
        return batches(images(), batch_size=config.batch_size, seed=seed, start_step=start_step, **share)

    return replace(made, batches=train_batches)


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
