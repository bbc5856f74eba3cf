"""Augmentation of images with their masks on the device: random scale, crop, flip and colour, aligned to the pixel.

A window of the scaled image is computed from the original in one step, by two products with a matrix per sample (see
``vision.ops.resize``), and of the mask by its nearest pixels at the same places. So masks never have mixed classes, and
images are antialiased. Shapes are static.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval
from jaxtyping import Array, Bool, Float, Int, Integer, Key

from vision.data.annotations.index_masks import VOID
from vision.data.augment.colour import colour_jitter
from vision.errors import UserError
from vision.ranges import Fraction, NonNegativeFloat, PositiveFloat, check_ranges


@dataclass(frozen=True)
class MaskAugmentConfig:
    """Augmentation of images and masks. The defaults are those of Chen et al. 2017, section 4.1."""

    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Smallest and largest factor by which an image is enlarged, uniform between the two; of the result a window of the
    size of the canvas is taken at random, or where it is smaller, it is put at random into the canvas."""
    flip: Fraction = 0.5
    """Probability of flipping left to right."""
    brightness: NonNegativeFloat = 0.0
    """Colour jitter: the largest deviation of the brightness factor from 1."""
    contrast: NonNegativeFloat = 0.0
    """Likewise for contrast."""
    saturation: NonNegativeFloat = 0.0
    """Likewise for saturation."""
    hue: Annotated[float, Interval(ge=0.0, le=0.5)] = 0.0
    """Colour jitter: the largest shift of the hue, as a fraction of the colour circle, at most 0.5."""

    def __post_init__(self):
        check_ranges(self)
        if self.scale[0] > self.scale[1]:
            raise UserError(f"augment.scale is two factors, the smaller first, not {self.scale[0]} {self.scale[1]}")


def mask_augment(
    sample: Mapping[str, Array],
    config: MaskAugmentConfig,
    *,
    size: tuple[int, int],
    fill: tuple[float, ...],
    key: Key[Array, ""],
) -> dict[str, Array]:
    """Apply what ``config`` enables: scale and crop, flip, colour.

    Args:
      sample: "image" float32 [b h w 3] in [-1, 1], "semantic" integers [b h w], and "size" int32 [b 2], the height and
        width of the part of the canvas that is an image.
      config: static under jit.
      size: height and width of the result.
      fill: what images have outside of themselves, one value a channel, in [-1, 1].
      key: one for the batch.

    Returns:
      "image" [b H W 3], clipped to [-1, 1], and "semantic" [b H W], void outside of images.
    """
    scale_key, place_key, flip_key, colour_key = jax.random.split(key, 4)
    count = len(sample["image"])
    scale = jax.random.uniform(scale_key, (count, 1), minval=config.scale[0], maxval=config.scale[1])
    room = jnp.round(sample["size"] * scale) - jnp.asarray(size)  # negative where the image is smaller
    place = jax.random.uniform(place_key, (count, 2))
    first = jnp.floor(place * (jnp.abs(room) + 1)) * jnp.sign(room)
    image, mask = scaled_window(
        sample["image"], sample["semantic"], sample["size"], scale=scale[:, 0], first=first, size=size, fill=fill
    )
    flips = jax.random.bernoulli(flip_key, config.flip, (count,))
    image = jnp.where(flips[:, None, None, None], image[:, :, ::-1], image)
    mask = jnp.where(flips[:, None, None], mask[:, :, ::-1], mask)
    jitter = {name: getattr(config, name) for name in ("brightness", "contrast", "saturation", "hue")}
    if any(jitter.values()):
        image = colour_jitter(image, **jitter, key=colour_key)
    return {"image": image, "semantic": mask}


def scaled_window(
    images: Float[Array, "b h w c"],
    masks: Integer[Array, "b h w"],
    sizes: Int[Array, "b 2"],
    *,
    scale: Float[Array, " b"],
    first: Float[Array, "b 2"],
    size: tuple[int, int],
    fill: tuple[float, ...],
) -> tuple[Float[Array, "b H W c"], Integer[Array, "b H W"]]:
    """Of each image and mask, enlarged by ``scale``, the window of ``size`` whose first pixel is ``first``.

    Args:
      images: values in [-1, 1].
      masks: of the same size.
      sizes: height and width of the part that is an image, from the upper left corner.
      scale: factor of each sample.
      first: row and column of the window in the enlarged image; whole numbers, negative ones outside of it.
      size: height and width of the window.
      fill: of images outside of themselves, one value a channel.

    Returns:
      images clipped to [-1, 1], bilinear with antialiasing; masks by nearest neighbour, `VOID` outside.
    """
    along = [
        _places(first[:, axis], scale, sizes[:, axis], length=images.shape[1 + axis], size=size[axis])
        for axis in (0, 1)
    ]
    rows, columns = (weights for weights, _, _ in along)
    precise = jax.lax.Precision.HIGHEST
    made = jnp.einsum("bhy,byxc->bhxc", rows, images, precision=precise)
    made = jnp.einsum("bwx,bhxc->bhwc", columns, made, precision=precise)
    inside = along[0][2][:, :, None] & along[1][2][:, None, :]
    made = jnp.where(inside[..., None], jnp.clip(made, -1.0, 1.0), jnp.asarray(fill))
    chosen = jnp.take_along_axis(masks, along[0][1][:, :, None], axis=1)
    chosen = jnp.take_along_axis(chosen, along[1][1][:, None, :], axis=2)
    return made, jnp.where(inside, chosen, jnp.asarray(VOID, masks.dtype))


def _places(
    first: Float[Array, " b"], scale: Float[Array, " b"], extent: Int[Array, " b"], *, length: int, size: int
) -> tuple[Float[Array, "b {size} {length}"], Int[Array, "b {size}"], Bool[Array, "b {size}"]]:
    """Along one axis: weights of the pixels of the image, the nearest one, and whether the place is in the image."""
    scale, extent = scale[:, None], extent[:, None].astype(jnp.float32)
    # the centre of a pixel of the window, in pixels of the image with its corner at 0
    centre = (first[:, None] + jnp.arange(size) + 0.5) / scale
    inside = (centre >= 0) & (centre < extent)
    nearest = jnp.clip(jnp.floor(centre), 0, extent - 1).astype(jnp.int32)
    pixel = jnp.arange(length)
    wide = jnp.maximum(1.0 / scale, 1.0)[..., None]
    near = jnp.maximum(1.0 - jnp.abs((pixel + 0.5 - centre[..., None]) / wide), 0.0)
    weights = jnp.where(pixel < extent[..., None], near, 0.0)
    total = weights.sum(-1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0), nearest, inside


def valid_region(sizes: Int[Array, "b 2"], *, height: int, width: int) -> Bool[Array, "b {height} {width}"]:
    """Which pixels of a canvas are of the image."""
    rows = jnp.arange(height)[None, :, None] < sizes[:, :1, None]
    return rows & (jnp.arange(width)[None, None, :] < sizes[:, 1:, None])
