"""Mixing two samples with boxes: mixup, copy-paste of the contents of boxes, and of instances by their masks."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vision.data.augment.box_padding import packed, worth_keeping
from vision.data.augment.instances import renumbered, visible_parts
from vision.data.instance_maps import THINGS
from vision.ops.boxes import area

Samples = Mapping[str, Array]
"""A batch: "image" float32 [b h w c], "boxes" [b n 4] in pixels, "labels" and "valid" [b n], and "dropped_boxes" int32
[b], the boxes dropped so far because there were too many."""

# Zhang et al. 2019 ("Bag of freebies for training object detection neural networks", section 3.1) recommend an alpha of
# at least 1 for detectors, so that both images are visible; 32 keeps about 90 % of the shares within [0.4, 0.6].
_ALPHA = 32.0


def mixup_with_boxes(samples: Samples, others: Samples, *, probability: float, key: Key[Array, ""]) -> dict[str, Array]:
    """Some samples become lambda times themselves plus (1 - lambda) times another sample, with the boxes of both.

    Zhang et al. 2018, equation 1, for the images; all boxes have full weight. Lambda is sampled from Beta(32, 32).

    Args:
      samples: a batch.
      others: another batch of the same shapes; sample i is mixed with its i-th sample.
      probability: of a sample to be mixed.
      key: one for the batch.

    Returns:
      the fields of ``samples``; "dropped_boxes" counts boxes beyond the maximum, including those already dropped from
      the other sample.
    """
    coin_key, share_key = jax.random.split(key)
    count = samples["image"].shape[0]
    chosen = jax.random.uniform(coin_key, (count,)) < probability
    # Zhang et al. 2018, equation 1: x = lambda x_i + (1 - lambda) x_j
    share = jnp.where(chosen, jax.random.beta(share_key, _ALPHA, _ALPHA, (count,)), 1.0)[:, None, None, None]
    image = share * samples["image"] + (1.0 - share) * others["image"]
    lost = samples["dropped_boxes"] + jnp.where(chosen, others["dropped_boxes"], 0)
    return {**samples, "image": image, **_both(samples, others, others["valid"] & chosen[:, None], lost)}


def copy_paste(
    samples: Samples,
    others: Samples,
    *,
    probability: float,
    max_pastes: int,
    max_overlap: float = 0.3,
    key: Key[Array, ""],
) -> dict[str, Array]:
    """Paste the contents of boxes of another sample at their position (Ghiasi et al. 2021, section 3, without masks).

    The paper pastes a random subset of objects by their masks; here complete boxes are pasted. The sample's boxes stay
    unchanged, so only boxes that cover at most ``max_overlap`` of each of them are pasted.

    Args:
      samples: a batch.
      others: another batch of the same shapes; sample i gets boxes of its i-th sample.
      probability: that boxes are pasted into a sample.
      max_pastes: maximum number of pasted boxes, sampled uniformly from those that are allowed.
      max_overlap: the largest share of a box of the sample that one pasted box may cover.
      key: one for the batch.

    Returns:
      the fields of ``samples``; "dropped_boxes" counts boxes beyond the maximum. A pixel is pasted if its centre is in
      a pasted box.
    """
    coin_key, order_key = jax.random.split(key)
    count, slots = samples["valid"].shape
    max_pastes = min(max_pastes, slots)
    chosen = jax.random.uniform(coin_key, (count, 1)) < probability
    covered = _covered(samples["boxes"], others["boxes"])
    # A valid box of zero extent has no area to be covered
    harm = jnp.max(jnp.where(samples["valid"][:, None, :], covered, 0.0), axis=-1)
    allowed = others["valid"] & chosen & (harm <= max_overlap)
    draw = jnp.where(allowed, jax.random.uniform(order_key, allowed.shape), 2.0)
    order = jnp.argsort(draw, axis=-1)[:, :max_pastes]
    pick = lambda of: jnp.take_along_axis(of, order, axis=1)
    pasted = {
        "boxes": jnp.take_along_axis(others["boxes"], order[..., None], axis=1),
        "labels": pick(others["labels"]),
    }
    valid = pick(allowed)
    height, width = samples["image"].shape[1:3]
    mask = _inside(pasted["boxes"], valid, height, width)
    image = jnp.where(mask[..., None], others["image"], samples["image"])
    return {**samples, "image": image, **_both(samples, pasted, valid, samples["dropped_boxes"])}


def paste_instances(
    samples: Samples,
    others: Samples,
    *,
    probability: float,
    max_pastes: int,
    least_side: float,
    least_area: float,
    largest_ratio: float,
    key: Key[Array, ""],
) -> dict[str, Array]:
    """Paste a random subset of the instances of another sample by their masks (Ghiasi et al. 2021, section 3).

    What they cover is updated: a box is the smallest around the pixels that remain, and an instance is dropped that has
    less than ``least_area`` of its pixels left (the paper drops only those that are covered completely), or whose box
    is too small or too long.

    Args:
      samples: a batch with "instances", integer [b h w], 1 + k at the pixels of the k-th box.
      others: another batch of the same shapes; sample i gets instances of its i-th sample.
      probability: that instances are pasted into a sample.
      max_pastes: the number of pasted instances is uniform from 1 to this, or to all of the other sample.
      least_side: see `worth_keeping`.
      least_area: the least share of the pixels before.
      largest_ratio: see `worth_keeping`.
      key: one for the batch.

    Returns:
      the fields of ``samples``, "instances" int32; "dropped_boxes" counts boxes beyond the maximum. Where there is
      "semantic", it has `THINGS` at the pasted pixels.
    """
    coin_key, order_key, count_key = jax.random.split(key, 3)
    count, slots = samples["valid"].shape
    chosen = jax.random.uniform(coin_key, (count, 1)) < probability
    allowed = others["valid"] & chosen
    most = jnp.minimum(jnp.sum(allowed, axis=-1, keepdims=True), max_pastes)
    number = 1 + jnp.floor(jax.random.uniform(count_key, (count, 1)) * most)
    draw = jnp.where(allowed, jax.random.uniform(order_key, allowed.shape), 2.0)
    rank = jnp.argsort(jnp.argsort(draw, axis=-1), axis=-1)
    pasted = allowed & (rank < number)

    own, other = (of["instances"].astype(jnp.int32) for of in (samples, others))
    numbers = jnp.broadcast_to(jnp.arange(slots), pasted.shape)
    other = renumbered(other, numbers, pasted, slots)
    both = jnp.where(other > 0, slots + other, own)
    image = jnp.where((other > 0)[..., None], others["image"], samples["image"])
    before, _ = visible_parts(own, slots)
    after, boxes = visible_parts(both, 2 * slots)
    rules = {"least_side": least_side, "least_area": 0.0, "largest_ratio": largest_ratio}
    left = (after[:, :slots] >= least_area * before) & worth_keeping(boxes, boxes, **rules)[:, :slots]
    valid = jnp.concatenate([samples["valid"] & left, pasted & (after[:, slots:] > 0)], axis=1)
    labels = jnp.concatenate([samples["labels"], others["labels"]], axis=1)
    out = {**samples, "image": image, **packed(boxes, labels, valid, slots, samples["dropped_boxes"], both)}
    if "semantic" in samples:
        out["semantic"] = jnp.where(other > 0, THINGS, samples["semantic"]).astype(samples["semantic"].dtype)
    return out


def _both(samples: Samples, added: Samples, valid: Array, lost: Array) -> dict[str, Array]:
    """The samples' boxes and the added ones, packed into the samples' maximum number of boxes."""
    join = lambda name: jnp.concatenate([samples[name], added[name]], axis=1)
    valid = jnp.concatenate([samples["valid"], valid], axis=1)
    return packed(join("boxes"), join("labels"), valid, samples["valid"].shape[1], lost)


def _covered(boxes: Float[Array, "b n 4"], by: Float[Array, "b m 4"]) -> Float[Array, "b m n"]:
    """The share of each of ``boxes`` that each box of ``by`` covers."""
    first, second = boxes[:, None, :, :], by[:, :, None, :]
    corner = jnp.maximum(first[..., :2], second[..., :2])
    far = jnp.minimum(first[..., 2:], second[..., 2:])
    common = area(jnp.concatenate([corner, far], axis=-1))
    own = area(boxes)[:, None, :]
    return jnp.where(own > 0, common / jnp.where(own > 0, own, 1.0), 0.0)


def _inside(
    boxes: Float[Array, "b m 4"], valid: Bool[Array, "b m"], height: int, width: int
) -> Bool[Array, "b {height} {width}"]:
    """Which pixels have their centre in a valid box."""
    between = lambda middle, low, high: (middle >= low[..., None]) & (middle < high[..., None])
    rows = between(jnp.arange(height) + 0.5, boxes[..., 1], boxes[..., 3]) & valid[..., None]
    columns = between(jnp.arange(width) + 0.5, boxes[..., 0], boxes[..., 2])
    # How many boxes contain a pixel: sums of products of 0 and 1, exact in any precision
    return jnp.einsum("bmh,bmw->bhw", rows.astype(jnp.float32), columns.astype(jnp.float32)) > 0
