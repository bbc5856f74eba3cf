"""Augmentation that gradients pass through, for discriminators (Zhao et al. 2020, DiffAugment).

Real and generated images are augmented alike before the discriminator sees them, and gradients reach the generator
through the augmentation. Each part changes each image independently with a probability, the same for all parts, which
may be traced: at 1 it is Zhao et al.'s method; Karras et al. 2020 adapt it to the discriminator. Values outside [-1, 1]
are kept.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vision.ops.windows import windows

Part = Callable[..., Array]
"""(images [b h w c], key=...) -> images, each changed at random."""


def brightness(images: Float[Array, "b h w c"], *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
    """Add a number within [-0.5, 0.5) to each image, at most a quarter of the range of pixels."""
    return images + jax.random.uniform(key, (images.shape[0], 1, 1, 1), minval=-0.5, maxval=0.5)


def saturation(images: Float[Array, "b h w c"], *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
    """Multiply the deviation of each pixel's channels from their mean by a factor within [0, 2); grey stays grey."""
    mean = images.mean(axis=3, keepdims=True)
    return mean + (images - mean) * jax.random.uniform(key, (images.shape[0], 1, 1, 1), maxval=2.0)


def contrast(images: Float[Array, "b h w c"], *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
    """Multiply the deviation of all values from the image's mean by a factor within [0.5, 1.5)."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (images - mean) * jax.random.uniform(key, (images.shape[0], 1, 1, 1), minval=0.5, maxval=1.5)


def translation(
    images: Float[Array, "b h w c"], *, key: Key[Array, ""], share: float = 0.125
) -> Float[Array, "b h w c"]:
    """Translate each image by whole pixels, at most ``share`` of its sides; uncovered pixels become mid-grey (0)."""
    height, width = images.shape[1:3]
    down, right = round(height * share), round(width * share)
    border = ((0, 0), (down, down), (right, right), (0, 0))
    padded = jnp.pad(images, border)
    corner = lambda key: jax.random.randint(key, (2,), 0, jnp.array([2 * down + 1, 2 * right + 1]))
    return windows(padded, jax.vmap(corner)(jax.random.split(key, images.shape[0])), (height, width))


def cutout(images: Float[Array, "b h w c"], *, key: Key[Array, ""], share: float = 0.5) -> Float[Array, "b h w c"]:
    """Set a rectangle with ``share`` of each side to mid-grey (0), centred on any pixel, possibly partly outside."""
    batch, height, width, _ = images.shape
    tall, wide = round(height * share), round(width * share)
    row_key, column_key = jax.random.split(key)

    def inside(key: Array, count: int, length: int) -> Array:
        start = jax.random.randint(key, (batch, 1), 0, count) - length // 2
        place = jnp.arange(count)
        return (place >= start) & (place < start + length)

    rows, columns = inside(row_key, height, tall), inside(column_key, width, wide)
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], 0.0, images)


COLOUR: tuple[Part, ...] = (brightness, saturation, contrast)
"""Zhao et al.'s "color"."""


def differentiable_augment(
    images: Float[Array, "b h w c"],
    parts: Sequence[Part],
    *,
    key: Key[Array, ""],
    probability: Float[Array, ""] | float = 1.0,
) -> Float[Array, "b h w c"]:
    """Apply ``parts`` in order, each to each image with ``probability``.

    Args:
      images: values around [-1, 1].
      parts: the changes.
      key: each part has its own subkey.
      probability: of each change of each image, may be traced.
    """
    for index, part in enumerate(parts):
        coin_key, part_key = jax.random.split(jax.random.fold_in(key, index))
        chosen = jax.random.bernoulli(coin_key, probability, (images.shape[0], 1, 1, 1))
        images = jnp.where(chosen, part(images, key=part_key), images)
    return images
