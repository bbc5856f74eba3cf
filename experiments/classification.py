"""The recipe that the classification experiments share: model, loss, optimizer, schedule, data, evaluation.

An experiment gives a network and numbers: ``experiments.resnet_cifar`` is the shortest. This module is no experiment.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision.data.augment.image import AugmentConfig, augment
from vision.data.augment.mixing import mix
from vision.data.dataset import Split, check_channels, check_classes
from vision.data.labelled import (
    LabelledConfig,
    description,
    fitted,
    labelled_evaluation_batches,
    labelled_source,
    training_batches,
)
from vision.data.source import Source
from vision.errors import UserError, at_least_one
from vision.evaluation.classification import TestSet, evaluator, predict_files
from vision.inference import Inference
from vision.ops.pixels import to_float
from vision.ops.resize import IMAGENET_MEAN, IMAGENET_STD, normalise
from vision.parallel.mesh import MeshConfig
from vision.parallel.sharding import ShardingRules
from vision.pretrained.initial import read_initial_values
from vision.pretrained.resnet import HEAD
from vision.pretrained.rules import WeightRules
from vision.tasks.classification import ClassificationConfig, check, classification_loss, predictor
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig, make_optimizer
from vision.train.state import network_state, variables, with_values
from vision.train.step import accumulate, averaged, gradient, preprocessed, repeated, warmed_up
from vision.types import TrainState


@dataclass(frozen=True)
class MixConfig:
    """Mixing of images and labels within a batch."""

    mixup: float = 0.0
    """Parameter of mixup's Beta distribution (Zhang et al. 2018); 0 for none."""
    cutmix: float = 0.0
    """Parameter of CutMix's (Yun et al. 2019); 0 for none."""
    probability: float = 1.0
    """Of an image to be mixed at all."""


@dataclass(frozen=True)
class Config:
    """A classification recipe; experiments add ``model``."""

    data: LabelledConfig = LabelledConfig()
    imagenet_statistics: bool = False
    """Normalise images by the mean and deviation of ImageNet, as published weights want it, instead of to [-1, 1]."""
    augment: AugmentConfig = AugmentConfig()
    mix: MixConfig = MixConfig()
    loss: ClassificationConfig = ClassificationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    intervals: Intervals = Intervals()
    init_from: Path | None = None
    """Start from these weights: a file of published ones, or the work directory of a run. The head stays random where
    its classes are others, by number, or by the names that a run kept."""
    images: int = 10_000_000
    """Budget of training images. A finished run is not prolonged: another budget is another run."""
    batch_size: int = 128
    """Images a step, over all devices."""
    microbatches: int = 1
    """Cut each batch into so many parts, one after another, to save memory."""
    dispatch: int = 1
    """Training steps in one dispatch to the device."""
    ema: float = 0.999
    """Decay of the averaged variables that are evaluated."""
    mirror: bool = False
    """Test-time augmentation: average what is said of an image and of its mirror image."""
    evaluation_batch: int = 250
    """Images at a time in evaluation, rounded up to a multiple of the devices."""
    seed: int = 0
    """Of initialisation, order, augmentation, and the choice of few labels."""


@dataclass(frozen=True)
class Network:
    """What the recipe must know of a model."""

    model: nn.Module
    """Takes (image, train=...) and gives logits."""
    rules: ShardingRules
    """Its sharding rules."""
    layer_of: Callable[[str], int]
    """Path of a parameter -> its layer, for learning rates by layer."""
    layers: int
    """How many layers there are."""
    published: WeightRules = ()
    """How published weights are named; empty if there are none."""
    ignored: Sequence[str] = ()
    """Regular expressions of published names that may be left unused."""
    statistics: Callable[[jax.Array], Mapping[str, jax.Array]] | None = None
    """Training images as the network gets them -> variables that are statistics of the data, by path."""


def as_seen(config: Config, image: jax.Array) -> jax.Array:
    """Images in [-1, 1] as the network gets them."""
    return normalise(image, IMAGENET_MEAN, IMAGENET_STD) if config.imagenet_statistics else image


def compose(config: Any, network: Network) -> Experiment:
    """The experiment of a recipe, a ``Config`` whose ``model`` has ``classes`` and ``channels``, and a network."""
    check(config.loss)
    at_least_one(config, "images", "batch_size", "microbatches", "dispatch", "evaluation_batch")
    if isinstance(config.ema, float) and not 0.0 <= config.ema < 1.0:  # else swept over replicas, and traced
        raise UserError(f"ema is a decay within [0, 1), not {config.ema}")
    if config.imagenet_statistics and config.model.channels != 3:
        raise UserError("imagenet_statistics are of three channels: leave them out for grey images")
    model, classes, channels, side = network.model, config.model.classes, config.model.channels, config.data.resolution

    seen = functools.partial(as_seen, config)

    def prepare(batch: Mapping[str, jax.Array], *, key: jax.Array) -> Mapping[str, jax.Array]:
        augment_key, mix_key = jax.random.split(key)
        image = seen(augment(to_float(batch["image"]), config.augment, key=augment_key))
        target = jax.nn.one_hot(batch["label"], classes)
        if config.mix.mixup or config.mix.cutmix:
            alphas = {"mixup_alpha": config.mix.mixup, "cutmix_alpha": config.mix.cutmix}
            image, target = mix(image, target, **alphas, probability=config.mix.probability, key=mix_key)
        return {"image": image, "target": target}

    loss = accumulate(preprocessed(classification_loss(model, config.loss), prepare), config.microbatches)

    total = -(-config.images // (config.batch_size * config.dispatch)) * config.dispatch
    optimizer = make_optimizer(
        config.optimizer,
        steps=total,
        batch_size=config.batch_size,
        layer_of=network.layer_of,
        layers=network.layers,
    )
    step = averaged(gradient(loss, optimizer), {"long": warmed_up(config.ema)}, of=variables)
    step = repeated(step, config.dispatch) if config.dispatch > 1 else step

    def random_variables(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros((1, side, side, channels)), train=False)

    def init(key: jax.Array, given: Mapping[str, jax.Array] | None = None) -> TrainState:
        params_key, run_key = jax.random.split(key)
        made = with_values(random_variables(params_key), given or {})
        return network_state(made, optimizer=optimizer, key=run_key, averages=["long"])

    @functools.cache
    def data(split: Split, seed: int) -> Source:
        source = labelled_source(config.data, split, seed=seed)
        check_classes(source, classes)
        check_channels(source, channels)
        return source

    def training(seed: int) -> Source:
        """All images, which the replicas of a run share; or the few labels of one replica, as it would have alone."""
        return data("train", seed if config.data.labels_per_class else config.seed)

    test = lambda: data("test", config.seed)
    names = lambda: test().class_names

    def given() -> Mapping[str, np.ndarray]:
        values: dict[str, np.ndarray] = {}
        if network.statistics is not None:
            first = next(training_batches(training(config.seed), config.data, batch_size=5_000, seed=0))
            values.update(jax.device_get(network.statistics(seen(to_float(jnp.asarray(first["image"]))))))
        if config.init_from is not None:
            shapes = jax.eval_shape(random_variables, jax.random.key(0))
            tables = {"published": network.published, "ignored": network.ignored, "replaced": HEAD}
            values.update(read_initial_values(config.init_from, shapes, **tables, class_names=names()))
        return values

    def train_batches(*, seed: int, start_step: int, process_index: int, process_count: int):
        test()  # images to evaluate on that are not there, or of other classes, are better known now
        share = {"process_index": process_index, "process_count": process_count}
        more = {"seed": seed, "start_step": start_step, **share}
        return training_batches(training(seed), config.data, batch_size=config.batch_size, **more)

    predict = predictor(model, mirror=config.mirror)
    classify = lambda values, images: predict(values, seen(to_float(images)))

    def evaluation(compiler: Compiler):
        evaluate = evaluator(compiler, classify, classes=classes)
        size = compiler.rounded_up(config.evaluation_batch)
        share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        how = f"{description(config.data, 'test')}, EMA {config.ema}{', mirrored too' if config.mirror else ''}"
        judged = lambda: labelled_evaluation_batches(test(), config.data, batch_size=size, **share)
        test_set = TestSet(judged, test().class_names, how)
        return lambda state: evaluate(state.ema["long"], test_set)

    def prediction(compiler: Compiler, class_names: Sequence[str]):
        fit = functools.partial(fitted, config=config.data)
        predicted = predict_files(compiler, classify, fitted=fit, class_names=class_names, channels=channels)
        return lambda state, files, folder: predicted(state.ema["long"], files, folder)

    def inference(state: TrainState):
        values, test_side = state.ema["long"], config.data.test_side
        probabilities = lambda images: {"probabilities": jax.nn.softmax(classify(values, images))}
        return Inference(function=probabilities, image=(test_side, test_side, channels))

    image = jax.ShapeDtypeStruct((config.batch_size, side, side, channels), jnp.uint8)
    return Experiment(
        init=init,
        step=step,
        batches=train_batches,
        batch={"image": image, "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)},
        images=config.images,
        seed=config.seed,
        evaluation=evaluation,
        prediction=prediction,
        inference=inference,
        class_names=names,
        initial_values=given if config.init_from is not None or network.statistics is not None else None,
        rules=network.rules,
        evaluation_only=("mirror", "evaluation_batch", "data.test_"),
        mesh=config.mesh,
        intervals=config.intervals,
        microbatches=config.microbatches,
        dispatch=config.dispatch,
    )
