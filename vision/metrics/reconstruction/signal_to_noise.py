"""Peak signal-to-noise ratio: the squared error of an image, in decibels below the largest possible one."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def peak_signal_to_noise(
    image: Float[Array, "b h w c"],
    reference: Float[Array, "b h w c"],
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Float[Array, " b"]:
    """10 log10(range² / mean squared error) of each image in decibels, the mean over all pixels and channels.

    Args:
      image: float32 in ``value_range``; round it to levels first where files are to be compared.
      reference: what it should be.
      value_range: the lowest and the highest value a pixel can have; it changes nothing but the peak.

    Returns:
      float32. Equal images have infinity, and there the gradient is taken to be zero.
    """
    error = jnp.mean(jnp.square(image - reference), axis=(1, 2, 3))
    equal = error == 0.0
    low, high = value_range
    decibels = -10.0 * jnp.log10(jnp.where(equal, 1.0, error) / (high - low) ** 2)
    return jnp.where(equal, jnp.inf, decibels)
