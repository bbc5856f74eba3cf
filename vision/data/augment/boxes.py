"""Augmentation of images with boxes on the device, inside the step: pure functions of a batch and a key.

The recipe of one-stage detectors: mosaic (Bochkovskiy et al. 2020), a random projective transform, copy-paste (Ghiasi
et al. 2021), mixup (Zhang et al. 2018) and jitter of hue, saturation and value. The result for a sample depends on the
key, on its index in the batch, on itself and on the three others of its mosaic; with copy-paste or mixup also on the
sample of the next group that is pasted or mixed in. Shapes are static.

With an instance map (`vision.data.instance_maps`) the masks are known: every box is the smallest around the visible
pixels of its instance at the size of the result, an instance without any is dropped, and copy-paste goes by masks. A
semantic map is carried along.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Key

from vision.data.annotations.index_masks import VOID
from vision.data.augment.box_mixing import copy_paste, mixup_with_boxes, paste_instances
from vision.data.augment.box_padding import packed, worth_keeping
from vision.data.augment.hsv import hsv_jitter
from vision.data.augment.instances import map_dtype_of, visible_parts
from vision.data.augment.mosaic import (
    extents,
    gathered,
    group_size,
    meeting_points,
    mosaic,
    mosaic_boxes,
    mosaic_instances,
    mosaic_semantic,
)
from vision.data.augment.projective import random_motions
from vision.errors import UserError
from vision.ranges import Decay, Fraction, NonNegativeFloat, PositiveInt, check_ranges


@dataclass(frozen=True)
class BoxAugmentConfig:
    """Augmentation of training samples with boxes. The defaults are usual for detectors trained from scratch.

    Raises:
        UserError: invalid values.
    """

    mosaic: Fraction = 1.0
    """Probability that a sample becomes a mosaic with three others."""
    mixup: Fraction = 0.0
    """Probability that a sample is mixed with another one, in about equal parts."""
    copy_paste: Fraction = 0.0
    """Probability that boxes, or instances by their masks, of another sample are pasted into a sample."""
    pastes: PositiveInt = 8
    """Maximum number of pasted boxes or instances."""
    degrees: Annotated[float, Interval(ge=0.0, le=180.0)] = 0.0
    """Largest rotation in either direction, in degrees."""
    translate: Fraction = 0.1
    """Largest translation along both axes in either direction, as a share of the side."""
    scale: Decay = 0.5
    """The scale factor is sampled uniformly from [1 - scale, 1 + scale]; below 1."""
    shear: Annotated[float, Interval(ge=0.0, lt=45.0)] = 0.0
    """Largest angle of the shears along both axes, in degrees; below 45."""
    perspective: Annotated[float, Interval(ge=0.0, lt=0.5)] = 0.0
    """Largest relative change of the distance to the camera at one image side from the centre, along both axes. Below
    0.5, so that no corner of a mosaic is behind the horizon. It is the usual coefficient per pixel times the image's
    side."""
    hue: Fraction = 0.015
    """The hue is multiplied by a factor within [1 - hue, 1 + hue]."""
    saturation: Fraction = 0.7
    """Likewise for the saturation."""
    value: Fraction = 0.4
    """Likewise for the value."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    flip_vertical: Fraction = 0.0
    """Probability of a vertical flip."""
    least_side: NonNegativeFloat = 2.0
    """A box is dropped if its visible part is narrower or lower, in pixels."""
    least_area: Fraction = 0.1
    """A box is dropped if less than this share of its area is visible, and an instance if less than this share of its
    pixels is left by what is pasted over it."""
    largest_ratio: Annotated[float, Interval(ge=1.0, lt=math.inf)] = 100.0
    """A box is dropped if the ratio of the longer to the shorter side of its visible part is larger."""

    def __post_init__(self):
        check_ranges(self)

    @property
    def separable(self) -> bool:
        """Whether rows and columns stay parallel to the axes, which makes sampling twice as fast."""
        return self.degrees == self.shear == self.perspective == 0


def box_augment(
    batch: Mapping[str, Array], config: BoxAugmentConfig, *, size: int | None = None, key: Key[Array, ""]
) -> dict[str, Array]:
    """Apply what ``config`` enables: mosaic, transform and flip in one resampling, copy-paste, mixup, colours.

    The grey bars of letterboxing are part of the image here. Pixels from outside of images have the same level, 114.

    Args:
      batch: "image" float32 [b s s 3] in [-1, 1]; "boxes" float32 [b n 4], (x0, y0, x1, y1) in pixels of it; "labels"
        int32 [b n]; "valid" bool [b n]; and optionally "instances", integer [b s s], 1 + k at the pixels of the k-th
        box and 0 elsewhere, and with it "semantic" uint8 [b s s], classes of which `THINGS` is that of all instances.
        Other fields are kept as they are.
      config: static under jit.
      size: size of the result in pixels; that of the images by default.
      key: each part has its own subkey, so that enabling one does not change the others.

    Returns:
      the same fields, "image" [b size size 3] and "boxes" in pixels of that; the valid boxes come first, followed by
      zeros. "dropped_boxes" int32 [b] is the number of boxes beyond the maximum; the largest are kept. "instances" is
      the map of these boxes, of the same dtype, or int32 if that cannot number them. "semantic" is `VOID` outside of
      images, and `THINGS` where an instance is pasted.

    Raises:
      UserError: the images are not square; mixup of images with instance maps.
    """
    if batch["image"].shape[1] != batch["image"].shape[2]:
        raise UserError(f"box_augment needs square images, got {batch['image'].shape[1:3]}: letterbox them first.")
    masks = "instances" in batch
    if config.mixup and masks:
        raise UserError(
            f"mixup blends two images, so that a pixel has two instances and no mask: with masks, augment.mixup is 0, "
            f"not {config.mixup:g}."
        )
    size = batch["image"].shape[1] if size is None else size
    mosaic_key, paste_key, mixup_key, colour_key = jax.random.split(key, 4)
    out = random_mosaic(batch, config, size, key=mosaic_key)
    # Samples of the next group, none of which are in the sample's mosaic
    count = batch["image"].shape[0]
    shift = group_size(count) if group_size(count) < count else 1
    maps = [name for name in ("instances", "semantic") if name in batch]
    changed = ("image", "boxes", "labels", "valid", "dropped_boxes", *maps)
    others = lambda of: {name: jnp.roll(of[name], shift, axis=0) for name in changed}
    if config.copy_paste and masks:
        how = {"probability": config.copy_paste, "max_pastes": config.pastes, **_rules(config)}
        out = paste_instances(out, others(out), **how, key=paste_key)
        out["instances"] = out["instances"].astype(map_dtype_of(batch["instances"], batch["valid"].shape[1]))
    elif config.copy_paste:
        out = copy_paste(out, others(out), probability=config.copy_paste, max_pastes=config.pastes, key=paste_key)
    if config.mixup:
        out = mixup_with_boxes(out, others(out), probability=config.mixup, key=mixup_key)
    gains = {name: getattr(config, name) for name in ("hue", "saturation", "value")}
    return {**out, "image": hsv_jitter(out["image"], **gains, key=colour_key)}


def random_mosaic(
    batch: Mapping[str, Array], config: BoxAugmentConfig, size: int, *, key: Key[Array, ""]
) -> dict[str, Array]:
    """Mosaics of some samples, and random transforms of all, with their boxes; as in :func:`box_augment`."""
    images, boxes = batch["image"], batch["boxes"]
    (count, side), slots = images.shape[:2], boxes.shape[1]
    coin_key, meeting_key, motion_key = jax.random.split(key, 3)
    combined = jax.random.uniform(coin_key, (count,)) < config.mosaic
    meeting = meeting_points(count, side, key=meeting_key)
    centre = jnp.stack([extents(combined, side) / 2.0] * 2, axis=-1)
    parts = ("degrees", "translate", "scale", "shear", "perspective", "flip", "flip_vertical")
    motion = {name: getattr(config, name) for name in parts}
    matrices = random_motions(centre, side, size, **motion, key=motion_key)
    image = mosaic(images, meeting, combined, matrices, size, separable=config.separable)

    complete, visible = mosaic_boxes(boxes, meeting, combined, matrices, side, size)
    kept = worth_keeping(complete, visible, **_rules(config))
    instances = None
    if "instances" in batch:
        how = {"separable": config.separable}
        instances = mosaic_instances(batch["instances"], meeting, combined, matrices, size, slots, **how)
        pixels, visible = visible_parts(instances, 4 * slots)
        kept &= (pixels > 0) & worth_keeping(visible, visible, **_rules(config))
    own = jnp.arange(4) == 0
    present = gathered(batch["valid"]) & (own | combined[:, None])[..., None]
    valid = present.reshape(count, -1) & kept
    labels = gathered(batch["labels"]).reshape(count, -1)
    fields = packed(visible, labels, valid, slots, jnp.zeros(count, jnp.int32), instances)
    if "instances" in batch:
        fields["instances"] = fields["instances"].astype(map_dtype_of(batch["instances"], slots))
    if "semantic" in batch:
        how = {"fill": VOID, "separable": config.separable}
        fields["semantic"] = mosaic_semantic(batch["semantic"], meeting, combined, matrices, size, **how)
    return {**batch, "image": image, **fields}


def _rules(config: BoxAugmentConfig) -> dict[str, float]:
    """Those of `worth_keeping`."""
    return {name: getattr(config, name) for name in ("least_side", "least_area", "largest_ratio")}
