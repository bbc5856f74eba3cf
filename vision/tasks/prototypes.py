"""Instance segmentation with prototypes: from a network to a loss, and to objects with their masks.

Bolya et al. 2019 ("YOLACT") on YOLOv5: boxes and classes learn and are selected as in ``tasks/detection.py``; the masks
of a sample of the anchors that are assigned to boxes are assembled and compared with the true ones. What the paper has
besides and this has not: Fast NMS (section 4), in whose place there are greedy suppression and Matrix NMS, and an
auxiliary loss of semantic segmentation in training (section 5). A batch has

- "image" float32 [b h w 3] in [-1, 1],
- "boxes" float32 [b m 4], corners in pixels; "labels" int32 [b m], from 0; "valid" bool [b m], which there are,
- "instances" integer [b h w]: 1 + k where the pixel is of the k-th box, 0 for background and padding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Integer

from vision.models.instances.prototypes import STRIDE, PrototypeConfig, PrototypePredictions
from vision.models.yolo import STRIDES, YoloConfig
from vision.ops.boxes import clip_to_image
from vision.ops.suppression import Rescored, mask_matrix_nms
from vision.ranges import NonNegativeFloat, PositiveInt
from vision.tasks.anchor_assignment import assign
from vision.tasks.detection import (
    Chosen,
    DetectionLossConfig,
    Raw,
    SelectionConfig,
    boxes_at,
    decode,
    detection_losses,
    dropped,
    greedily,
    kept_only,
    most_confident,
    of_classes,
    training_predictions,
)
from vision.tasks.mask_losses import assembled, in_boxes, mask_cross_entropy, mask_dice, mean_of_images
from vision.tasks.region_proposals import balanced_sample, taken
from vision.types import LossFn

_OBJECTIVES = {"cross_entropy": mask_cross_entropy, "dice": mask_dice}


@dataclass(frozen=True)
class PrototypeLossConfig:
    """What boxes, classes and masks learn from."""

    detection: DetectionLossConfig = DetectionLossConfig()
    """The loss of boxes, objectness and classes."""
    mask: NonNegativeFloat = 0.1
    """Gain of the masks' loss, beside the gains of YOLOv5; published is 6.125, beside 1 for YOLACT's loss of classes
    and 1.5 for that of boxes."""
    objective: Literal["cross_entropy", "dice"] = "cross_entropy"
    """The masks' loss inside of the true boxes: the binary cross-entropy of the paper, or 1 - Dice."""
    positives: PositiveInt = 100
    """Largest number of anchors of an image whose masks are compared: a random sample of those that are
    assigned to boxes, as published. Memory goes with it."""


class AssignedAnchors(NamedTuple):
    """Anchors of all levels that may be assigned to boxes; only ``valid`` ones do."""

    place: Int[Array, "b m"]
    """The anchor's place among all of all levels, in the order of :func:`vision.tasks.detection.decode`."""
    box: Int[Array, "b m"]
    """The box's place among the boxes of its image."""
    valid: Bool[Array, "b m"]
    """Whether this anchor is assigned to the box."""


def assigned_anchors(raw: Raw, batch: Mapping[str, Array], *, model: YoloConfig, ratio: float) -> AssignedAnchors:
    """Which anchors are assigned to which boxes, as in the loss of the detector (see `assign`)."""
    found, before = [], 0
    for level, stride, sides in zip(raw, STRIDES, model.anchor_levels, strict=True):
        rows, columns, count = level.shape[1:4]
        of_level = assign(
            batch["boxes"],
            batch["valid"],
            anchors=jnp.asarray(sides),
            stride=stride,
            grid=(rows, columns),
            ratio=ratio,
        )
        row, column = jnp.clip(of_level.row, 0, rows - 1), jnp.clip(of_level.column, 0, columns - 1)
        place = before + (row * columns + column) * count + of_level.anchor
        found.append(AssignedAnchors(place, of_level.box, of_level.valid))
        before += rows * columns * count
    return AssignedAnchors(*(jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True)))


def sampled(anchors: AssignedAnchors, count: int, *, key: Array) -> AssignedAnchors:
    """Up to ``count`` of the valid ones of each image, a uniformly random choice; the valid ones come first."""
    none = jnp.zeros_like(anchors.valid)
    sample = balanced_sample(anchors.valid, none, count=count, fraction=1.0, key=key)
    return AssignedAnchors(taken(anchors.place, sample.index), taken(anchors.box, sample.index), sample.positive)


def all_anchors(levels: Sequence[Float[Array, "b _ _ a p"]]) -> Float[Array, "b n p"]:
    """What is predicted for the anchors of all levels, in the order of :func:`vision.tasks.detection.decode`."""
    return jnp.concatenate([level.reshape(level.shape[0], -1, level.shape[-1]) for level in levels], axis=1)


def shares(
    instances: Integer[Array, "b h w"], number: Int[Array, "b n"], *, cell: int = STRIDE
) -> Float[Array, "b n H W"]:
    """The share of the pixels in each cell of ``cell`` x ``cell`` that have the ``number``, in [0, 1].

    One place of the cells after another is compared, so that no array has n times the pixels of the image.
    """
    places = rearrange(instances, "b (h p) (w q) -> (p q) b 1 h w", p=cell, q=cell)
    count = sum((place == number[..., None, None]).astype(jnp.float32) for place in places)
    return count / cell**2  # pyright: ignore[reportReturnType]


def mask_loss(
    found: PrototypePredictions,
    batch: Mapping[str, Array],
    *,
    model: YoloConfig,
    config: PrototypeLossConfig,
    key: Array,
) -> Float[Array, ""]:
    """The loss of the masks without its gain: a mean over the sampled anchors of an image, and over the images.

    Each mask is compared with the true one of the box that its anchor is assigned to, inside of that box, at the
    resolution of the prototypes. There, the truth is the share of a cell's pixels that are of the object, and not, as
    published, whether it is half of them: the logit of a share is 0 where the border is, also between cells, which is
    where the interpolated mask will end. An image without boxes has a loss of 0.
    """
    anchors = assigned_anchors(found.raw, batch, model=model, ratio=config.detection.ratio)
    place, box, valid = sampled(anchors, config.positives, key=key)
    logits = assembled(found.prototypes, taken(all_anchors(found.coefficients), place))
    truth = shares(batch["instances"], 1 + box)
    losses = _OBJECTIVES[config.objective](logits, truth, taken(batch["boxes"], box) / STRIDE, valid)
    return jnp.mean(mean_of_images(losses, valid))


def prototype_loss(
    network: nn.Module, config: PrototypeConfig, loss: PrototypeLossConfig, *, running_statistics: bool = False
) -> LossFn:
    """The LossFn of a network with prototypes on batches as the module says.

    The sum of the detector's losses (:func:`vision.tasks.detection.detection_losses`) and of the masks' with its gain.
    Logs the parts, "anchor_recall", and "dropped_boxes" where the batch has them. Which anchors' masks are compared
    goes by the key. ``running_statistics`` normalises by the running statistics and leaves them as they are
    (fine-tuning on few images).
    """

    def compute(params, model_state, batch, *, key, step):
        del step
        for_network, for_sample = jax.random.split(key)
        how: Any = {"key": for_network, "running_statistics": running_statistics}
        found, model_state = training_predictions(network, params, model_state, batch["image"], **how)
        parts = detection_losses(found.raw, batch, model=config.yolo, config=loss.detection)
        total = parts.pop("loss")
        parts["mask"] = loss.mask * mask_loss(found, batch, model=config.yolo, config=loss, key=for_sample)
        return total + parts["mask"], (model_state, {**parts, **dropped(batch)})

    return compute


@dataclass(frozen=True)
class PrototypeDetectorConfig(SelectionConfig):
    """How objects are selected from the predictions of a network."""

    max_detections: PositiveInt = 100
    """Largest number of objects in an image."""
    suppression: Literal["greedy", "matrix"] = "greedy"
    """How objects found twice are dropped: greedy suppression of boxes, or Matrix NMS (Wang et al. 2020), by which
    scores decay with the IoU of masks, and ``iou`` has no part. It assembles a mask for every candidate: at 640 pixels
    100 KiB each, so that 500 candidates, as published, are a sensible number."""


class PrototypeCandidates(NamedTuple):
    """All predictions for an image, before suppression."""

    boxes: Float[Array, "b n 4"]
    """Corners in pixels, clipped to the image."""
    scores: Float[Array, "b n k"]
    """Of each class, in [0, 1]."""
    coefficients: Float[Array, "b n p"]
    """Of the mask."""
    prototypes: Float[Array, "b h w p"]
    """At a quarter of the image's height and width."""


class PrototypeInstances(NamedTuple):
    """Objects of each image, the most confident first, padded; only ``valid`` entries count, others are zeros."""

    boxes: Float[Array, "b d 4"]
    """Corners in pixels of the image as the network got it, clipped to it."""
    scores: Float[Array, "b d"]
    """Objectness times the class's probability, in [0, 1]; with "matrix", decayed."""
    labels: Int[Array, "b d"]
    """Class."""
    valid: Bool[Array, "b d"]
    """Whether the entry is an object."""
    logits: Float[Array, "b d h w"]
    """Of the mask, at a quarter of the image's height and width, before it is cropped to its box: the object is where
    it is above 0 (see ``ops/prototype_masks.py`` for masks of the image)."""


def prototype_candidates(network: nn.Module, config: PrototypeConfig) -> Callable[..., PrototypeCandidates]:
    """(variables, images in [-1, 1], classes or None for all) -> all predictions before suppression."""

    def predict(
        variables: Mapping[str, Any], images: Float[Array, "b h w 3"], classes: Sequence[int] | None = None
    ) -> PrototypeCandidates:
        found: Any = network.apply(variables, images, train=False)
        boxes, scores = decode(found.raw, config.yolo)
        height, width = images.shape[1:3]
        return PrototypeCandidates(
            clip_to_image(boxes, width=width, height=height),
            of_classes(scores, classes),
            all_anchors(found.coefficients),
            found.prototypes,
        )

    return predict


def logits_at(found: PrototypeCandidates, chosen: Chosen) -> Float[Array, "b m h w"]:
    """Logits of the mask of each entry, zeros where it is not valid."""
    coefficients = jnp.take_along_axis(found.coefficients, chosen.box[..., None], axis=1)
    return assembled(found.prototypes, jnp.where(chosen.valid[..., None], coefficients, 0.0))


def by_matrix(found: PrototypeCandidates, config: PrototypeDetectorConfig) -> Chosen:
    """What Matrix NMS leaves of the most confident candidates, with decayed scores; by class unless agnostic.

    Wang et al. 2020, with its Gaussian decay. The masks that overlap are what the objects would have: the logits above
    0 at the resolution of the prototypes, cropped to the box of each. A box without the centre of any cell has an empty
    mask, which overlaps nothing and keeps its score.
    """
    among = most_confident(found.scores, config.candidates)
    masks = (logits_at(found, among) > 0) & in_boxes(
        boxes_at(found.boxes, among) / STRIDE, (found.prototypes.shape[1], found.prototypes.shape[2])
    )

    def of_image(masks: Array, among: Chosen) -> Rescored:
        return mask_matrix_nms(
            masks,
            among.scores,
            labels=None if config.agnostic else among.labels,
            score_threshold=config.confidence,
            max_detections=config.max_detections,
        )

    index, scores, valid = jax.vmap(of_image)(masks, among)
    return kept_only(among, index, valid)._replace(scores=scores)


def prototype_detector(
    network: nn.Module, config: PrototypeConfig, detector: PrototypeDetectorConfig
) -> Callable[..., PrototypeInstances]:
    """(variables, images in [-1, 1], classes or None for all) -> objects."""
    predict = prototype_candidates(network, config)

    def detect(
        variables: Mapping[str, Any], images: Float[Array, "b h w 3"], classes: Sequence[int] | None = None
    ) -> PrototypeInstances:
        found = predict(variables, images, classes)
        greedy = detector.suppression == "greedy"
        chosen = greedily(found.boxes, found.scores, detector) if greedy else by_matrix(found, detector)
        return PrototypeInstances(
            boxes_at(found.boxes, chosen), chosen.scores, chosen.labels, chosen.valid, logits_at(found, chosen)
        )

    return detect
