"""Write a trained feature classifier to the file that `vision.pretrained.feature_classifier` reads, and measure it.

    python -m experiments.feature_classifier_weights --run runs/feature_classifier/default \
        --out vision/pretrained/feature_classifier_cifar10.npz

The network, the data and the averages are those of the run. Both files of version 1 come from the commands of
``experiments.feature_classifier``: mnist recognises 99.39 % of the 10,000 test images (5 CPU minutes); cifar10 79.80 %
of 5,000 (10 CPU minutes), of a CIFAR-10 with half of the images, re-encoded as JPEG of quality 75.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from vision.data.labelled import labelled_data
from vision.errors import UserError
from vision.launch.exit_code import exit_code
from vision.launch.load_run import LoadedRun, load_run
from vision.ops.pixels import to_float
from vision.pretrained.feature_classifier import (
    FeatureClassifier,
    FeatureNetworkConfig,
    load_feature_classifier,
    save_feature_classifier,
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is written."""

    run: Path
    """Folder of a run of ``experiments.feature_classifier``."""
    out: Path
    """File that is written."""
    version: str = "1"
    """Name of the weights; new weights need a new one."""
    note: str = ""
    """What else the protocol says of the data: "re-encoded as JPEG"."""


def classifier_of(run: LoadedRun, *, version: str, note: str) -> FeatureClassifier:
    """The averaged weights of a run, rounded to float16, with its accuracy on the test split in the protocol.

    Raises ``UserError`` where the run is one of another network.
    """
    config: Any = run.config
    if not isinstance(getattr(config, "model", None), FeatureNetworkConfig):
        raise UserError(f"{run.folder} is a run of {run.name}: name one of feature_classifier")
    data = labelled_data(config.data, classes=config.model.classes, channels=config.model.channels, seed=config.seed)
    rounded = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16).astype(np.float32), run.state.ema["ema"])
    classifier = FeatureClassifier(
        jax.tree.map(jnp.asarray, rounded),
        data=config.data.name,
        version=version,
        config=config.model,
        side=config.data.resolution,
        class_names=data.class_names(),
        training="",
    )
    compiler, right = run.compiler, 0
    held = compiler.replicate(classifier)
    classify = compiler.function(lambda held, images: held.features_and_probabilities(to_float(images))[1].argmax(-1))
    for batch in data.test_batches(compiler.rounded_up(config.evaluation_batch)):
        predicted = jax.device_get(classify(held, compiler.shard({"image": batch["image"]})["image"]))
        right += int(np.sum((predicted == batch["label"]) & batch["mask"]))
    count = len(data.source("test"))
    words = (
        f"trained on the {len(data.source('train')):,} images of {data.description('train')}, "
        f"{f'{note}, ' if note else ''}recognises {right / count:.2%} of the {count:,} of {data.description('test')}"
    )
    return classifier.replace(training=words)


def write(config: Config) -> None:
    """Measure and write."""
    save_feature_classifier(config.out, classifier_of(load_run(config.run), version=config.version, note=config.note))
    print(f"{config.out}: {config.out.stat().st_size} bytes, {load_feature_classifier(config.out).protocol()}")


if __name__ == "__main__":
    sys.exit(exit_code(lambda: write(tyro.cli(Config))))
