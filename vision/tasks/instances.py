"""Faster and Mask R-CNN: from a network to a loss, and to objects with their masks.

Ren et al. 2015; He et al. 2017; with the constants of the widely published networks. A batch has

- "image" float32 [b h w 3] in [-1, 1], each image in the upper left of its array,
- "size" int32 [b 2], its height and width in pixels,
- "boxes" float32 [b m 4], corners in pixels; "labels" int32 [b m], from 0; "valid" bool [b m], which there are,
- "masks" [b m H W], bool or uint8 of 0 and 1, for networks that predict masks. H x W may be smaller than h x w, by the
  same factor or two: a mask then covers the whole array of the image at a lower resolution.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vision.errors import UserError
from vision.models.instances.mask_rcnn import MASK_SIDE, MaskRcnn
from vision.models.instances.region_proposals import Regions
from vision.ops.box_coding import decode, encode
from vision.ops.roi_masks import crop_masks
from vision.ops.suppression import non_maximum_suppression
from vision.ranges import Fraction, PositiveInt
from vision.tasks.detection import of_classes
from vision.tasks.region_proposals import (
    Matches,
    ProposalConfig,
    Proposals,
    Sample,
    balanced_sample,
    box_loss,
    clipped,
    match,
    region_losses,
    select_proposals,
    taken,
)
from vision.types import LossFn

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Of the offsets from regions (``ops/box_coding.py``), as published; offsets from anchors have none."""

_SMALLEST_SIDE = 1e-2
"""In pixels, of detections."""


@dataclass(frozen=True)
class InstanceLossConfig:
    """What the two stages learn from; the defaults are the published ones."""

    proposals: ProposalConfig = ProposalConfig(before=2000, after=2000)
    """Proposals of the first stage that the second one's regions are sampled from, with the true boxes."""
    anchors: PositiveInt = 256
    """Anchors of an image that the first stage learns from."""
    anchor_positive: Fraction = 0.5
    """Largest share of them that are positive, those of a box."""
    anchor_high: Fraction = 0.7
    """Anchors with at least this IoU with a box are positive, as is the closest one of every box."""
    anchor_low: Fraction = 0.3
    """Anchors with less IoU than this with every box are background; those between do not count."""
    regions: PositiveInt = 512
    """Regions of an image that the second stage learns from."""
    region_positive: Fraction = 0.25
    """Largest share of them that are of a box."""
    region_iou: Fraction = 0.5
    """Regions with at least this IoU with a box are of it, others are background."""

    def __post_init__(self):
        if self.anchor_low > self.anchor_high:
            raise UserError(
                f"anchor_low must be at most anchor_high, not {self.anchor_low:g} where that is {self.anchor_high:g}"
            )


def of_class(values: Float[Array, "b k *n c"], labels: Int[Array, "b k"]) -> Float[Array, "b k *n"]:
    """What is predicted for one class of each region, as a masked sum: the gradient of a gather would be a scatter."""
    chosen = labels[..., None] == jnp.arange(values.shape[-1])
    chosen = chosen.reshape(*labels.shape, *[1] * (values.ndim - 3), -1)
    return jnp.sum(jnp.where(chosen, values, 0.0), axis=-1)


def head_losses(
    logits: Float[Array, "b k c"],
    offsets: Float[Array, "b k c 4"],
    targets: Float[Array, "b k 4"],
    *,
    labels: Int[Array, "b k"],
    valid: Bool[Array, "b k"],
) -> dict[str, Float[Array, ""]]:
    """The losses of class and box of the second stage for given regions: "class" and "box".

    Both are sums over the regions, of the boxes over those that are of one, divided by the number of all of the batch.

    Args:
      logits: of the background and the classes.
      offsets: the box that each would have.
      targets: true offsets, weighted, which only count where there is a label.
      labels: 0 for the background, 1 + class for a region of a box.
      valid: whether there is a region.
    """
    number = jnp.maximum(jnp.sum(valid), 1)
    own = of_class(jax.nn.log_softmax(logits), labels)
    chosen = of_class(jnp.moveaxis(offsets, 2, 3), labels)
    return {
        "class": -jnp.sum(jnp.where(valid, own, 0.0)) / number,
        "box": box_loss(chosen, targets, positive=valid & (labels > 0)) / number,
    }


def mask_loss(
    logits: Float[Array, "b k s s c"],
    targets: Float[Array, "b k s s"],
    *,
    labels: Int[Array, "b k"],
    valid: Bool[Array, "b k"],
) -> Float[Array, ""]:
    """The binary cross-entropy of the mask of the true class, a mean over pixels and regions that are of a box.

    Args:
      logits: of the mask that the background, which is never used, and each class would have.
      targets: the true mask in the region, in [0, 1].
      labels: as for :func:`head_losses`.
      valid: whether there is a region; those with the label 0 do not count.
    """
    logits = of_class(logits, labels)
    entropy = jnp.mean(jax.nn.softplus(logits) - targets * logits, axis=(2, 3))
    of_box = valid & (labels > 0)
    return jnp.sum(jnp.where(of_box, entropy, 0.0)) / jnp.maximum(jnp.sum(of_box), 1)


def sample_anchors(
    regions: Regions, batch: Mapping[str, Array], config: InstanceLossConfig, *, key: Array
) -> tuple[Matches, Sample]:
    """Which anchors are matched to which box, and a random sample of them."""
    anchors = jnp.concatenate(regions.anchors, axis=0)[None]
    found = match(batch["boxes"], batch["valid"], anchors, high=config.anchor_high, low=config.anchor_low, closest=True)
    how: Any = {"count": config.anchors, "fraction": config.anchor_positive, "key": key}
    return found, balanced_sample(found.positive, found.negative, **how)


def sample_regions(
    proposals: Proposals, batch: Mapping[str, Array], config: InstanceLossConfig, *, key: Array
) -> tuple[Float[Array, "b k 4"], Int[Array, "b k"], Sample]:
    """A random choice of the proposals and the true boxes, the ones of a box first.

    Returns:
      the regions; the box of each, which means something where it is positive; and the choice.
    """
    candidates = jnp.concatenate([proposals.boxes, batch["boxes"]], axis=1)
    exists = jnp.concatenate([proposals.valid, batch["valid"]], axis=1)
    found = match(batch["boxes"], batch["valid"], candidates, high=config.region_iou, low=config.region_iou)
    how: Any = {"count": config.regions, "fraction": config.region_positive, "key": key}
    sample = balanced_sample(found.positive & exists, found.negative & exists, **how)
    return taken(candidates, sample.index), taken(found.box, sample.index), sample


def mask_rcnn_loss(model: MaskRcnn, config: InstanceLossConfig) -> LossFn:
    """The LossFn of Faster or Mask R-CNN on batches as the module says: the sum of the losses of both stages.

    Logs what :func:`losses_of_levels` says. An image without boxes teaches what is background.
    """

    def loss(params, model_state, batch, *, key, step):
        del step
        for_losses, for_network = split_key(key)
        variables = {"params": params, **model_state}
        call: Any = lambda method, *arguments: model.apply(variables, *arguments, method=method)
        how: Any = {"rngs": {"dropout": for_network}, "mutable": ["batch_stats"]}
        levels, new = model.apply(variables, batch["image"], train=True, method="levels", **how)
        total, scalars = losses_of_levels(call, levels, batch, config, masks=model.config.mask, keys=for_losses)
        return total, ({**model_state, **new}, scalars)

    return loss


def split_key(key: Array) -> tuple[tuple[Array, Array], Array]:
    """The keys of :func:`losses_of_levels`, and that of the network's randomness."""
    for_anchors, for_regions, for_network = jax.random.split(key, 3)
    return (for_anchors, for_regions), for_network


def losses_of_levels(
    call: Callable[..., Any],
    levels: Sequence[Float[Array, "b _ _ c"]],
    batch: Mapping[str, Array],
    config: InstanceLossConfig,
    *,
    masks: bool,
    keys: tuple[Array, Array],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The sum of the losses of both stages, and scalars, for images whose levels are known.

    The scalars are "objectness", "region_box", "class", "box", "mask" where there are masks, and "positive_regions",
    how many of an image's regions are of a box.

    Args:
      call: (method, arguments) -> what a method of :class:`MaskRcnn` gives.
      levels: of its method "levels".
      batch: as the module says.
      config: what is learned from.
      masks: whether the network predicts them.
      keys: for the choice of anchors, and of regions.
    """
    for_anchors, for_regions = keys
    regions = call("regions", levels)

    found, sample = sample_anchors(regions, batch, config, key=for_anchors)
    anchors = taken(jnp.concatenate(regions.anchors, axis=0)[None], sample.index)
    true = taken(batch["boxes"], taken(found.box, sample.index))
    parts = region_losses(
        taken(jnp.concatenate(regions.objectness, axis=1), sample.index),
        taken(jnp.concatenate(regions.offsets, axis=1), sample.index),
        encode(true, anchors),
        positive=sample.positive,
        valid=sample.valid,
    )

    proposals = select_proposals(regions, batch["size"], config.proposals)
    boxes, box, sample = sample_regions(proposals, batch, config, key=for_regions)
    labels = jnp.where(sample.positive, 1 + taken(batch["labels"], box), 0)
    logits, offsets = call("boxes", levels, boxes)
    targets = encode(taken(batch["boxes"], box), boxes, weights=WEIGHTS)
    parts |= head_losses(logits, offsets, targets, labels=labels, valid=sample.valid)

    if masks:
        # positive regions come first
        most = max(min(int(config.regions * config.region_positive), boxes.shape[1]), 1)
        boxes, box, labels = boxes[:, :most], box[:, :most], labels[:, :most]
        scale = [batch["masks"].shape[2 + axis] / batch["image"].shape[1 + axis] for axis in (1, 0, 1, 0)]
        true = crop_masks(batch["masks"], box, boxes * jnp.array(scale), size=MASK_SIDE)
        parts["mask"] = mask_loss(call("masks", levels, boxes), true, labels=labels, valid=sample.positive[:, :most])
    scalars = {**parts, "positive_regions": jnp.mean(jnp.sum(sample.positive, axis=1).astype(jnp.float32))}
    return sum(parts.values(), jnp.zeros(())), scalars


@dataclass(frozen=True)
class InstanceDetectorConfig:
    """How objects are selected from the predictions of a network."""

    proposals: ProposalConfig = ProposalConfig()
    """Proposals of the first stage."""
    confidence: Fraction = 0.05
    """Scores below this are no detections."""
    iou: Fraction = 0.5
    """Of two boxes of a class that overlap more than this, the less confident one is suppressed."""
    max_detections: PositiveInt = 100
    """Largest number of detections in an image."""
    rounded_boxes: bool = False
    """Round boxes to whole pixels when masks are pasted into images, as torchvision does for its published networks;
    exact boxes give better borders (see ``ops/roi_masks.py``)."""


class Instances(NamedTuple):
    """Objects of each image, the most confident first, padded; only ``valid`` entries count."""

    boxes: Float[Array, "b d 4"]
    """Corners in pixels of the image as the network got it, within its size."""
    scores: Float[Array, "b d"]
    """Probability of the class, in [0, 1]."""
    labels: Int[Array, "b d"]
    """Class, from 0, without the background."""
    valid: Bool[Array, "b d"]
    """Whether the entry is a detection."""
    masks: Float[Array, "b d s s"] | None
    """Probability of each cell of the box to be of the object (see ``ops/roi_masks.py`` for masks of the image); None
    for networks without masks."""


def select_instances(
    logits: Float[Array, "b n c"],
    offsets: Float[Array, "b n c 4"],
    proposals: Proposals,
    size: Int[Array, "b 2"],
    config: InstanceDetectorConfig,
    *,
    classes: Sequence[int] | None = None,
) -> Instances:
    """Objects without masks: boxes of the classes, clipped to the image, after suppression within each class."""
    count = logits.shape[-1] - 1
    boxes = clipped(decode(offsets[:, :, 1:], proposals.boxes[:, :, None], weights=WEIGHTS), size)
    large = jnp.min(boxes[..., 2:] - boxes[..., :2], axis=-1) >= _SMALLEST_SIDE
    scores = of_classes(jax.nn.softmax(logits)[..., 1:], classes)
    scores = jnp.where(large & proposals.valid[..., None], scores, -jnp.inf)
    labels = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), boxes.shape[1:3]).reshape(-1)

    def of_image(boxes: Array, scores: Array) -> tuple[Array, ...]:
        kept = non_maximum_suppression(
            boxes,
            scores,
            labels=labels,
            iou_threshold=config.iou,
            score_threshold=config.confidence,
            max_detections=config.max_detections,
        )
        blank = lambda x: jnp.where(kept.valid.reshape(-1, *[1] * (x.ndim - 1)), x[kept.index], 0)
        return blank(boxes), blank(scores), blank(labels), kept.valid

    flat = lambda x, *rest: x.reshape(x.shape[0], -1, *rest)
    return Instances(*jax.vmap(of_image)(flat(boxes, 4), flat(scores)), masks=None)


def instance_detector(model: MaskRcnn, config: InstanceDetectorConfig) -> Callable[..., Instances]:
    """(variables, images [b h w 3] in [-1, 1], size int32 [b 2] or None for whole arrays) -> objects.

    A sequence ``classes`` leaves out all others.
    """

    def detect(
        variables: Mapping[str, Any],
        images: Float[Array, "b h w 3"],
        size: Int[Array, "b 2"] | None = None,
        *,
        classes: Sequence[int] | None = None,
    ) -> Instances:
        size = whole_size(images) if size is None else size
        call: Any = lambda method, *arguments, **how: model.apply(variables, *arguments, method=method, **how)
        levels = call("levels", images, train=False)
        return instances_in_levels(call, levels, size, config, masks=model.config.mask, classes=classes)

    return detect


def whole_size(images: Float[Array, "b h w 3"]) -> Int[Array, "b 2"]:
    """Height and width of images that fill their arrays."""
    return jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32), (images.shape[0], 2))


def instances_in_levels(
    call: Callable[..., Any],
    levels: Sequence[Float[Array, "b _ _ c"]],
    size: Int[Array, "b 2"],
    config: InstanceDetectorConfig,
    *,
    masks: bool,
    classes: Sequence[int] | None = None,
) -> Instances:
    """Objects in images whose levels are known; arguments as of :func:`losses_of_levels`."""
    proposals = select_proposals(call("regions", levels), size, config.proposals)
    logits, offsets = call("boxes", levels, proposals.boxes)
    found = select_instances(logits, offsets, proposals, size, config, classes=classes)
    if not masks:
        return found
    made = of_class(call("masks", levels, found.boxes), 1 + found.labels)
    return found._replace(masks=jnp.where(found.valid[..., None, None], jax.nn.sigmoid(made), 0.0))
