"""Erasing rectangles of images: random erasing and cutout."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

ErasingFill = Literal["random", "zeros"]

# Rectangles sampled for each image, of which the first that fits is erased.
_ATTEMPTS = 10


def random_erasing(
    images: Float[Array, "b h w c"],
    *,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
    fill: ErasingFill = "random",
    key: Key[Array, ""],
) -> Float[Array, "b h w c"]:
    """Fill a random rectangle of some of the images (Zhong et al. 2020, algorithm 1).

    Args:
      images: values in [-1, 1].
      probability: that an image is changed. An image is left unchanged if none of ten rectangles fits.
      area: smallest and largest share of the image, sampled uniformly; the defaults are the paper's.
      ratio: smallest and largest height over width, sampled uniformly, as in the paper (not in its logarithm).
      fill: "random" (the paper's best): uniform values from [-1, 1] for each pixel and channel; "zeros": mid-grey.
      key: one for the batch.
    """
    batch, height, width, _ = images.shape
    coin_key, area_key, ratio_key, place_key, fill_key = jax.random.split(key, 5)
    share = jax.random.uniform(area_key, (batch, _ATTEMPTS), minval=area[0], maxval=area[1])
    ratios = jax.random.uniform(ratio_key, (batch, _ATTEMPTS), minval=ratio[0], maxval=ratio[1])
    tall = jnp.round(jnp.sqrt(share * height * width * ratios)).astype(jnp.int32)
    wide = jnp.round(jnp.sqrt(share * height * width / ratios)).astype(jnp.int32)
    fits = (tall <= height) & (wide <= width)
    first = jnp.argmax(fits, axis=1)[:, None]
    extent = jnp.concatenate([jnp.take_along_axis(of, first, axis=1) for of in (tall, wide)], axis=1)
    chosen = jax.random.bernoulli(coin_key, probability, (batch, 1)) & jnp.any(fits, axis=1, keepdims=True)
    extent = jnp.where(chosen, extent, 0)
    corner = jax.random.randint(place_key, (batch, 2), 0, jnp.array([height, width]) - extent + 1)
    new = jax.random.uniform(fill_key, images.shape, minval=-1.0) if fill == "random" else 0.0
    return jnp.where(rectangle(corner, corner + extent, height, width), new, images)


def cutout(images: Float[Array, "b h w c"], side: int, *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
    """Set a square of ``side`` pixels of every image to mid-grey (DeVries & Taylor 2017, section 3.2).

    Its centre is any pixel with equal probability, so that it may lie partly outside the image. The value is 0, the
    middle of [-1, 1].
    """
    batch, height, width, _ = images.shape
    corner = jax.random.randint(key, (batch, 2), 0, jnp.array([height, width])) - side // 2
    return jnp.where(rectangle(corner, corner + side, height, width), 0.0, images)


def rectangle(
    start: Int[Array, "b 2"], stop: Int[Array, "b 2"], height: int, width: int
) -> Bool[Array, "b {height} {width} 1"]:
    """Which pixels are in each sample's rectangle from ``start`` up to, but without, ``stop`` (row, column)."""
    row, column = jnp.arange(height), jnp.arange(width)
    rows = (row >= start[:, :1]) & (row < stop[:, :1])
    columns = (column >= start[:, 1:]) & (column < stop[:, 1:])
    return (rows[:, :, None] & columns[:, None, :])[..., None]
