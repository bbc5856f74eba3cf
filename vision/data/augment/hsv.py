"""Random changes of hue, saturation and value, independent for each image: the colour jitter of detectors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vision.ops.colour import hsv_to_rgb, rgb_to_hsv


def hsv_jitter(
    images: Float[Array, "b h w 3"],
    *,
    hue: float = 0.0,
    saturation: float = 0.0,
    value: float = 0.0,
    key: Key[Array, ""],
) -> Float[Array, "b h w 3"]:
    """Multiply hue, saturation and value by factors sampled uniformly from [1 - gain, 1 + gain]; see :func:`scale_hsv`.

    Args:
      images: values in [-1, 1].
      hue: the gain of the hue, at most 1. The hue is a number in [0, 1) here, so that reds, on both sides of 0, move
        apart.
      saturation: the gain of the saturation, at most 1.
      value: the gain of the value, at most 1.
      key: one for the batch; each of the three draws from its own.
    """
    gains = (hue, saturation, value)
    if not any(gains):
        return images
    keys = jax.random.split(key, 3)
    draws = [jax.random.uniform(own, images.shape[:1], minval=-1.0) for own in keys]
    return scale_hsv(images, 1.0 + jnp.stack(draws, axis=-1) * jnp.asarray(gains))


def scale_hsv(images: Float[Array, "b h w 3"], factors: Float[Array, "b 3"]) -> Float[Array, "b h w 3"]:
    """Multiply hue, saturation and value by each image's ``factors``; the hue wraps around, the others stop at 1.

    Args:
      images: values in [-1, 1].
      factors: not negative.

    Returns:
      values in [-1, 1].
    """
    hsv = rgb_to_hsv((images + 1.0) / 2.0)
    # Channel by channel, which is twice as fast on CPUs as a product with all three
    hue, saturation, value = (hsv[..., k] * factors[:, k, None, None] for k in range(3))
    scaled = jnp.stack([hue, jnp.minimum(saturation, 1.0), jnp.minimum(value, 1.0)], axis=-1)
    return 2.0 * hsv_to_rgb(scaled) - 1.0
