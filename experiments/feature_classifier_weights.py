"""Write a trained feature classifier to the file that `vision.pretrained.feature_classifier` reads, and measure it.

    python -m experiments.feature_classifier_weights --init-from runs/feature_classifier/default \
        --data.dir ~/tensorflow_datasets --out vision/pretrained/feature_classifier_cifar10.npz

Further options are those of ``experiments.feature_classifier`` that the run was trained with. Both files of version 1
come from that module's commands: mnist recognises 99.39 % of the 10,000 test images (5 CPU minutes); cifar10 79.80 % of
5,000 (10 CPU minutes), of a CIFAR-10 with half of the images, re-encoded as JPEG of quality 75, as its protocol says.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import feature_classifier
from vision.data.labelled import description, labelled_evaluation_batches, labelled_source
from vision.errors import UserError
from vision.ops.pixels import to_float
from vision.parallel.mesh import make_mesh
from vision.pretrained.feature_classifier import (
    FeatureClassifier,
    FeatureNetwork,
    load_feature_classifier,
    save_feature_classifier,
)
from vision.pretrained.initial import read_initial_values
from vision.train.compile import Compiler
from vision.train.state import with_values


@dataclass(frozen=True, kw_only=True)
class Config(feature_classifier.Config):
    """The recipe that the run was trained with, and what is written."""

    out: Path
    """File that is written."""
    version: str = "1"
    """Name of the weights; new weights need a new one."""
    note: str = ""
    """What else the protocol says of the data: "re-encoded as JPEG"."""


def classifier_of(config: Config) -> FeatureClassifier:
    """The averaged weights of the run ``config.init_from``, rounded to float16, and what they recognise.

    Raises ``UserError`` where there is no run, or one of another network.
    """
    if config.init_from is None:
        raise UserError("a feature classifier is written from a run: give its work directory as --init-from")
    side, shown = config.data.resolution, (1, config.data.resolution, config.data.resolution, config.model.channels)
    fresh = lambda key: FeatureNetwork(config.model).init(key, jnp.zeros(shown), train=False)
    values = read_initial_values(config.init_from, jax.eval_shape(fresh, jax.random.key(0)))
    variables = with_values(jax.jit(fresh)(jax.random.key(0)), values)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(jnp.float32), variables)
    train, test = (labelled_source(config.data, split, seed=config.seed) for split in ("train", "test"))
    classifier = FeatureClassifier(
        rounded,
        data=config.data.name,
        version=config.version,
        config=config.model,
        side=side,
        class_names=tuple(test.class_names),
        training="",
    )
    compiler = Compiler(make_mesh(config.mesh))
    judge, right = compiler.replicate(classifier), 0
    classify = compiler.function(lambda judge, images: judge.features_and_probabilities(to_float(images))[1].argmax(-1))
    for batch in labelled_evaluation_batches(
        test, config.data, batch_size=compiler.rounded_up(config.evaluation_batch)
    ):
        found = jax.device_get(classify(judge, compiler.shard({"image": batch["image"]})["image"]))
        right += int(np.sum((found == batch["label"]) & batch["mask"]))
    words = (
        f"trained on the {len(train):,} images of {description(config.data, 'train')}, "
        f"{config.note + ', ' if config.note else ''}recognises {right / len(test):.2%} of the {len(test):,} of "
        f"{description(config.data, 'test')}"
    )
    return classifier.replace(training=words)


def main(config: Config) -> int:
    """Measure and write."""
    try:
        save_feature_classifier(config.out, classifier_of(config))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    print(f"{config.out}: {config.out.stat().st_size} bytes, {load_feature_classifier(config.out).protocol()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
