"""The recipe of panoptic segmentation: Mask R-CNN with a semantic branch, merged into segments, evaluated by them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from vision.data.annotations.index_masks import VOID
from vision.data.augment.boxes import BoxAugmentConfig
from vision.data.detection import DetectionConfig, ground_truth
from vision.data.letterbox import preprocessing
from vision.data.shapes.backgrounds import BACKGROUNDS
from vision.data.shapes.world import ShapesConfig
from vision.errors import UserError
from vision.evaluation.panoptic import panoptic_metrics
from vision.evaluation.panoptic_files import panoptic_files
from vision.evaluation.panoptic_merging import MergingConfig
from vision.inference import Inference
from vision.models.instances.mask_rcnn import STRIDES, MaskRcnnConfig
from vision.models.instances.panoptic import SHARDING_RULES, PanopticRcnn, PanopticRcnnConfig
from vision.models.resnet import RESNET18, ResNetConfig
from vision.ops.pixels import to_float
from vision.recipes.assemble import assemble
from vision.recipes.detection_data import detection_data
from vision.recipes.instance_methods import (
    Regions,
    loss_of_maps,
    paste_masks,
    region_weights,
    whole_masks,
)
from vision.recipes.instances import QUICK_INSTANCES, QUICK_METHODS
from vision.recipes.mask_training import augmentation, backbone_and_rest, check_settings
from vision.recipes.run_config import RunConfig
from vision.tasks.instances import InstanceDetectorConfig, InstanceLossConfig
from vision.tasks.panoptic import PanopticLossConfig, PanopticOutput, panoptic_detector, panoptic_loss
from vision.tasks.region_proposals import ProposalConfig
from vision.train.compile import Compiler
from vision.train.experiment import Experiment, Intervals, PredictFiles
from vision.train.optimizer import OptimizerConfig
from vision.train.state import averages
from vision.train.state import variables as state_variables
from vision.train.step import accumulate, gradient, preprocessed
from vision.types import TrainState


@dataclass(frozen=True, kw_only=True)
class PanopticRunConfig(RunConfig):
    """A recipe of panoptic segmentation; the defaults are the published network on COCO (Kirillov et al. 2019)."""

    model: PanopticRcnnConfig = PanopticRcnnConfig()
    loss: PanopticLossConfig = PanopticLossConfig()
    detector: InstanceDetectorConfig = InstanceDetectorConfig()
    merging: MergingConfig = MergingConfig()
    data: DetectionConfig = DetectionConfig(
        name="coco",
        train_json="annotations/panoptic_train2017.json",
        test_json="annotations/panoptic_val2017.json",
        resolution=1024,
    )
    augment: BoxAugmentConfig = BoxAugmentConfig(mosaic=0.0)
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.02, weight_decay=1e-4, warmup=8_000)
    """``layer_decay`` is the factor on the learning rate of the backbone."""
    images: int = 1_440_000
    batch_size: int = 16
    evaluation_batch: int = 8


PANOPTIC_ABLATIONS: dict[str, dict[str, Any]] = {
    "semantic_weight_0.25": {"loss.semantic_weight": 0.25},
    "semantic_weight_1": {"loss.semantic_weight": 1.0},
    "confidence_0.3": {"merging.confidence": 0.3},
    "confidence_0.7": {"merging.confidence": 0.7},
    "visible_0.25": {"merging.visible": 0.25},
    "all_stuff": {"merging.least_stuff": 0},
    "no_scale": {"augment.scale": 0.0},
}
"""Of all experiments of panoptic segmentation."""

_QUICK_REGIONS = QUICK_METHODS["mask_rcnn"]
assert isinstance(_QUICK_REGIONS, Regions)

QUICK_PANOPTIC: dict[str, Any] = {
    **{name: value for name, value in QUICK_INSTANCES.items() if name != "method"},
    # half the width of a ResNet-18 and half the regions to learn from, which are most of the time of a step
    "model": PanopticRcnnConfig(
        instances=replace(_QUICK_REGIONS.model, backbone=replace(RESNET18, width=32), mask_depth=1),
        stuff=len(BACKGROUNDS),
        branch_width=32,
    ),
    "loss": PanopticLossConfig(instances=replace(_QUICK_REGIONS.loss, regions=32)),
    "detector": _QUICK_REGIONS.detector,
    "merging": MergingConfig(least_stuff=64),  # of scenes of 64 x 64
    "intervals": Intervals(log=1_600, evaluate=24_000, save=8_000),
    "images": 24_000,
}
"""``--quick``: one to four figures of all eight shapes on all kinds of background, scenes of 64 pixels enlarged."""

_FEW = ProposalConfig(before=20, after=10)

TINY_MASK_RCNN = MaskRcnnConfig(
    classes=2,
    backbone=ResNetConfig(depths=(1, 1, 1, 1), block="basic", width=8, zero_init=False),
    norm="batch",
    channels=8,
    box_width=16,
    mask_width=8,
    mask_depth=1,
    anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
    pixels="symmetric",
)
"""Few channels, of which none begins at zero, and anchors for images of 64 pixels."""

TINY_PANOPTIC: dict[str, Any] = {
    **QUICK_PANOPTIC,
    "model": PanopticRcnnConfig(
        instances=TINY_MASK_RCNN,
        stuff=2,
        branch_width=8,
    ),
    "loss": PanopticLossConfig(instances=InstanceLossConfig(proposals=_FEW, anchors=16, regions=8)),
    "detector": InstanceDetectorConfig(proposals=_FEW, confidence=0.0, max_detections=4),
    "merging": MergingConfig(confidence=0.1, least_stuff=4),
    "data": DetectionConfig(
        name="shapes",
        resolution=32,
        max_boxes=4,
        shapes=ShapesConfig(
            resolution=32,
            shapes=("circle", "star"),
            backgrounds=("solid", "stripes"),
            max_objects=2,
            min_size=0.4,
            max_size=0.6,
        ),
        shapes_count=16,
        shapes_test_count=10,
    ),
    "intervals": Intervals(log=8, evaluate=16, save=16),
    "images": 16,
    "batch_size": 8,
    "evaluation_batch": 5,
}
"""Two steps, for tests."""


def panoptic(config: PanopticRunConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    check(config)
    model = PanopticRcnn(config.model)
    instances = config.model.instances
    data = detection_data(
        config.data,
        classes=instances.classes,
        option="--model.instances.classes",
        seed=config.seed,
        masks=True,
        stuff=config.model.stuff,
    )
    own = loss_of_maps(panoptic_loss(model, config.loss, ignore=VOID))
    loss = accumulate(preprocessed(own, augmentation(config.augment)), config.microbatches)
    optimizer = backbone_and_rest(config.optimizer, steps=config.steps, batch_size=config.batch_size)
    weights = region_weights(instances)
    return assemble(
        config,
        variables=lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)), train=False),
        step=gradient(loss, optimizer),
        optimizer=optimizer,
        averaging=state_variables,
        data=data,
        evaluation=panoptic_metrics(
            functools.partial(find, config),
            data,
            averages,
            config.detector,
            config.merging,
            truth=lambda: ground_truth(config.data, "test", stuff=True),
            resolution=config.data.resolution,
            batch_size=config.evaluation_batch,
            description=f"EMA {config.ema}",
            paste=paste_masks(config.detector),
        ),
        prediction=functools.partial(prediction, config),
        inference=functools.partial(inference, config),
        labelled=True,
        weights=replace(weights, replaced=(*weights.replaced, r"^params/semantic/")),
        rules=SHARDING_RULES,
        evaluation_only=("detector.", "merging.", "data.test_", "data.max_pixels"),
    )


def outputs(config: PanopticRunConfig, values: Any, images: Array) -> PanopticOutput:
    """Things, and logits of all pixels, of uint8 images."""
    return panoptic_detector(PanopticRcnn(config.model), config.detector)(values, to_float(images))


def find(config: PanopticRunConfig, values: Any, images: Array) -> tuple[Any, Array]:
    """Things, and the likeliest class of each pixel."""
    found = outputs(config, values, images)
    return found.instances, jnp.argmax(found.semantic, axis=-1).astype(jnp.uint8)


def prediction(config: PanopticRunConfig, compiler: Compiler, class_names: Sequence[str]) -> PredictFiles:
    """Segments of files by the averaged variables."""
    predict = panoptic_files(
        compiler,
        functools.partial(find, config),
        config.merging,
        class_names=class_names,
        things=config.model.instances.classes,
        resolution=config.data.resolution,
        max_pixels=config.data.max_pixels,
        paste=paste_masks(config.detector),
    )
    return lambda state, files, folder: predict(averages(state), files, folder)


def inference(config: PanopticRunConfig, state: TrainState) -> Inference:
    """What is exported: images to things with masks at the size of the images, and logits "semantic" of each pixel."""
    size = config.data.resolution

    def function(images: Array) -> dict[str, Array]:
        found = outputs(config, averages(state), images)
        return {**whole_masks(found.instances, (images.shape[1], images.shape[2])), "semantic": found.semantic}

    return Inference(function=function, image=(size, size, 3), preprocessing=preprocessing(size))


def check(config: PanopticRunConfig) -> None:
    """Raise ``UserError`` for settings that contradict each other."""
    check_settings(config.data.resolution, config.augment, stride=STRIDES[-1], network="a panoptic network")
    if not config.model.instances.mask:
        raise UserError("panoptic segmentation needs masks: leave model.instances.mask on")
