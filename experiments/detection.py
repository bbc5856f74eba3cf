"""The recipe that the detection experiments share: network, loss, optimizer, schedule, augmentation, evaluation.

An experiment gives a configuration and data: ``experiments.yolo_coco`` is the shortest. This module is no experiment.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision.data.annotations.anchors import anchor_report
from vision.data.augment.boxes import BoxAugmentConfig, box_augment
from vision.data.dataset import Split, check_classes
from vision.data.detection import DetectionConfig, box_sizes, description, detection_source, ground_truth
from vision.data.pipeline import batches, evaluation_batches
from vision.data.source import Source
from vision.errors import UserError, at_least_one
from vision.evaluation.detection import DetectionSet, PredictionConfig, evaluator, predict_files
from vision.inference import Candidates, Inference
from vision.models.yolo import SHARDING_RULES, STRIDES, Yolo, YoloConfig
from vision.nn.csp import NORM_EPSILON
from vision.nn.fusion import fold, folded_norm
from vision.ops.pixels import to_float
from vision.parallel.agreement import is_first
from vision.parallel.mesh import MeshConfig
from vision.pretrained.initial import read_initial_values
from vision.tasks.detection import DetectionLossConfig, DetectorConfig, candidates, detection_loss, detector
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, Intervals
from vision.train.parameter_groups import frozen, weights_alone
from vision.train.state import network_state, variables, with_values
from vision.train.step import accumulate, averaged, gradient, preprocessed, repeated, warmed_up
from vision.types import TrainState

# Where the classes of a detector are told apart, which other classes replace
HEAD = (r"^params/detect_\d/",)


@dataclass(frozen=True)
class SgdConfig:
    """SGD with Nesterov momentum; the defaults are the published ones."""

    lr: float = 0.01
    """Learning rate after the warm-up, of a sum over the images of a batch."""
    final: float = 0.01
    """Share of it that is left at the end of a linear fall."""
    momentum: float = 0.937
    """After the warm-up."""
    weight_decay: float = 5e-4
    """Added to the gradient of kernels, for batches of 64; it goes with the batch size."""
    warmup: int = 350_000
    """Images, three epochs as published, over which the learning rate of kernels and scales rises from 0."""
    warmup_bias: float = 0.1
    """Learning rate that biases begin with."""
    warmup_momentum: float = 0.8
    """Momentum to begin with."""
    frozen: tuple[str, ...] = ()
    """Regular expressions: parameters in whose path one is found stay as they are ("backbone")."""


def make_optimizer(config: SgdConfig, *, steps: int, batch_size: int) -> optax.GradientTransformation:
    """The published recipe in plain Optax."""
    warmup = max(config.warmup // batch_size, 1)

    def rate(start: float) -> optax.Schedule:
        fall = optax.linear_schedule(config.lr, config.lr * config.final, max(steps - warmup, 1))
        return optax.join_schedules([optax.linear_schedule(start, config.lr, warmup), fall], [warmup])

    momentum = optax.linear_schedule(config.warmup_momentum, config.momentum, warmup)
    trace = optax.inject_hyperparams(optax.trace, static_args=("nesterov",))(decay=momentum, nesterov=True)
    by_kind = lambda params: jax.tree_util.tree_map_with_path(
        lambda path, _: "bias" if path[-1].key == "bias" else "weight", params
    )
    rates = {"weight": rate(0.0), "bias": rate(config.warmup_bias)}
    optimizer = optax.chain(
        optax.scale(batch_size),  # of the sum over the images, where the loss is a mean
        optax.add_decayed_weights(config.weight_decay * batch_size / 64, mask=weights_alone),
        trace,
        optax.multi_transform({kind: optax.scale_by_learning_rate(each) for kind, each in rates.items()}, by_kind),
    )
    return frozen(optimizer, config.frozen)


@dataclass(frozen=True)
class Config:
    """A detection recipe; the defaults are those of COCO from scratch."""

    model: YoloConfig = YoloConfig()
    data: DetectionConfig = DetectionConfig(name="coco")
    augment: BoxAugmentConfig = BoxAugmentConfig()
    loss: DetectionLossConfig = DetectionLossConfig()
    optimizer: SgdConfig = SgdConfig()
    detector: DetectorConfig = DetectorConfig()
    predict: PredictionConfig = PredictionConfig()
    mesh: MeshConfig = MeshConfig()
    intervals: Intervals = Intervals()
    init_from: Path | None = None
    """Start from these weights: a file of our own ones, or the work directory of a run. What tells classes apart stays
    random where they are others."""
    running_statistics: bool = False
    """Normalise by the running statistics and leave them as they are: fine-tuning on few images."""
    sides: tuple[int, ...] = ()
    """Multi-scale training: sides in pixels, one drawn every ten steps; none for data.resolution alone."""
    images: int = 35_000_000
    """Budget of training images. A finished run is not prolonged: another budget is another run."""
    batch_size: int = 64
    """Images a step, over all devices."""
    microbatches: int = 1
    """Cut each batch into so many parts, one after another, to save memory. Means are then of each part's boxes."""
    dispatch: int = 1
    """Training steps in one dispatch to the device."""
    ema: float = 0.9999
    """Decay of the averaged variables that are evaluated."""
    evaluation_batch: int = 16
    """Images at a time in evaluation, rounded up to a multiple of the devices."""
    seed: int = 0
    """Of initialisation, order and augmentation."""


def side_of_step(sides: Sequence[int], step: int, seed: int) -> int:
    """The side that ``step`` trains on: another one, at random, every ten steps (Redmon & Farhadi 2017, section 2)."""
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(step // 10,)))
    return sides[int(bits.random_raw() % len(sides))]


def check(config: Config) -> None:
    """Raise ``UserError`` for numbers that cannot hold."""
    at_least_one(config, "images", "batch_size", "microbatches", "dispatch", "evaluation_batch")
    for side in (config.data.resolution, *config.sides):
        if side % STRIDES[-1]:
            raise UserError(f"a detector takes sides that are multiples of {STRIDES[-1]}, not {side}")
    if config.sides and config.dispatch > 1:
        raise UserError("steps of one dispatch have one side: leave out --sides, or --dispatch")
    if isinstance(config.ema, float) and not 0.0 <= config.ema < 1.0:  # else swept over replicas, and traced
        raise UserError(f"ema is a decay within [0, 1), not {config.ema}")


def compose(config: Config) -> Experiment:
    """The experiment of a recipe."""
    check(config)
    network, side = Yolo(config.model), config.data.resolution
    total = -(-config.images // (config.batch_size * config.dispatch)) * config.dispatch
    optimizer = make_optimizer(config.optimizer, steps=total, batch_size=config.batch_size)

    def prepare(batch: Mapping[str, jax.Array], *, key: jax.Array) -> Mapping[str, jax.Array]:
        """Augmented on the device, at the side that "canvas" has, an array without elements."""
        fields = {name: batch[name] for name in ("boxes", "labels", "valid")}
        size = batch["canvas"].shape[1] if "canvas" in batch else side
        made = box_augment({"image": to_float(batch["image"]), **fields}, config.augment, size=size, key=key)
        return {name: made[name] for name in ("image", "boxes", "labels", "valid", "dropped_boxes")}

    loss = detection_loss(network, config.model, config.loss, running_statistics=config.running_statistics)
    loss = accumulate(preprocessed(loss, prepare), config.microbatches)
    step = averaged(gradient(loss, optimizer), {"long": warmed_up(config.ema)}, of=variables)
    step = repeated(step, config.dispatch) if config.dispatch > 1 else step

    def random_variables(key: jax.Array) -> Any:
        return network.init(key, jnp.zeros((1, 64, 64, 3)), train=False)

    def init(key: jax.Array, given: Mapping[str, jax.Array] | None = None) -> TrainState:
        params_key, run_key = jax.random.split(key)
        made = with_values(random_variables(params_key), given or {})
        return network_state(made, optimizer=optimizer, key=run_key, averages=["long"])

    @functools.cache
    def data(split: Split) -> Source:
        source = detection_source(config.data, split)
        check_classes(source, config.model.classes)
        if is_first():
            print(f"{split}: {ground_truth(config.data, split).counts}", file=sys.stderr)
        if is_first() and split == "train":
            report = anchor_report(box_sizes(config.data), config.model.anchor_levels.reshape(-1, 2))
            if report.refit:
                print(f"{report}\nSee python -m experiments.fit_anchors.", file=sys.stderr)
        return source

    names = lambda: data("test").class_names

    def given() -> Mapping[str, np.ndarray]:
        shapes = jax.eval_shape(random_variables, jax.random.key(0))
        assert config.init_from is not None
        return read_initial_values(config.init_from, shapes, replaced=HEAD, class_names=names())

    def train_batches(
        *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[Mapping[str, np.ndarray]]:
        data("test")  # pictures to evaluate on that are not there are better known now
        found = batches(
            data("train"),
            batch_size=config.batch_size,
            seed=seed,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
            workers=config.data.workers,
        )
        for number, batch in enumerate(found, start=start_step):
            kept = {name: batch[name] for name in ("image", "boxes", "labels", "valid")}
            if config.sides:
                size = side_of_step(config.sides, number, config.seed)
                kept["canvas"] = np.zeros((len(batch["image"]), size, size, 0), np.uint8)
            yield kept

    def evaluation(compiler: Compiler):
        size = compiler.rounded_up(config.evaluation_batch)
        judged = lambda: evaluation_batches(
            data("test"),
            batch_size=size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=config.data.workers,
        )
        detect = detector(network, config.model, config.detector)
        judge = evaluator(compiler, lambda values, images: detect(values, to_float(images)), config.detector)
        test = DetectionSet(
            judged,
            lambda: ground_truth(config.data, "test"),
            side,
            f"{description(config.data, 'test')}, EMA {config.ema}",
        )
        return lambda state: judge(state.ema["long"], test)

    shown = config.predict
    for_people = replace(
        config.detector, confidence=shown.confidence, iou=shown.iou, max_detections=shown.max_detections
    )

    def folded(see: Callable[..., Any]) -> Callable[..., Any]:
        """``see``, candidates or detector, of uint8 images, with normalisations folded into convolutions."""
        seen = see(Yolo(config.model, norm=folded_norm), config.model, for_people)
        return lambda values, images, classes=None: seen(fold(values, epsilon=NORM_EPSILON), to_float(images), classes)

    def inference(state: TrainState) -> Inference:
        values = state.ema["long"]

        def unsuppressed(images: jax.Array) -> Mapping[str, jax.Array]:
            boxes, scores = folded(candidates)(values, images)
            return {"boxes": boxes, "scores": scores.swapaxes(1, 2)}

        return Inference(
            function=lambda images: folded(detector)(values, images)._asdict(),
            image=(side, side, 3),
            candidates=Candidates(
                function=unsuppressed,
                confidence=for_people.confidence,
                iou=for_people.iou,
                max_detections=for_people.max_detections,
                agnostic=for_people.agnostic,
            ),
        )

    def prediction(compiler: Compiler, class_names: Sequence[str]):
        chosen = config.predict.choose(class_names)
        predicted = predict_files(
            compiler,
            lambda values, images: folded(detector)(values, images, chosen),
            config.predict,
            class_names=class_names,
            resolution=side,
        )
        return lambda state, files, folder: predicted(state.ema["long"], files, folder)

    count, slots = config.batch_size, config.data.max_boxes
    shape = jax.ShapeDtypeStruct
    batch = {
        "image": shape((count, side, side, 3), jnp.uint8),
        "boxes": shape((count, slots, 4), jnp.float32),
        "labels": shape((count, slots), jnp.int32),
        "valid": shape((count, slots), jnp.bool_),
    }
    if config.sides:
        batch["canvas"] = shape((count, config.sides[0], config.sides[0], 0), jnp.uint8)
    return Experiment(
        init=init,
        step=step,
        batches=train_batches,
        batch=batch,
        images=config.images,
        seed=config.seed,
        evaluation=evaluation,
        prediction=prediction,
        inference=inference,
        class_names=names,
        initial_values=given if config.init_from is not None else None,
        rules=SHARDING_RULES,
        evaluation_only=("detector.", "predict.", "evaluation_batch", "data.test_"),
        mesh=config.mesh,
        intervals=config.intervals,
        microbatches=config.microbatches,
        dispatch=config.dispatch,
        batch_shapes=max(len(set(config.sides)), 1),
    )
