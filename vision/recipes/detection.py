"""The recipe of detectors: network, augmentation, loss, optimizer, data, evaluation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vision.data.augment.boxes import BoxAugmentConfig, box_augment
from vision.data.detection import DetectionConfig, ground_truth
from vision.data.letterbox import preprocessing
from vision.errors import UserError
from vision.evaluation.detection import PredictionConfig, detection_metrics, predict_files
from vision.inference import Candidates, Inference
from vision.models.yolo import SHARDING_RULES, STRIDES, YOLO_N, Yolo, YoloConfig, scaled_anchors
from vision.nn.batch_norm import EPSILON
from vision.nn.csp import NORM_EPSILON, yolo_norm
from vision.nn.fusion import fold, folded_norm
from vision.ops.pixels import to_float
from vision.pretrained.yolo import HEAD, IGNORED, yolo_rules, yolo_state_dict, yolo_weights
from vision.ranges import Decay, Fraction, NonNegativeFloat, NonNegativeInt, Pixels
from vision.recipes.assemble import WeightsSource, assemble
from vision.recipes.backbones import Backbone, BackboneConfig, backbone_by_name
from vision.recipes.backbones import backbone as make_backbone
from vision.recipes.detection_data import detection_data
from vision.recipes.quick_data import DETECTION
from vision.recipes.run_config import RunConfig
from vision.tasks.detection import DetectionLossConfig, DetectorConfig, candidates, detection_loss, detector
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, Intervals, PredictFiles
from vision.train.parameter_groups import frozen, weights_alone
from vision.train.state import averages
from vision.train.state import variables as state_variables
from vision.train.step import accumulate, gradient, preprocessed
from vision.types import Batch, TrainState


@dataclass(frozen=True)
class SgdConfig:
    """SGD with Nesterov momentum; the defaults are the published ones."""

    lr: NonNegativeFloat = 0.01
    """Learning rate after the warm-up, of a sum over the images of a batch."""
    final: Fraction = 0.01
    """Share of it that is left at the end of a linear fall."""
    momentum: Decay = 0.937
    """After the warm-up, within [0, 1)."""
    weight_decay: NonNegativeFloat = 5e-4
    """Added to the gradient of kernels, for batches of 64; it scales with the batch size."""
    warmup: NonNegativeInt = 350_000
    """Images, three epochs as published, over which the learning rate of kernels and scales rises from 0."""
    warmup_bias: NonNegativeFloat = 0.1
    """Initial learning rate of biases."""
    warmup_momentum: Decay = 0.8
    """Initial momentum, within [0, 1)."""
    frozen: tuple[str, ...] = ()
    """Regular expressions: parameters in whose path one is found stay as they are ("backbone")."""


@dataclass(frozen=True, kw_only=True)
class DetectionRunConfig(RunConfig):
    """A detection recipe; the defaults are those of COCO from scratch."""

    model: YoloConfig = YoloConfig()
    backbone: BackboneConfig = backbone_by_name()
    data: DetectionConfig = DetectionConfig(name="coco")
    augment: BoxAugmentConfig = BoxAugmentConfig()
    loss: DetectionLossConfig = DetectionLossConfig()
    optimizer: SgdConfig = SgdConfig()
    detector: DetectorConfig = DetectorConfig()
    predict: PredictionConfig = PredictionConfig()
    running_statistics: bool = False
    """Normalise by the running statistics and leave them as they are: fine-tuning on few images."""
    sizes: tuple[Pixels, ...] = ()
    """Multi-scale training: image sizes in pixels, one chosen at random every ten steps; none for data.resolution."""
    images: int = 35_000_000
    batch_size: int = 64
    evaluation_batch: int = 16


QUICK_DETECTION: dict[str, Any] = {
    "model": replace(YOLO_N, width=0.125, classes=3, anchors=scaled_anchors(128)),
    "data": DETECTION,
    "augment": BoxAugmentConfig(mosaic=0.0, scale=0.2, hue=0.0, saturation=0.0, value=0.0),
    "optimizer": SgdConfig(warmup=2_000),
    "intervals": Intervals(log=3_000, evaluate=33_000, save=11_000),
    "images": 66_000,
    "batch_size": 16,
    "ema": 0.998,
}
"""``--quick`` of all detection experiments: half the channels of YOLOv5 n on the shapes world, six minutes."""

TINY_DETECTION: dict[str, Any] = {
    **QUICK_DETECTION,
    "data": replace(
        DETECTION,
        resolution=32,
        max_boxes=4,
        shapes_count=16,
        shapes=replace(DETECTION.shapes, max_objects=2, min_size=0.4, max_size=0.6),
    ),
    "intervals": Intervals(log=8, evaluate=16, save=16),
    "images": 16,
    "batch_size": 8,
}
"""Two steps, for tests."""

DETECTION_ABLATIONS: dict[str, dict[str, Any]] = {
    "no_mosaic": {"augment.mosaic": 0.0},
    "mixup": {"augment.mixup": 0.1},
    "focal": {"loss.focal": 1.5},
    "smoothing": {"loss.smoothing": 0.1},
    "equal_balance": {"loss.balance": (1.0, 1.0, 1.0)},
    "no_momentum_warmup": {"optimizer.warmup_momentum": 0.937},
    "flip_tta": {"detector.flip_tta": True},
}
"""Of all detection experiments."""


def sgd(config: SgdConfig, *, steps: int, batch_size: int) -> optax.GradientTransformation:
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
        optax.scale(batch_size),  # the published loss is a sum over the images, this one a mean
        optax.add_decayed_weights(config.weight_decay * batch_size / 64, mask=weights_alone),
        trace,
        optax.multi_transform({kind: optax.scale_by_learning_rate(each) for kind, each in rates.items()}, by_kind),
    )
    return frozen(optimizer, config.frozen)


def detection(config: DetectionRunConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    check(config)
    network, backbone = detection_network(config), chosen_backbone(config)
    data = detection_data(
        config.data,
        classes=config.model.classes,
        option="--model.classes",
        seed=config.seed,
        sizes=config.sizes,
        anchors=config.model.anchor_levels.reshape(-1, 2),
    )

    def prepare(batch: Batch, *, key: jax.Array) -> Batch:
        """Augmented on the device, at the size of "canvas", an array without elements."""
        fields = {name: batch[name] for name in ("boxes", "labels", "valid")}
        size = batch["canvas"].shape[1] if "canvas" in batch else config.data.resolution
        augmented = box_augment({"image": to_float(batch["image"]), **fields}, config.augment, size=size, key=key)
        return {name: augmented[name] for name in ("image", "boxes", "labels", "valid", "dropped_boxes")}

    loss = detection_loss(network, config.model, config.loss, running_statistics=config.running_statistics)
    loss = accumulate(preprocessed(loss, prepare), config.microbatches)
    optimizer = sgd(config.optimizer, steps=config.steps, batch_size=config.batch_size)

    detect = detector(network, config.model, config.detector)
    return assemble(
        config,
        variables=lambda key: network.init(key, jnp.zeros((1, 64, 64, 3)), train=False),
        step=gradient(loss, optimizer),
        optimizer=optimizer,
        averaging=state_variables,
        data=data,
        evaluation=detection_metrics(
            lambda values, images: detect(values, to_float(images)),
            data,
            averages,
            config.detector,
            truth=lambda: ground_truth(config.data, "test"),
            resolution=config.data.resolution,
            batch_size=config.evaluation_batch,
            description=f"EMA {config.ema}",
        ),
        prediction=functools.partial(prediction, config),
        inference=functools.partial(inference, config),
        labelled=True,
        weights=weights_source(config, backbone),
        rules=(*SHARDING_RULES, *(backbone.rules if backbone is not None else ())),
        evaluation_only=("detector.", "predict.", "data.test_", "data.max_pixels"),
        batch_shapes=max(len(set(config.sizes)), 1),
    )


def chosen_backbone(config: DetectionRunConfig) -> Backbone | None:
    """The backbone in place of the CSP-Darknet. Raises ``UserError`` for one that does not fit."""
    return make_backbone(config.backbone, pixels=config.model.pixels, dtype=config.model.dtype)


def detection_network(config: DetectionRunConfig, *, folded: bool = False) -> Yolo:
    """The network; ``folded`` for variables whose normalisations are folded into convolutions (see :func:`folded`)."""
    backbone = chosen_backbone(config)
    other = backbone.make(folded_norm if folded else backbone.norm) if backbone is not None else None
    return Yolo(config.model, norm=folded_norm if folded else yolo_norm, other_backbone=other)


def weights_source(config: DetectionRunConfig, backbone: Backbone | None) -> WeightsSource:
    """Published detectors; of other backbones published classifiers, which fill the backbone alone."""
    if backbone is not None:
        tables = {"published": backbone.published, "ignored": backbone.ignored, "adapt": backbone.adapt}
        return WeightsSource(**tables, replaced=HEAD)
    return WeightsSource(
        published=yolo_rules(),
        ignored=IGNORED,
        replaced=HEAD,
        adapt=yolo_weights(config.model),
        written=lambda state: yolo_state_dict(averages(state), config.model),
    )


def folded(config: DetectionRunConfig, make: Callable[..., Any]) -> Callable[..., Any]:
    """``candidates`` or ``detector`` of uint8 images, for prediction: normalisations are folded into convolutions."""
    function = make(detection_network(config, folded=True), config.model, config.predict.selecting(config.detector))
    others = chosen_backbone(config) is not None
    epsilon = lambda path: EPSILON if others and path.startswith("backbone/") else NORM_EPSILON
    return lambda values, images, classes=None: function(fold(values, epsilon=epsilon), to_float(images), classes)


def inference(config: DetectionRunConfig, state: TrainState) -> Inference:
    """What is exported: images to detections."""
    values, size = averages(state), config.data.resolution

    def before_nms(images: jax.Array) -> Mapping[str, jax.Array]:
        boxes, scores = folded(config, candidates)(values, images)
        return {"boxes": boxes, "scores": scores.swapaxes(1, 2)}

    return Inference(
        function=lambda images: folded(config, detector)(values, images)._asdict(),
        image=(size, size, 3),
        preprocessing=preprocessing(size),
        candidates=Candidates(
            function=before_nms,
            confidence=config.predict.confidence,
            iou=config.predict.iou,
            max_detections=config.predict.max_detections,
            agnostic=config.detector.agnostic,
        ),
    )


def prediction(config: DetectionRunConfig, compiler: Compiler, class_names: Sequence[str]) -> PredictFiles:
    """Detections in files by the averaged variables."""
    chosen = config.predict.choose(class_names)
    predict = predict_files(
        compiler,
        lambda values, images: folded(config, detector)(values, images, chosen),
        config.predict,
        class_names=class_names,
        resolution=config.data.resolution,
        max_pixels=config.data.max_pixels,
    )
    return lambda state, files, folder: predict(averages(state), files, folder)


def check(config: DetectionRunConfig) -> None:
    """Raise ``UserError`` for settings that contradict each other."""
    for size in (config.data.resolution, *config.sizes):
        if size % STRIDES[-1]:
            raise UserError(f"a detector takes image sizes that are multiples of {STRIDES[-1]}, not {size}")
    if config.sizes and config.dispatch > 1:
        raise UserError("steps of one dispatch have one image size: leave out --sizes, or --dispatch")
