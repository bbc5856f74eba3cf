"""Methods of instance segmentation by name: masks from prototypes on YOLOv5, and Mask R-CNN.

A recipe has the field ``method``; :func:`instance_method` makes of it what a recipe composes: a network, its loss, and
functions from images to objects and their masks.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vision.data.letterbox import Letterbox
from vision.evaluation.detection import Detect, Paste, PredictionConfig, Selection
from vision.models.instances import mask_rcnn, prototypes
from vision.models.instances.mask_rcnn import MaskRcnn, MaskRcnnConfig
from vision.models.instances.prototypes import PrototypeConfig, PrototypeYolo
from vision.models.resnet import RESNET18, RESNET50
from vision.models.yolo import YOLO_L, YOLO_M, YOLO_N, YOLO_S, YOLO_X, scaled_anchors
from vision.nn.csp import NORM_EPSILON
from vision.nn.fusion import fold, folded_norm
from vision.ops import rle
from vision.ops.pixels import to_float
from vision.ops.prototype_masks import prototype_masks
from vision.ops.rle import Rle
from vision.ops.roi_masks import paste_mask, pasted
from vision.parallel.sharding import ShardingRules
from vision.pretrained import mask_rcnn as published_mask_rcnn
from vision.pretrained import yolo as published_yolo
from vision.pretrained.adapted import Adapt, Adapted
from vision.pretrained.backbone import backbone_weights
from vision.pretrained.resnet import resnet_rules
from vision.pretrained.rules import to_published
from vision.pretrained.state_dict import StateDict
from vision.recipes.assemble import WeightsSource
from vision.tasks.instances import (
    InstanceDetectorConfig,
    InstanceLossConfig,
    Instances,
    instance_detector,
    mask_rcnn_loss,
)
from vision.tasks.mask_losses import in_boxes
from vision.tasks.prototypes import (
    PrototypeDetectorConfig,
    PrototypeLossConfig,
    prototype_detector,
    prototype_loss,
)
from vision.train.state import averages
from vision.types import Batch, LossFn

_HALF = 0.5  # the probability from which a pixel is of an object


@dataclass(frozen=True)
class Prototypes:
    """Masks from prototypes on YOLOv5 (Bolya et al. 2019): one stage, fast."""

    model: PrototypeConfig = PrototypeConfig()
    loss: PrototypeLossConfig = PrototypeLossConfig()
    detector: PrototypeDetectorConfig = PrototypeDetectorConfig()


@dataclass(frozen=True)
class Regions:
    """Mask R-CNN (He et al. 2017): regions are proposed, then classified, refined and masked one by one."""

    model: MaskRcnnConfig = MaskRcnnConfig()
    loss: InstanceLossConfig = InstanceLossConfig()
    detector: InstanceDetectorConfig = InstanceDetectorConfig()


MethodConfig = Prototypes | Regions


def methods(*, classes: int, side: int) -> Mapping[str, MethodConfig]:
    """Methods by name for a number of classes, with the published anchors scaled to images of ``side`` pixels.

    Mask R-CNN normalises by the batch, as for training from random weights, except in "mask_rcnn_frozen".
    """
    anchors = scaled_anchors(side)
    sizes = {"": YOLO_S, "_n": YOLO_N, "_m": YOLO_M, "_l": YOLO_L, "_x": YOLO_X}
    yolos = {
        f"prototypes{name}": Prototypes(PrototypeConfig(replace(size, classes=classes, anchors=anchors)))
        for name, size in sizes.items()
    }
    regions = MaskRcnnConfig(classes=classes, norm="batch")
    return {
        **yolos,
        "mask_rcnn": Regions(replace(regions, backbone=RESNET50)),
        "mask_rcnn_resnet18": Regions(replace(regions, backbone=RESNET18)),
        "mask_rcnn_frozen": Regions(replace(regions, backbone=RESNET50, norm="frozen")),
    }


def method_by_name(default: MethodConfig, *, classes: int, side: int, quick: Mapping[str, MethodConfig]) -> Any:
    """The field ``method`` of a recipe: ``--method NAME``, then ``--method.FIELD``.

    Args:
      default: the method where none is named.
      classes: of the methods that are named.
      side: see :func:`methods`.
      quick: small methods, to be named with ``--quick``.
    """
    return field(default=default, metadata={"choices": methods(classes=classes, side=side), "quick_choices": quick})


@dataclass(frozen=True, kw_only=True)
class InstanceMethod:
    """What a recipe composes."""

    init: Callable[[Key[Array, ""]], Mapping[str, Any]]
    """Key -> random variables."""
    loss: LossFn
    """On batches of "image" float32 in [-1, 1], "boxes", "labels", "valid" and "instances"."""
    detect: Detect
    """(variables, images uint8) -> objects with masks, for evaluation."""
    predict: Callable[[PredictionConfig], Callable[..., Any]]
    """How files are predicted -> (variables, images uint8, classes or None for all) -> objects."""
    export: Callable[[Any, PredictionConfig, Array], Mapping[str, Array]]
    """(variables, how, images uint8) -> arrays of objects by name, with masks at the size of the images."""
    paste: Paste
    """Objects -> masks of the original image."""
    selection: Selection
    """What protocols name."""
    classes: int
    """Of the network."""
    option: str
    """That sets the number of classes."""
    anchors: Float[np.ndarray, "a 2"] | None
    """Sides of the anchors to compare with the boxes of the data; None where they are no choice of the data."""
    weights: WeightsSource
    """How initial weights are read."""
    rules: ShardingRules
    """Sharding rules."""


def instance_method(config: MethodConfig) -> InstanceMethod:
    """The parts of a method."""
    return _prototypes(config) if isinstance(config, Prototypes) else _regions(config)


def _prototypes(config: Prototypes) -> InstanceMethod:
    model = config.model
    network = PrototypeYolo(model)
    evaluated = prototype_detector(network, model, config.detector)

    def predict(shown: PredictionConfig) -> Callable[..., Any]:
        """With normalisations folded into convolutions."""
        function = prototype_detector(PrototypeYolo(model, norm=folded_norm), model, shown.selecting(config.detector))
        folded = lambda values: fold(values, epsilon=lambda path: NORM_EPSILON)
        return lambda values, images, classes=None: function(folded(values), to_float(images), classes)

    def export(values: Any, shown: PredictionConfig, images: Array) -> Mapping[str, Array]:
        found = predict(shown)(values, images)
        named = found._asdict()
        logits = jax.image.resize(
            named.pop("logits"), (*found.scores.shape, *images.shape[1:3]), jax.image.ResizeMethod.LINEAR
        )
        return {**named, "masks": (logits > 0) & in_boxes(found.boxes, (images.shape[1], images.shape[2]))}

    def paste(found: Any, row: int, places: Int[np.ndarray, " n"], box: Letterbox) -> Sequence[Rle]:
        logits, boxes = (np.asarray(of[row][places], np.float32) for of in (found.logits, found.boxes))
        return prototype_masks(logits, boxes, box)

    return InstanceMethod(
        init=lambda key: network.init(key, jnp.zeros((1, 64, 64, 3)), train=False),
        loss=prototype_loss(network, model, config.loss),
        detect=lambda values, images: evaluated(values, to_float(images)),
        predict=predict,
        export=export,
        paste=paste,
        selection=config.detector,
        classes=model.yolo.classes,
        option="--method.model.yolo.classes",
        anchors=model.yolo.anchor_levels.reshape(-1, 2),
        weights=WeightsSource(
            published=published_yolo.yolo_rules(),
            ignored=published_yolo.IGNORED,
            replaced=(*published_yolo.HEAD, r"^\w+/prototypes/"),
            adapt=published_yolo.yolo_weights(model.yolo),
        ),
        rules=prototypes.SHARDING_RULES,
    )


def loss_of_maps(own: LossFn) -> LossFn:
    """A loss of ``tasks/instances.py`` on augmented batches with "instances" in place of masks."""

    def loss(params: Any, model_state: Any, batch: Batch, *, key: Key[Array, ""], step: Array) -> Any:
        height, width = batch["image"].shape[1:3]
        numbers = 1 + jnp.arange(batch["boxes"].shape[1])
        made = {
            **batch,
            "size": jnp.broadcast_to(jnp.array([height, width]), (len(batch["image"]), 2)),
            "masks": batch["instances"][:, None] == numbers[:, None, None],
        }
        total, (new, scalars) = own(params, model_state, made, key=key, step=step)
        dropped = batch.get("dropped_boxes")
        return total, (new, scalars if dropped is None else {**scalars, "dropped_boxes": jnp.mean(dropped * 1.0)})

    return loss


def whole_masks(found: Instances, size: tuple[int, int]) -> dict[str, Array]:
    """Objects by name, with masks bool [b d h w] at a height and width in pixels."""
    assert found.masks is not None
    return {**found._asdict(), "masks": pasted(found.masks, found.boxes, size=size) >= _HALF}


def paste_masks(config: InstanceDetectorConfig) -> Paste:
    """The `Paste` of `Instances`."""

    def paste(found: Instances, row: int, places: Int[np.ndarray, " n"], box: Letterbox) -> Sequence[Rle]:
        assert found.masks is not None
        boxes = box.from_square(np.asarray(found.boxes[row][places], np.float32))
        how: Any = {"height": box.height, "width": box.width, "rounded": config.rounded_boxes}
        made = zip(np.asarray(found.masks[row][places], np.float32), boxes, strict=True)
        return [rle.encode(paste_mask(mask, corners, **how) >= _HALF) for mask, corners in made]

    return paste


def _regions(config: Regions) -> InstanceMethod:
    model = config.model
    network = MaskRcnn(model)

    def predict(shown: PredictionConfig) -> Callable[..., Any]:
        function = instance_detector(network, shown.selecting(config.detector))
        return lambda values, images, classes=None: function(values, to_float(images), classes=classes)

    def export(values: Any, shown: PredictionConfig, images: Array) -> Mapping[str, Array]:
        return whole_masks(predict(shown)(values, images), (images.shape[1], images.shape[2]))

    rules = published_mask_rcnn.mask_rcnn_rules(model)
    return InstanceMethod(
        init=lambda key: network.init(key, jnp.zeros((1, 64, 64, 3)), train=False),
        loss=loss_of_maps(mask_rcnn_loss(network, config.loss)),
        detect=lambda values, images: instance_detector(network, config.detector)(values, to_float(images)),
        predict=predict,
        export=export,
        paste=paste_masks(config.detector),
        selection=config.detector,
        classes=model.classes,
        option="--method.model.classes",
        anchors=None,
        weights=replace(region_weights(model), written=lambda state: to_published(averages(state), rules=rules)),
        rules=mask_rcnn.SHARDING_RULES,
    )


def region_weights(model: MaskRcnnConfig) -> WeightsSource:
    """Published networks of torchvision, and classifiers, which fill the backbone alone."""
    return WeightsSource(
        published=(
            *published_mask_rcnn.mask_rcnn_rules(model),
            *published_mask_rcnn.mask_rcnn_backbone_rules(model),
        ),
        ignored=published_mask_rcnn.IGNORED,
        replaced=published_mask_rcnn.HEADS,
        adapt=_detector_or_classifier(model),
    )


def _detector_or_classifier(model: MaskRcnnConfig) -> Adapt:
    """For files of whole detectors, and for those of a classifier, which fill the backbone alone."""
    whole = published_mask_rcnn.mask_rcnn_weights(model)
    classifier = backbone_weights(resnet_rules(model.backbone), model.pixels)

    def adapt(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
        of_detector = any(re.match(r"roi_heads\.|\w+/(box_head|proposals)/", name) for name in tensors)
        return (whole if of_detector else classifier)(tensors, variables)

    return adapt
