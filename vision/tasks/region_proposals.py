"""Regions that may be objects: which anchors are matched to which box, which of them train, and what is proposed.

Ren et al. 2015, "Faster R-CNN", sections 3.1 and 3.2. Matching and sampling serve the second stage too
(``tasks/instances.py``). All shapes are fixed: where there are fewer boxes, samples or proposals than places, the
others are not valid.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vision.models.instances.region_proposals import Regions
from vision.ops.box_coding import decode
from vision.ops.boxes import clip_to_image, pairwise_iou
from vision.ops.suppression import non_maximum_suppression
from vision.ranges import Fraction, PositiveInt

BETA = 1 / 9
"""Where the loss of offsets goes from quadratic to linear, of both stages, as published."""

_SMALLEST_SIDE = 1e-3
"""In pixels, of proposals."""


@dataclass(frozen=True)
class ProposalConfig:
    """How proposals are selected from the predictions for all anchors."""

    before: PositiveInt = 1000
    """Number of the most likely boxes of each level that take part in suppression."""
    after: PositiveInt = 1000
    """Number of proposals of an image, of all levels together."""
    iou: Fraction = 0.7
    """Of two boxes of a level that overlap more than this, the less likely one is suppressed."""


class Matches(NamedTuple):
    """Which box each candidate is matched to; candidates may be neither positive nor negative."""

    box: Int[Array, "b n"]
    """The box of the largest overlap, whether the candidate is positive or not."""
    positive: Bool[Array, "b n"]
    """Whether it is matched to the box."""
    negative: Bool[Array, "b n"]
    """Whether it is background."""


class Sample(NamedTuple):
    """Candidates that take part in a loss, the positive ones first."""

    index: Int[Array, "b k"]
    """Their places among the candidates."""
    positive: Bool[Array, "b k"]
    """Whether the place has a positive candidate."""
    valid: Bool[Array, "b k"]
    """Whether the place has a candidate."""


class Proposals(NamedTuple):
    """Boxes that may be objects, the most likely first; only ``valid`` ones count."""

    boxes: Float[Array, "b p 4"]
    """Corners in pixels, within the image."""
    scores: Float[Array, "b p"]
    """Logits of objectness."""
    valid: Bool[Array, "b p"]


def match(
    boxes: Float[Array, "b m 4"],
    valid: Bool[Array, "b m"],
    candidates: Float[Array, "#b n 4"],
    *,
    high: float,
    low: float,
    closest: bool = False,
) -> Matches:
    """Match candidates with boxes by overlap.

    Args:
      boxes: corners of the true boxes.
      valid: which of them there are.
      candidates: corners, of each image or the same for all.
      high: a candidate whose largest IoU is at least this is positive.
      low: one whose largest IoU is below this is negative.
      closest: whether the candidates with the largest IoU of some box, all of them where several are equal, are
        positive too, however small it is unless 0; they are matched to the box that they themselves overlap most (Ren
        et al. 2015, section 3.1.2, (i); the second half is the published networks' reading).
    """
    overlap = jnp.where(valid[..., None], pairwise_iou(boxes, candidates), -1.0)
    # Computed once: the comparison below is of equal numbers, and not of two ways of rounding
    overlap = jax.lax.optimization_barrier(overlap)
    best = jnp.max(overlap, axis=1)
    positive, negative = best >= high, best < low
    if closest:
        largest = jnp.max(overlap, axis=2, keepdims=True)
        chosen = jnp.any((overlap == largest) & (largest > 0), axis=1)
        positive, negative = positive | chosen, negative & ~chosen
    return Matches(jnp.argmax(overlap, axis=1), positive, negative)


def balanced_sample(
    positive: Bool[Array, "b n"], negative: Bool[Array, "b n"], *, count: int, fraction: float, key: Key[Array, ""]
) -> Sample:
    """Up to ``count`` random candidates of each image, of which up to ``count * fraction`` are positive.

    Places that positive candidates leave are filled with negative ones. There are min(count, n) places.
    """
    places = min(count, positive.shape[1])
    most = min(int(count * fraction), places)
    noise = jax.random.uniform(key, positive.shape)
    some = lambda among, k: jax.lax.top_k(jnp.where(among, noise, -1.0), max(k, 1))[1]
    number = lambda among, limit: jnp.minimum(jnp.sum(among, axis=1, keepdims=True), limit)
    positives = number(positive, most)
    total = positives + number(negative, places - positives)
    place = jnp.arange(places)[None]
    take = lambda index, at: jnp.take_along_axis(index, jnp.clip(at, 0, index.shape[1] - 1), axis=1)
    first = take(some(positive, most), jnp.broadcast_to(place, (positive.shape[0], places)))
    index = jnp.where(place < positives, first, take(some(negative, places), place - positives))
    return Sample(index, place < positives, place < total)


def taken(values: Array, index: Int[Array, "b k"]) -> Array:
    """Entries of [b n ...] or, the same for all images, [1 n ...]: [b k ...]."""
    values = jnp.broadcast_to(values, (index.shape[0], *values.shape[1:]))
    return jax.vmap(lambda of, at: of[at])(values, index)


def select_proposals(regions: Regions, size: Int[Array, "b 2"], config: ProposalConfig) -> Proposals:
    """The most likely boxes of all levels, clipped to the image, after suppression within each level.

    Args:
      regions: predictions; they are constants to the gradient.
      size: height and width in pixels of each image, which may be smaller than the array that holds it.
      config: how many.
    """
    boxes, scores, levels = [], [], []
    for level, (objectness, offsets, anchors) in enumerate(zip(*regions, strict=True)):
        score, index = jax.lax.top_k(jax.lax.stop_gradient(objectness), min(config.before, objectness.shape[1]))
        boxes.append(decode(jax.lax.stop_gradient(taken(offsets, index)), taken(anchors[None], index)))
        scores.append(score)
        levels.append(jnp.full(score.shape[1], level, jnp.int32))
    found, score, level = jnp.concatenate(boxes, 1), jnp.concatenate(scores, 1), jnp.concatenate(levels)
    found = clipped(found, size)
    score = jnp.where(jnp.min(found[..., 2:] - found[..., :2], axis=-1) >= _SMALLEST_SIDE, score, -jnp.inf)

    def of_image(boxes: Array, scores: Array) -> Proposals:
        kept = non_maximum_suppression(
            boxes,
            scores,
            labels=level,
            iou_threshold=config.iou,
            score_threshold=-jnp.inf,
            max_detections=config.after,
        )
        return Proposals(
            jnp.where(kept.valid[:, None], boxes[kept.index], 0.0),
            jnp.where(kept.valid, scores[kept.index], 0.0),
            kept.valid,
        )

    return jax.vmap(of_image)(found, score)


def clipped(boxes: Float[Array, "b *n 4"], size: Int[Array, "b 2"]) -> Float[Array, "b *n 4"]:
    """Boxes of each image clipped to its height and width."""
    sides = size.astype(jnp.float32).reshape(size.shape[0], 2, *[1] * (boxes.ndim - 2))
    return clip_to_image(boxes, width=sides[:, 1], height=sides[:, 0])


def smooth_l1(difference: Float[Array, "*n"], *, beta: float = BETA) -> Float[Array, "*n"]:
    """d^2 / (2 beta) where |d| is below ``beta``, |d| - beta / 2 elsewhere (Girshick 2015, equation 3, for beta 1)."""
    size = jnp.abs(difference)
    return jnp.where(size < beta, 0.5 * difference**2 / beta, size - 0.5 * beta)


def region_losses(
    objectness: Float[Array, "b k"],
    offsets: Float[Array, "b k 4"],
    targets: Float[Array, "b k 4"],
    *,
    positive: Bool[Array, "b k"],
    valid: Bool[Array, "b k"],
) -> dict[str, Float[Array, ""]]:
    """The two losses of the first stage for sampled anchors: "objectness" and "region_box".

    Both are sums over the anchors, of the boxes over the positive ones, divided by the number of all of the batch.

    Args:
      objectness: logits.
      offsets: predicted.
      targets: true offsets, which only count where ``positive``.
      positive: whether the anchor is matched to a box.
      valid: whether there is an anchor.
    """
    number = jnp.maximum(jnp.sum(valid), 1)
    # -log s(x) of positive, -log(1 - s(x)) of negative ones
    entropy = jax.nn.softplus(jnp.where(positive, -objectness, objectness))
    return {
        "objectness": jnp.sum(jnp.where(valid, entropy, 0.0)) / number,
        "region_box": box_loss(offsets, targets, positive=positive) / number,
    }


def box_loss(
    offsets: Float[Array, "b k 4"], targets: Float[Array, "b k 4"], *, positive: Bool[Array, "b k"]
) -> Float[Array, ""]:
    """The sum of :func:`smooth_l1` over the four offsets of the positive ones."""
    # The targets of others may be no numbers, which would be so in the gradient even where the loss is left out
    difference = jnp.where(positive[..., None], offsets - jnp.where(positive[..., None], targets, 0.0), 0.0)
    return jnp.sum(smooth_l1(difference))
