"""Colour jitter: random changes of brightness, contrast, saturation and hue, independent for each sample."""

import jax
from jaxtyping import Array, Float, Key

from vision.ops import colour


def colour_jitter(
    images: Float[Array, "b h w 3"],
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    key: Key[Array, ""],
) -> Float[Array, "b h w 3"]:
    """Change brightness, contrast, saturation and hue at random, in this order.

    The order is fixed, while Howard 2013 and torchvision choose it at random: a program with a different order for
    every sample would compute each change several times.

    Args:
      images: values in [-1, 1].
      brightness: the factor is sampled uniformly from [max(0, 1 - brightness), 1 + brightness]; 0 disables this.
      contrast: likewise.
      saturation: likewise.
      hue: the shift is sampled uniformly from [-hue, hue], as a fraction of the colour circle.
      key: one for the batch.
    """
    keys = jax.random.split(key, 4)
    draw = lambda key, low, high: jax.random.uniform(key, images.shape[:1], minval=low, maxval=high)
    changes = ((colour.brightness, brightness), (colour.contrast, contrast), (colour.saturation, saturation))
    for (change, strength), own in zip(changes, keys[:3], strict=True):
        if strength:
            images = change(images, draw(own, max(0.0, 1.0 - strength), 1.0 + strength))
    return colour.hue(images, draw(keys[3], -hue, hue)) if hue else images
