"""The recipe of instance segmentation: a method, augmentation of images with masks, optimizer, data, evaluation."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vision.data.augment.boxes import BoxAugmentConfig
from vision.data.detection import DetectionConfig, ground_truth
from vision.data.letterbox import preprocessing
from vision.data.shapes.world import SHAPES, ShapesConfig
from vision.errors import UserError
from vision.evaluation.detection import PredictionConfig, detection_metrics, predict_files
from vision.inference import Inference
from vision.models.instances.mask_rcnn import MaskRcnnConfig
from vision.models.instances.prototypes import PrototypeConfig
from vision.models.resnet import RESNET18
from vision.models.yolo import STRIDES, YOLO_N
from vision.recipes.assemble import assemble
from vision.recipes.detection_data import detection_data
from vision.recipes.instance_methods import (
    InstanceMethod,
    MethodConfig,
    Prototypes,
    Regions,
    instance_method,
    method_by_name,
)
from vision.recipes.mask_training import augmentation, backbone_and_rest, check_settings
from vision.recipes.run_config import RunConfig
from vision.tasks.instances import InstanceDetectorConfig, InstanceLossConfig
from vision.tasks.prototypes import PrototypeLossConfig
from vision.tasks.region_proposals import ProposalConfig
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, Intervals, PredictFiles
from vision.train.optimizer import OptimizerConfig
from vision.train.state import averages
from vision.train.state import variables as state_variables
from vision.train.step import accumulate, gradient, preprocessed
from vision.types import TrainState

# three of each stride; enlarged to 128 pixels, shapes have boxes of 20 to 64
_QUICK_ANCHORS = tuple(float(side) for side in (18, 24, 30, 34, 40, 46, 52, 58, 66) for _ in range(2))

QUICK_METHODS: dict[str, MethodConfig] = {
    "prototypes": Prototypes(
        PrototypeConfig(replace(YOLO_N, width=0.125, classes=len(SHAPES), anchors=_QUICK_ANCHORS)),
        PrototypeLossConfig(positives=32),
    ),
    "mask_rcnn": Regions(
        MaskRcnnConfig(
            classes=len(SHAPES),
            backbone=RESNET18,
            norm="batch",
            channels=64,
            box_width=256,
            mask_width=64,
            mask_depth=2,
            anchor_sizes=(16.0, 32.0, 48.0, 64.0, 96.0),
            pixels="symmetric",
        ),
        InstanceLossConfig(proposals=ProposalConfig(before=100, after=50), anchors=64, regions=32),
        InstanceDetectorConfig(proposals=ProposalConfig(before=100, after=50), max_detections=20),
    ),
}
"""Small methods for scenes of 64 pixels that are enlarged to 128, to be named with ``--quick``."""


@dataclass(frozen=True, kw_only=True)
class InstanceRunConfig(RunConfig):
    """A recipe of instance segmentation; the defaults are Mask R-CNN on a ResNet-50 from random weights."""

    method: MethodConfig = method_by_name(Regions(), classes=80, side=1024, quick=QUICK_METHODS)
    data: DetectionConfig = DetectionConfig(name="coco", resolution=1024)
    augment: BoxAugmentConfig = BoxAugmentConfig(mosaic=0.0)
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.02, weight_decay=1e-4, warmup=8_000)
    """``layer_decay`` is the factor on the learning rate of the backbone."""
    predict: PredictionConfig = PredictionConfig()
    images: int = 4_300_000
    batch_size: int = 16
    evaluation_batch: int = 8


INSTANCE_ABLATIONS: dict[str, dict[str, Any]] = {
    "prototypes": {"method": "prototypes"},
    "mask_rcnn": {"method": "mask_rcnn"},
    "copy_paste": {"augment.copy_paste": 0.5},
    "mosaic": {"augment.mosaic": 1.0},
    "no_scale": {"augment.scale": 0.0},
    "no_colour": {"augment.hue": 0.0, "augment.saturation": 0.0, "augment.value": 0.0},
}
"""Of all experiments of instance segmentation."""

QUICK_INSTANCES: dict[str, Any] = {
    "method": QUICK_METHODS["prototypes"],
    "data": DetectionConfig(
        name="shapes",
        resolution=128,
        shapes_reduction=2,  # features of stride 8 are too coarse for figures of 16 pixels
        max_boxes=8,
        shapes=ShapesConfig(resolution=64, max_objects=4, min_size=0.25, max_size=0.5),
        shapes_count=12_000,
        shapes_test_count=1_000,
    ),
    "augment": BoxAugmentConfig(mosaic=0.0, scale=0.2, hue=0.0, saturation=0.0, value=0.0),
    "optimizer": OptimizerConfig(name="adamw", lr=2e-3, weight_decay=0.01, warmup=1_000),
    "intervals": Intervals(log=2_000, evaluate=48_000, save=12_000),
    "images": 48_000,
    "batch_size": 16,
    "evaluation_batch": 50,
    "ema": 0.998,
}
"""``--quick`` of all experiments: one to four figures of all eight shapes on textured backgrounds."""

TINY_INSTANCES: dict[str, Any] = {
    **QUICK_INSTANCES,
    "method": Prototypes(
        PrototypeConfig(replace(YOLO_N, width=0.125, classes=2, anchors=_QUICK_ANCHORS), prototypes=4, width=64),
        PrototypeLossConfig(positives=4),
    ),
    "data": DetectionConfig(
        name="shapes",
        resolution=32,
        max_boxes=4,
        shapes=ShapesConfig(resolution=32, shapes=("circle", "star"), max_objects=2, min_size=0.4, max_size=0.6),
        shapes_count=16,
        shapes_test_count=10,
    ),
    "intervals": Intervals(log=8, evaluate=16, save=16),
    "images": 16,
    "batch_size": 8,
}
"""Two steps, for tests."""


def instances(config: InstanceRunConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    check(config)
    method = instance_method(config.method)
    data = detection_data(
        config.data,
        classes=method.classes,
        option=method.option,
        seed=config.seed,
        anchors=method.anchors,
        masks=True,
    )
    loss = accumulate(preprocessed(method.loss, augmentation(config.augment)), config.microbatches)
    optimizer = backbone_and_rest(config.optimizer, steps=config.steps, batch_size=config.batch_size)
    return assemble(
        config,
        variables=method.init,
        step=gradient(loss, optimizer),
        optimizer=optimizer,
        averaging=state_variables,
        data=data,
        evaluation=detection_metrics(
            method.detect,
            data,
            averages,
            method.selection,
            truth=lambda: ground_truth(config.data, "test", masks=True),
            resolution=config.data.resolution,
            batch_size=config.evaluation_batch,
            description=f"EMA {config.ema}",
            paste=method.paste,
        ),
        prediction=functools.partial(prediction, config, method),
        inference=functools.partial(inference, config, method),
        labelled=True,
        weights=method.weights,
        rules=method.rules,
        evaluation_only=("method.detector.", "predict.", "data.test_", "data.max_pixels"),
    )


def prediction(
    config: InstanceRunConfig, method: InstanceMethod, compiler: Compiler, class_names: Sequence[str]
) -> PredictFiles:
    """Objects with masks in files by the averaged variables."""
    chosen, function = config.predict.choose(class_names), method.predict(config.predict)
    predict = predict_files(
        compiler,
        lambda values, images: function(values, images, chosen),
        config.predict,
        class_names=class_names,
        resolution=config.data.resolution,
        max_pixels=config.data.max_pixels,
        paste=method.paste,
    )
    return lambda state, files, folder: predict(averages(state), files, folder)


def inference(config: InstanceRunConfig, method: InstanceMethod, state: TrainState) -> Inference:
    """What is exported: images to objects with masks at the size of the images."""
    size = config.data.resolution
    return Inference(
        function=lambda images: method.export(averages(state), config.predict, images),
        image=(size, size, 3),
        preprocessing=preprocessing(size),
    )


def check(config: InstanceRunConfig) -> None:
    """Raise ``UserError`` for settings that contradict each other."""
    check_settings(config.data.resolution, config.augment, stride=STRIDES[-1], network="an instance segmenter")
    if isinstance(config.method, Regions) and not config.method.model.mask:
        raise UserError("instance segmentation needs masks: leave method.model.mask on")
