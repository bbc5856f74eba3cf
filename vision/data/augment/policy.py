"""RandAugment and TrivialAugment: random operations of geometry and colour, independent for each sample.

Both sample from the fourteen operations of Cubuk et al. 2020, with the ranges of AutoAugment or wider ones. On a device
all samples run one program, so an operation is computed for the whole batch and kept where it was chosen. The five
geometric operations share one warp, with a matrix for each sample, the four enhancements one blend with a reference for
each sample, and the pointwise ones are fused. On a CPU that is twice as fast as computing each operation separately,
and as exact: each layer applies exactly the operation that was chosen.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vision.ops import colour
from vision.ops.geometry import Interpolation, affine_warp, rotation, shear, translation

Operation = Literal[
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
"""The operations of Cubuk et al. 2020, figure 2; the index is the number that a sample chooses."""


@dataclass(frozen=True)
class Ranges:
    """The effect of an operation at full strength; at strength 0 it does nothing.

    The defaults are those of AutoAugment (Cubuk et al. 2019, table 6), whose images have 331x331 pixels.
    """

    shear: float = 0.3
    """Pixels of shift for each pixel away from the edge."""
    translate_share: float = 150 / 331
    """Shift as a share of the image's side."""
    translate_pixels: float = 0.0
    """Shift in pixels, added to ``translate_share``."""
    rotate: float = 30.0
    """Angle in degrees."""
    enhance: float = 0.9
    """Deviation of the factor of brightness, saturation, contrast and sharpness from 1, up or down."""
    posterize: int = 4
    """Bits that are left."""


WIDE = Ranges(shear=0.99, translate_share=0.0, translate_pixels=32.0, rotate=135.0, enhance=0.99, posterize=2)
"""The wide augmentation space of Müller & Hutter 2021, appendix, as in their code and in torchvision."""


def apply_operation(
    images: Float[Array, "b h w 3"],
    operation: Int[Array, " b"],
    strength: Float[Array, " b"],
    *,
    ranges: Ranges = Ranges(),
    interpolation: Interpolation = "bilinear",
) -> Float[Array, "b h w 3"]:
    """Apply to each image the operation of its index.

    Args:
      images: values in [-1, 1].
      operation: indices into `OPERATIONS`.
      strength: in [-1, 1]. The sign is the direction of geometric operations and factors; posterize and solarize use
        the absolute value; identity, autocontrast and equalize ignore it. Operations are thus stronger with a larger
        absolute value (timm's "increasing"); in AutoAugment's table some are weaker.
      ranges: what strength 1 means.
      interpolation: of the geometric operations; uncovered pixels become mid-grey.
    """
    is_one_of = lambda *names: jnp.isin(operation, jnp.array([OPERATIONS.index(name) for name in names]))[
        :, None, None, None
    ]
    size = jnp.abs(strength)
    out = affine_warp(images, _matrices(operation, strength, images.shape, ranges), interpolation=interpolation)
    reference = jnp.where(is_one_of("brightness"), -1.0, colour.smooth(images))
    reference = jnp.where(is_one_of("contrast"), colour.mean_luma(images), reference)
    reference = jnp.where(is_one_of("saturation"), colour.greyscale(images), reference)
    enhanced = colour.blend(reference, images, 1.0 + ranges.enhance * strength)
    out = jnp.where(is_one_of("brightness", "saturation", "contrast", "sharpness"), enhanced, out)
    bits = 8.0 - jnp.round(size * (8 - ranges.posterize))
    out = jnp.where(is_one_of("posterize"), colour.posterize(images, bits), out)
    out = jnp.where(is_one_of("solarize"), colour.solarize(images, 256.0 * (1.0 - size)), out)
    out = jnp.where(is_one_of("autocontrast"), colour.autocontrast(images), out)
    return jnp.where(is_one_of("equalize"), colour.equalize(images), out)


def _matrices(operation: Array, strength: Array, shape: tuple[int, ...], ranges: Ranges) -> Array:
    """The warp of each sample [b 2 3], which is the identity for the operations of colour."""
    amount = lambda name, full: jnp.where(operation == OPERATIONS.index(name), full * strength, 0.0)
    _, height, width, _ = shape
    down, right = (ranges.translate_share * side + ranges.translate_pixels for side in (height, width))
    sheared = shear(amount("shear_y", ranges.shear), amount("shear_x", ranges.shear))
    translated = translation(amount("translate_y", down), amount("translate_x", right))
    rotated = rotation(amount("rotate", ranges.rotate), height, width)
    # A sample has at most one of them, the other two are the identity: the sum of deviations from it is the chosen one
    return sheared + translated + rotated - 2.0 * translation(jnp.zeros_like(strength), jnp.zeros_like(strength))


def randaugment(
    images: Float[Array, "b h w 3"],
    *,
    operations: int = 2,
    magnitude: float = 9.0,
    magnitude_std: float = 0.0,
    full_magnitude: float = 10.0,
    interpolation: Interpolation = "bilinear",
    key: Key[Array, ""],
) -> Float[Array, "b h w 3"]:
    """RandAugment (Cubuk et al. 2020): a few operations in sequence, all equally likely, of one magnitude.

    Args:
      images: values in [-1, 1].
      operations: how many, the paper's N; an operation may be repeated.
      magnitude: the paper's M, from 0 to ``full_magnitude``.
      magnitude_std: each operation's magnitude is sampled from a normal distribution around ``magnitude`` with this
        standard deviation and clipped to the range, as with timm's ``mstd``; infinity samples it uniformly from the
        range.
      full_magnitude: the magnitude of full strength: 10 in the paper, 30 in torchvision.
      interpolation: of the geometric operations.
      key: one for the batch.
    """
    batch = images.shape[0]
    for own in jax.random.split(key, operations):
        operation_key, magnitude_key, sign_key = jax.random.split(own, 3)
        operation = jax.random.randint(operation_key, (batch,), 0, len(OPERATIONS))
        if magnitude_std == float("inf"):
            sampled_magnitude = jax.random.uniform(magnitude_key, (batch,), maxval=full_magnitude)
        else:
            sampled_magnitude = magnitude + magnitude_std * jax.random.normal(magnitude_key, (batch,))
        strength = jnp.clip(sampled_magnitude / full_magnitude, 0.0, 1.0) * jax.random.rademacher(sign_key, (batch,))
        images = apply_operation(images, operation, strength, interpolation=interpolation)
    return images


def trivialaugment(
    images: Float[Array, "b h w 3"],
    *,
    ranges: Ranges = WIDE,
    interpolation: Interpolation = "bilinear",
    key: Key[Array, ""],
) -> Float[Array, "b h w 3"]:
    """TrivialAugment (Müller & Hutter 2021, section 3): one operation, of a strength from {0, 1, ..., 30} / 30.

    Args:
      images: values in [-1, 1].
      ranges: the effects at full strength; `WIDE`, or ``Ranges()`` for those of RandAugment.
      interpolation: of the geometric operations.
      key: one for the batch; operation, strength and its sign are sampled uniformly for each sample.
    """
    batch = images.shape[0]
    operation_key, strength_key, sign_key = jax.random.split(key, 3)
    operation = jax.random.randint(operation_key, (batch,), 0, len(OPERATIONS))
    strength = jax.random.randint(strength_key, (batch,), 0, 31) / 30.0 * jax.random.rademacher(sign_key, (batch,))
    return apply_operation(images, operation, strength, ranges=ranges, interpolation=interpolation)
