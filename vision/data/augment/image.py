"""Augmentation on the device, inside the step: pure functions of images in [-1, 1] and a key, random for each sample.

The result for a sample depends on the key, on its index in the batch and on itself, never on other samples (mixing is
in `vision.data.augment.mixing`). Shapes are static. `augment` composes what a configuration enables; the parts are in
``crop``, ``policy``, ``colour`` and ``erase`` of this package.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from annotated_types import Ge, Interval
from jaxtyping import Array, Float, Int, Key

from vision.data.augment.colour import colour_jitter
from vision.data.augment.crop import PadMode, pad_crop, random_resized_crop
from vision.data.augment.erase import ErasingFill, cutout, random_erasing
from vision.data.augment.policy import randaugment, trivialaugment
from vision.errors import UserError
from vision.ops.geometry import Interpolation
from vision.ranges import (
    Depth,
    Fraction,
    NoneOrMoreChannels,
    NonNegativeFloat,
    PositiveFloat,
    PositiveFraction,
    check_ranges,
)


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images; by default none.

    Raises:
        UserError: invalid values, or two croppings at once.
    """

    flip: bool = False
    """Flip images horizontally with probability 0.5."""
    pad_crop: NoneOrMoreChannels = 0
    """Pad by this many pixels and crop the original size at random; 4 is usual for CIFAR."""
    pad_mode: PadMode = "zeros"
    """What to pad with: mid-grey ("zeros"), the image's reflection, or its border repeated ("edge")."""
    crop_scale: tuple[PositiveFraction, PositiveFraction] = (1.0, 1.0)
    """Smallest and largest share of the area that a random resized crop keeps; (0.08, 1) is usual for ImageNet."""
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Smallest and largest ratio of width to height of that crop."""
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    """Random operations: RandAugment (Cubuk et al. 2020) or TrivialAugment (Müller & Hutter 2021)."""
    operations: Depth = 2
    """RandAugment: how many operations, one after the other."""
    magnitude: Annotated[float, Interval(ge=0.0, le=10.0)] = 9.0
    """RandAugment: how strong they are, 0 to 10."""
    magnitude_std: Annotated[float, Ge(0.0)] = 0.0
    """RandAugment: deviation of the magnitude from operation to operation; infinity samples it uniformly from 0 to
    10."""
    interpolation: Interpolation = "bilinear"
    """How the policies resample rotated, sheared and translated images."""
    brightness: NonNegativeFloat = 0.0
    """Colour jitter: the largest deviation of the brightness factor from 1."""
    contrast: NonNegativeFloat = 0.0
    """Likewise for contrast."""
    saturation: NonNegativeFloat = 0.0
    """Likewise for saturation."""
    hue: Annotated[float, Interval(ge=0.0, le=0.5)] = 0.0
    """Colour jitter: the largest shift of the hue, as a fraction of the colour circle, at most 0.5."""
    erasing: Fraction = 0.0
    """Probability of random erasing (Zhong et al. 2020); 0.25 is usual for ImageNet."""
    erasing_fill: ErasingFill = "random"
    """What random erasing fills in: random values for each pixel, or mid-grey ("zeros")."""
    cutout: NoneOrMoreChannels = 0
    """Size of the square that cutout erases (DeVries & Taylor 2017), in pixels; the paper's is 16 for CIFAR-10."""

    def __post_init__(self):
        check_ranges(self)
        low, high = self.crop_scale
        if low > high or self.crop_ratio[0] > self.crop_ratio[1]:
            raise UserError(
                f"crop_scale and crop_ratio are two numbers each, the smaller first, not {self.crop_scale} and "
                f"{self.crop_ratio}"
            )
        if self.pad_crop and low < 1:
            raise UserError("pad_crop and crop_scale both crop: set pad_crop to 0 or crop_scale to (1, 1).")


def augment(images: Float[Array, "b h w c"], config: AugmentConfig, *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
    """Apply what ``config`` enables, in the usual order: crop, flip, policy, colour jitter, erasing, cutout.

    Args:
      images: values in [-1, 1]; the policies and colour jitter need three channels.
      config: static under jit.
      key: each part has its own subkey, so that enabling one does not change the others.

    Returns:
      images of the same shape and range.
    """
    crop_key, flip_key, policy_key, colour_key, erase_key, cutout_key = jax.random.split(key, 6)
    if config.pad_crop:
        images = pad_crop(images, config.pad_crop, mode=config.pad_mode, key=crop_key)
    if config.crop_scale[0] < 1:
        size = (images.shape[1], images.shape[2])
        images = random_resized_crop(images, size, scale=config.crop_scale, ratio=config.crop_ratio, key=crop_key)
    if config.flip:
        images = random_flip(images, key=flip_key)
    if config.policy == "randaugment":
        images = randaugment(
            images,
            operations=config.operations,
            magnitude=config.magnitude,
            magnitude_std=config.magnitude_std,
            interpolation=config.interpolation,
            key=policy_key,
        )
    if config.policy == "trivialaugment":
        images = trivialaugment(images, interpolation=config.interpolation, key=policy_key)
    jitter = {name: getattr(config, name) for name in ("brightness", "contrast", "saturation", "hue")}
    if any(jitter.values()):
        images = colour_jitter(images, **jitter, key=colour_key)
    if config.erasing:
        images = random_erasing(images, probability=config.erasing, fill=config.erasing_fill, key=erase_key)
    if config.cutout:
        images = cutout(images, config.cutout, key=cutout_key)
    return images


def random_flip(images: Float[Array, "b h w c"], *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
    """Flip each image horizontally with probability 0.5."""
    return _flip_where(images, jax.random.bernoulli(key, 0.5, images.shape[:1]))


def random_turn(images: Float[Array, "b s s c"], *, key: Key[Array, ""]) -> Float[Array, "b s s c"]:
    """One of the eight flips and quarter turns of a square, all equally likely, for each image."""
    rows, columns, exchanged = jax.random.bernoulli(key, 0.5, (3, images.shape[0]))
    images = _flip_where(images, columns)
    images = jnp.where(rows[:, None, None, None], images[:, ::-1], images)
    return jnp.where(exchanged[:, None, None, None], jnp.swapaxes(images, 1, 2), images)


def flipped(batch: Mapping[str, Array], *, key: Key[Array, ""]) -> dict[str, Array]:
    """The batch with "image" under :func:`random_flip`."""
    return {**batch, "image": random_flip(batch["image"], key=key)}


def alternating_flip(
    images: Float[Array, "b h w c"],
    sample: Int[Array, " b"],
    epoch: Int[Array, " #b"] | Int[Array, ""] | int,
    *,
    key: Key[Array, ""],
) -> Float[Array, "b h w c"]:
    """Flip each sample in every other epoch, half of the samples in the odd ones (Jordan 2024, section 3.2).

    In any two consecutive epochs the network sees each image and its flip once, while independent flips would show half
    of the samples the same version twice.

    Args:
      images: values of any range.
      sample: each image's index in the data set, the same in every epoch.
      epoch: from 0.
      key: decides which samples are flipped first; it must be the same throughout a run.
    """
    begins = jax.vmap(lambda number: jax.random.bernoulli(jax.random.fold_in(key, number)))(sample)
    return _flip_where(images, begins ^ (jnp.asarray(epoch) % 2 == 1))


def _flip_where(images: Array, chosen: Array) -> Array:
    return jnp.where(chosen[:, None, None, None], images[:, :, ::-1], images)
