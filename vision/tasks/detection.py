"""Object detection with anchors: from a network to a loss and to detections.

What the raw predictions mean, and the loss, follow the published description of YOLOv5: boxes by CIoU (Zheng et al.
2020), objectness by a binary cross-entropy whose target is the IoU of what is predicted, classes by one each.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Bool, Float, Int

from vision.models.yolo import STRIDES, YoloConfig
from vision.ops.boxes import ciou, clip_to_image, iou
from vision.ops.resize import resize
from vision.ops.suppression import Kept, non_maximum_suppression
from vision.ranges import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from vision.tasks.anchor_assignment import Assignment, assign
from vision.types import LossFn

Raw = Sequence[Float[Array, "b _ _ a _"]]
"""Raw predictions of each level, as the network gives them: x, y, width, height, objectness, classes."""


@dataclass(frozen=True)
class DetectionLossConfig:
    """The loss; the defaults are the published ones."""

    box: NonNegativeFloat = 0.05
    """Gain of the boxes' loss."""
    objectness: NonNegativeFloat = 1.0
    """Gain of the objectness, for images of 640x640; it goes with the area."""
    classes: NonNegativeFloat = 0.5
    """Gain of the classes, for 80 of them; it goes with their number."""
    balance: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (4.0, 1.0, 0.4)
    """Gains of the objectness at strides 8, 16 and 32."""
    ratio: Annotated[float, Interval(ge=1.0, lt=math.inf)] = 4.0
    """An anchor matches boxes whose sides are less than this multiple of its sides, and more than the inverse."""
    smoothing: Fraction = 0.0
    """Share of a class target that is spread over yes and no (Szegedy et al. 2016)."""
    focal: NonNegativeFloat = 0.0
    """Exponent of the focal loss for objectness and classes (Lin et al. 2017); 0 for none, 1.5 is usual here."""
    focal_alpha: Fraction = 0.25
    """The focal loss's weight of positives."""


class Detections(NamedTuple):
    """Detections of each image, the most confident first, padded; only ``valid`` entries count."""

    boxes: Float[Array, "b m 4"]
    """Corners in pixels of the image as the network got it."""
    scores: Float[Array, "b m"]
    """Objectness times the class's probability, in [0, 1]."""
    labels: Int[Array, "b m"]
    """Class."""
    valid: Bool[Array, "b m"]
    """Whether the entry is a detection."""


def boxes_of(
    raw: Float[Array, "*n 4"], column: Array, row: Array, anchors: Float[Array, "*m 2"], stride: int
) -> Float[Array, "*n 4"]:
    """Corners in pixels that raw predictions of these cells mean, with s the sigmoid.

    (x, y) = (2 s(t) - 0.5 + cell) stride: a centre within half a cell of its cell; (w, h) = (2 s(t))^2 anchor: sides
    up to four times the anchor's.
    """
    squashed = 2.0 * jax.nn.sigmoid(raw)
    centre = (squashed[..., :2] - 0.5 + jnp.stack([column, row], axis=-1)) * stride
    half = squashed[..., 2:] ** 2 * anchors / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def decode(raw: Raw, config: YoloConfig) -> tuple[Float[Array, "b n 4"], Float[Array, "b n k"]]:
    """All boxes, corners in pixels, and their scores in [0, 1]: objectness times probability of each class.

    n is the number of anchors of all cells. Of a single class, the score is the objectness.
    """
    boxes, scores = [], []
    for level, stride, anchors in zip(raw, STRIDES, config.anchor_levels, strict=True):
        batch, rows, columns = level.shape[:3]
        row, column = jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij")
        shape = level.shape[:4]
        place = lambda x, shape=shape: jnp.broadcast_to(x[None, :, :, None], shape)
        found = boxes_of(level[..., :4], place(column), place(row), jnp.asarray(anchors), stride)
        sure = jax.nn.sigmoid(level[..., 4:5])
        boxes.append(found.reshape(batch, -1, 4))
        scores.append(
            (sure if config.classes == 1 else sure * jax.nn.sigmoid(level[..., 5:])).reshape(batch, -1, config.classes)
        )
    return jnp.concatenate(boxes, 1), jnp.concatenate(scores, 1)


def binary_cross_entropy(
    logits: Float[Array, "*n"], targets: Float[Array, "*n"], *, focal: float = 0.0, alpha: float = 0.25
) -> Float[Array, "*n"]:
    """-q log s - (1 - q) log(1 - s) in nats, s the logit's sigmoid; with ``focal``, the focal loss of soft targets."""
    # log s(x) = -softplus(-x), log(1 - s(x)) = -softplus(x)
    losses = targets * jax.nn.softplus(-logits) + (1.0 - targets) * jax.nn.softplus(logits)
    if isinstance(focal, float) and focal == 0.0:
        return losses
    # Lin et al. 2017, equation 5: -alpha_t (1 - p_t)^gamma log(p_t), with p_t and alpha_t linear in the target
    probability = jax.nn.sigmoid(logits)
    right = targets * probability + (1.0 - targets) * (1.0 - probability)
    weight = targets * alpha + (1.0 - targets) * (1.0 - alpha)
    return weight * jnp.maximum(1.0 - right, 1e-9) ** focal * losses


def level_losses(
    raw: Float[Array, "b h w a c"],
    batch: Mapping[str, Array],
    assignment: Assignment,
    *,
    anchors: Float[Array, "a 2"],
    stride: int,
    config: DetectionLossConfig,
) -> dict[str, Float[Array, ""]]:
    """The three losses of a level before their gains, each a mean: "box" and "class" over the valid candidates.

    "objectness" is over all anchors of all cells. Where several boxes have one anchor of one cell, all count for box
    and class, and the largest IoU is the target of the objectness. A level without candidates has losses of 0 for box
    and class.
    """
    size, rows, columns, count, width = raw.shape
    row, column, anchor, box, valid = assignment
    place = (jnp.clip(row, 0, rows - 1) * columns + jnp.clip(column, 0, columns - 1)) * count + anchor
    chosen = jnp.take_along_axis(raw.reshape(size, -1, width), place[..., None], axis=1)
    predicted = boxes_of(chosen[..., :4], column, row, anchors[anchor], stride)
    wanted = jnp.take_along_axis(batch["boxes"], box[..., None], axis=1)
    number = jnp.maximum(jnp.sum(valid), 1)
    mean = lambda losses: jnp.sum(jnp.where(valid, losses, 0.0)) / number

    overlap = jax.lax.stop_gradient(jnp.where(valid, iou(predicted, wanted), 0.0))
    # no candidate, no object; a candidate that is not valid adds a 0, wherever it is
    best = jax.vmap(lambda at, value: jnp.zeros(rows * columns * count).at[at].max(value))(place, overlap)
    objectness = binary_cross_entropy(
        raw[..., 4], best.reshape(raw.shape[:4]), focal=config.focal, alpha=config.focal_alpha
    )
    losses = {"box": mean(1.0 - ciou(predicted, wanted)), "objectness": jnp.mean(objectness)}
    classes = width - 5
    if classes == 1:  # the objectness says it all
        return {**losses, "class": jnp.zeros(())}
    labels = jnp.take_along_axis(batch["labels"], box, axis=1)
    target = jax.nn.one_hot(labels, classes)
    target = (1.0 - config.smoothing) * target + config.smoothing / 2
    of_class = binary_cross_entropy(chosen[..., 5:], target, focal=config.focal, alpha=config.focal_alpha)
    return {**losses, "class": mean(jnp.mean(of_class, axis=-1))}


def detection_losses(
    raw: Raw, batch: Mapping[str, Array], *, model: YoloConfig, config: DetectionLossConfig
) -> dict[str, Float[Array, ""]]:
    """The "loss", its three parts with their gains, and "anchor_recall", the share of boxes that some anchor matches.

    Args:
      raw: what the network predicts.
      batch: "image", of whose size the gain of the objectness is, "boxes" [b n 4], "labels" [b n], "valid" [b n].
      model: whose anchors and classes.
      config: gains.
    """
    height, width = batch["image"].shape[1:3]
    parts = {"box": jnp.zeros(()), "objectness": jnp.zeros(()), "class": jnp.zeros(())}
    matched = jnp.zeros(batch["valid"].shape, bool)
    for level, stride, sides, balance in zip(raw, STRIDES, model.anchor_levels, config.balance, strict=True):
        anchors = jnp.asarray(sides)
        grid = (level.shape[1], level.shape[2])
        found = assign(batch["boxes"], batch["valid"], anchors=anchors, stride=stride, grid=grid, ratio=config.ratio)
        losses = level_losses(level, batch, found, anchors=anchors, stride=stride, config=config)
        parts["box"] += losses["box"]
        parts["objectness"] += balance * losses["objectness"]
        parts["class"] += losses["class"]
        matched |= jax.vmap(lambda n, at, is_valid: n.at[at].max(is_valid))(matched, found.box, found.valid)
    # The published gains are those of three levels, 80 classes and 640x640 pixels
    levels = 3 / len(STRIDES)
    parts["box"] *= config.box * levels
    parts["objectness"] *= config.objectness * levels * (height * width / 640**2)
    parts["class"] *= config.classes * levels * (model.classes / 80)
    boxes = jnp.maximum(jnp.sum(batch["valid"]), 1)
    return {
        "loss": parts["box"] + parts["objectness"] + parts["class"],
        **parts,
        "anchor_recall": jnp.sum(matched) / boxes,
    }


def detection_loss(
    network: nn.Module, model: YoloConfig, config: DetectionLossConfig, *, running_statistics: bool = False
) -> LossFn:
    """The LossFn of a detector on batches with "image" float [b h w 3], "boxes", "labels" and "valid" (see `assign`).

    The loss is a mean over the matches in the batch. Logs its parts, "anchor_recall", and, where augmentation counts
    them, "dropped_boxes", the boxes beyond the maximum of an image. ``running_statistics`` normalises by the running
    statistics and leaves them as they are (fine-tuning on few images).
    """

    def loss(params, model_state, batch, *, key, step):
        del step
        how: Any = {"key": key, "running_statistics": running_statistics}
        raw, model_state = training_predictions(network, params, model_state, batch["image"], **how)
        found = detection_losses(raw, batch, model=model, config=config)
        return found.pop("loss"), (model_state, {**found, **dropped(batch)})

    return loss


def training_predictions(
    network: nn.Module, params: Any, model_state: Any, images: Array, *, key: Array, running_statistics: bool
) -> tuple[Any, Any]:
    """What the network predicts in training, and its state after it, which running statistics leave as it is."""
    variables = {"params": params, **model_state}
    if running_statistics:
        return network.apply(variables, images, train=False), model_state
    how: Any = {"rngs": {"dropout": key}, "mutable": ["batch_stats"]}
    found, new = network.apply(variables, images, train=True, **how)
    return found, {**model_state, **new}


def dropped(batch: Mapping[str, Array]) -> dict[str, Float[Array, ""]]:
    """The mean of "dropped_boxes", the boxes of mosaics that found no slot, where the batch has them."""
    name = "dropped_boxes"
    return {name: jnp.mean(batch[name].astype(jnp.float32))} if name in batch else {}


@dataclass(frozen=True)
class SelectionConfig:
    """Which predictions of a network are detections."""

    confidence: Fraction = 0.001
    """Scores below this are no detections; 0.001 for average precision, 0.25 for images."""
    iou: Fraction = 0.6
    """Of two boxes that overlap more than this, the less confident one is suppressed."""
    max_detections: PositiveInt = 300
    """Largest number of detections in an image."""
    candidates: PositiveInt = 2000
    """Number of the most confident boxes that take part in suppression; a box with two likely classes is two."""
    agnostic: bool = False
    """Whether boxes of different classes suppress each other too."""


@dataclass(frozen=True)
class DetectorConfig(SelectionConfig):
    """How detections are selected from the predictions of a network."""

    flip_tta: bool = False
    """Test-time augmentation: add the detections of the image flipped left to right."""
    scales: tuple[PositiveFloat, ...] = ()
    """Test-time augmentation: add those of the image resized by these positive factors, to multiples of 32."""


class Chosen(NamedTuple):
    """Pairs of a box and a class, the most confident first; only ``valid`` entries count, others are zeros."""

    box: Int[Array, "b m"]
    """Its place among the n boxes of its image."""
    scores: Float[Array, "b m"]
    labels: Int[Array, "b m"]
    valid: Bool[Array, "b m"]


def most_confident(scores: Float[Array, "b n k"], count: int) -> Chosen:
    """The ``count`` pairs of a box and a class with the largest scores, or all; every one is valid."""
    batch, number, classes = scores.shape  # the batch may be a symbol, in an export
    flat = scores.reshape(batch, number * classes)
    best, place = jax.lax.top_k(flat, min(count, number * classes))
    return Chosen(place // classes, best, (place % classes).astype(jnp.int32), jnp.ones(best.shape, bool))


def kept_only(among: Chosen, index: Int[Array, "b m"], valid: Bool[Array, "b m"]) -> Chosen:
    """The entries at ``index`` of each image, where ``valid``."""
    blank = lambda values: jnp.where(valid, jnp.take_along_axis(values, index, axis=1), 0)
    return Chosen(blank(among.box), blank(among.scores), blank(among.labels), valid)


def greedily(boxes: Float[Array, "b n 4"], scores: Float[Array, "b n k"], config: SelectionConfig) -> Chosen:
    """What greedy non-maximum suppression keeps of the most confident candidates, by class unless agnostic."""
    among = most_confident(scores, config.candidates)

    def of_image(boxes: Array, among: Chosen) -> Kept:
        return non_maximum_suppression(
            boxes[among.box],
            among.scores,
            labels=None if config.agnostic else among.labels,
            iou_threshold=config.iou,
            score_threshold=config.confidence,
            max_detections=config.max_detections,
        )

    return kept_only(among, *jax.vmap(of_image)(boxes, among))


def boxes_at(boxes: Float[Array, "b n 4"], chosen: Chosen) -> Float[Array, "b m 4"]:
    """The box of each entry, zeros where it is not valid."""
    return jnp.where(chosen.valid[..., None], jnp.take_along_axis(boxes, chosen.box[..., None], axis=1), 0.0)


def after_nms(boxes: Float[Array, "b n 4"], scores: Float[Array, "b n k"], config: SelectionConfig) -> Detections:
    """Detections after greedy non-maximum suppression of the most confident candidates, by class unless agnostic."""
    chosen = greedily(boxes, scores, config)
    return Detections(boxes_at(boxes, chosen), chosen.scores, chosen.labels, chosen.valid)


def of_classes(scores: Float[Array, "b n k"], classes: Sequence[int] | None) -> Float[Array, "b n k"]:
    """Scores of 0 for all but these classes; None for all."""
    if classes is None:
        return scores
    return jnp.where(jnp.isin(jnp.arange(scores.shape[-1]), jnp.asarray(classes)), scores, 0.0)


def candidates(network: nn.Module, model: YoloConfig, config: DetectorConfig) -> Callable[..., tuple[Array, Array]]:
    """(variables, images in [-1, 1], classes or None for all) -> boxes [b n 4] within the image, scores [b n k].

    All predictions of the network, with every test-time augmentation, before suppression.
    """

    def everything(variables: Mapping[str, Any], images: Array) -> tuple[Array, Array]:
        return decode(network.apply(variables, images, train=False), model)  # pyright: ignore[reportArgumentType]

    def predict(
        variables: Mapping[str, Any], images: Float[Array, "b h w 3"], classes: Sequence[int] | None = None
    ) -> tuple[Array, Array]:
        height, width = images.shape[1:3]
        found = [everything(variables, images)]
        if config.flip_tta:
            boxes, scores = everything(variables, images[:, :, ::-1])
            flip = jnp.array([-1.0, 1.0, -1.0, 1.0])
            moved = boxes * flip + jnp.array([width, 0.0, width, 0.0])
            found.append((moved[..., jnp.array([2, 1, 0, 3])], scores))
        for scale in config.scales:
            rows, columns = (max(round(side * scale / STRIDES[-1]), 1) * STRIDES[-1] for side in (height, width))
            boxes, scores = everything(variables, resize(images, (rows, columns)))
            found.append((boxes * jnp.array([width / columns, height / rows] * 2), scores))
        boxes, scores = (jnp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        return clip_to_image(boxes, width=width, height=height), of_classes(scores, classes)

    return predict


def detector(network: nn.Module, model: YoloConfig, config: DetectorConfig) -> Callable[..., Detections]:
    """(variables, images in [-1, 1], classes or None for all) -> detections."""
    predict = candidates(network, model, config)
    return lambda variables, images, classes=None: after_nms(*predict(variables, images, classes), config)
