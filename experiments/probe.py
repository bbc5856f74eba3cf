"""How good are the features of a classifier? Nearest neighbours and a linear probe, on features that stay as they are.

    python -m experiments.probe speedrun_cifar --init-from runs/speedrun_cifar/default --data.dir ~/tensorflow_datasets
    python -m experiments.probe finetune --init-from resnet50.safetensors --data.dir pets --model.classes 37
    python -m experiments.probe finetune --data.dir pets --model.classes 37                random weights, the floor

What follows the experiment's name are its own options; the network is never trained. The features are what the head
gets. k-nearest neighbours are weighted as by Wu et al. 2018, the probe is a logistic regression solved to its minimum.
"""

import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.data.labelled import description, labelled_evaluation_batches, labelled_source
from vision.launch.exit_code import exit_code
from vision.launch.experiment_module import find_experiment
from vision.metrics.recognition import neighbours
from vision.metrics.recognition.linear_probe import linear_probe
from vision.ops.pixels import to_float
from vision.parallel.mesh import make_mesh
from vision.pretrained.initial import read_initial_values
from vision.recipes.classification import normalised
from vision.recipes.classifiers import Classifier, network
from vision.train.compile import Compiler
from vision.train.state import with_values

EXPERIMENTS = ("speedrun_cifar", "speedrun_mnist", "resnet_cifar", "resnet_mnist", "resnet_imagenet", "finetune")


def features_of(config: Any, network: Classifier, compiler: Compiler) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features [n d] and labels [n] of the training and of the test images, none of them augmented."""
    model, size = network.model, config.data.resolution
    fresh = lambda key: model.init(key, jnp.zeros((1, size, size, config.model.channels)), train=False)
    variables = jax.jit(fresh)(jax.random.key(config.seed))
    sources = {split: labelled_source(config.data, split, seed=config.seed) for split in ("train", "test")}
    scaled = lambda image: normalised(config, to_float(image))
    if network.statistics is not None:
        first = next(
            labelled_evaluation_batches(sources["train"], config.data, batch_size=min(5_000, len(sources["train"])))
        )
        variables = with_values(variables, network.statistics(scaled(jnp.asarray(first["image"]))))
    if config.init_from is not None:
        tables = {"published": network.published, "ignored": network.ignored, "replaced": network.replaced}
        values = read_initial_values(config.init_from, variables, adapt=network.adapt, **tables)
        variables = with_values(variables, values)
    variables = compiler.replicate(variables)

    def pooled(values: Any, images: jax.Array) -> jax.Array:
        levels: Any = model.apply(values, scaled(images), train=False, method="features")
        return levels["pooled"]

    compute = compiler.function(pooled)
    found = {}
    for split, source in sources.items():
        features, labels = [], []
        for batch in labelled_evaluation_batches(
            source, config.data, batch_size=compiler.rounded_up(config.evaluation_batch)
        ):
            computed = jax.device_get(compute(variables, compiler.shard({"image": batch["image"]})["image"]))
            features.append(computed[batch["mask"]])
            labels.append(batch["label"][batch["mask"]])
        found[split] = np.concatenate(features), np.concatenate(labels)
    return found


def main(arguments: Sequence[str]) -> int:
    """Print both accuracies with their protocol; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    return exit_code(lambda: probe(arguments[0], arguments[1:]))


def probe(name: str, options: Sequence[str]) -> None:
    """Print both accuracies of an experiment's network, with their protocol."""
    experiment = find_experiment(name, among=EXPERIMENTS, kind="classification experiment")
    config = experiment.parse(options).config
    found = features_of(config, network(config.model), Compiler(make_mesh(config.mesh)))
    names = labelled_source(config.data, "test", seed=config.seed).class_names
    (features, labels), (test_features, test_labels) = found["train"], found["test"]
    voting = neighbours.NeighboursConfig(neighbours=min(200, len(labels)))
    test = f"{len(test_labels):,} images of {description(config.data, 'test')}"
    near = neighbours.accuracy(features, labels, test_features, test_labels, classes=len(names), config=voting)
    print(f"nearest neighbours {near:.4f}  ({neighbours.protocol(voting, len(labels))}; {test})", flush=True)
    linear = linear_probe(features, labels, test_features, test_labels, classes=len(names))
    print(f"linear probe {linear.accuracy:.4f}  ({linear.protocol(len(labels))}; {test})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
