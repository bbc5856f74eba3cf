"""How good are the features of a classifier? Nearest neighbours and a linear probe, on features that stay as they are.

    python -m experiments.probe speedrun_cifar --init-from runs/speedrun_cifar/default --data.dir ~/tensorflow_datasets
    python -m experiments.probe finetune --init-from resnet50.safetensors --data.dir pets --model.classes 37
    python -m experiments.probe finetune --data.dir pets --model.classes 37                random weights, the floor

What follows the experiment's name are its own options; the network is never trained. The features are what the head
gets. k-nearest neighbours are weighted as by Wu et al. 2018, the probe is a logistic regression solved to its minimum.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.classification import as_seen
from vision.data.labelled import description, labelled_evaluation_batches, labelled_source
from vision.errors import UserError
from vision.launch.options import parse
from vision.metrics.recognition import neighbours
from vision.metrics.recognition.linear_probe import linear_probe
from vision.ops.pixels import to_float
from vision.parallel.mesh import make_mesh
from vision.pretrained.initial import read_initial_values
from vision.pretrained.resnet import HEAD
from vision.train.compile import Compiler
from vision.train.state import with_values

EXPERIMENTS = ("speedrun_cifar", "speedrun_mnist", "resnet_cifar", "resnet_mnist", "resnet_imagenet", "finetune")


def features_of(config: Any, network: Any, compiler: Compiler) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features [n d] and labels [n] of the training and of the test images, none of them augmented."""
    model, side = network.model, config.data.resolution
    fresh = lambda key: model.init(key, jnp.zeros((1, side, side, config.model.channels)), train=False)
    variables = jax.jit(fresh)(jax.random.key(config.seed))
    sources = {split: labelled_source(config.data, split, seed=config.seed) for split in ("train", "test")}
    seen = lambda image: as_seen(config, to_float(image))
    if network.statistics is not None:
        first = next(
            labelled_evaluation_batches(sources["train"], config.data, batch_size=min(5_000, len(sources["train"])))
        )
        variables = with_values(variables, network.statistics(seen(jnp.asarray(first["image"]))))
    if config.init_from is not None:
        tables = {"published": network.published, "ignored": network.ignored, "replaced": HEAD}
        variables = with_values(variables, read_initial_values(config.init_from, variables, **tables))
    variables = compiler.replicate(variables)
    compute = compiler.function(lambda v, x: model.apply(v, seen(x), train=False, method="features")["pooled"])
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
    """Print both accuracies with their protocol."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    name, *options = arguments
    try:
        if name not in EXPERIMENTS:
            raise UserError(f"there is no classification experiment {name}: choose one of {', '.join(EXPERIMENTS)}")
        module = importlib.import_module(f"experiments.{name}")
        prog = f"python -m experiments.probe {name}"
        words = {"default": module.Config(), "quick": module.QUICK, "description": __doc__ or ""}
        config: Any = parse(prog, arguments=options, **words).config
        network = module.network(config.model) if hasattr(module, "network") else resnet(config)
        compiler = Compiler(make_mesh(config.mesh))
        found = features_of(config, network, compiler)
        names = labelled_source(config.data, "test", seed=config.seed).class_names
        (features, labels), (others, truths) = found["train"], found["test"]
        voting = neighbours.NeighboursConfig(neighbours=min(200, len(labels)))
        judged = f"{len(truths):,} images of {description(config.data, 'test')}"
        near = neighbours.accuracy(features, labels, others, truths, classes=len(names), config=voting)
        print(f"nearest neighbours {near:.4f}  ({neighbours.protocol(voting, len(labels))}; {judged})", flush=True)
        probe = linear_probe(features, labels, others, truths, classes=len(names))
        print(f"linear probe {probe.accuracy:.4f}  ({probe.protocol(len(labels))}; {judged})")
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.code
    return 0


def resnet(config: Any) -> Any:
    """The network of the experiments that share the ResNets."""
    return importlib.import_module("experiments.resnet_cifar").network(config.model)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
