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
      reference: the target image.
      value_range: the lowest and the highest value a pixel can have; it determines only the peak.

    Returns:
      float32. For equal images the result is infinity and the gradient is defined as zero.
    """
    return decibels(jnp.mean(jnp.square(image - reference), axis=(1, 2, 3)), value_range=value_range)


def decibels(error: Float[Array, " b"], *, value_range: tuple[float, float]) -> Float[Array, " b"]:
    """10 log10(range² / error) of mean squared errors; infinity, with a gradient of zero, where the error is 0."""
    equal = error == 0.0
    low, high = value_range
    ratio = -10.0 * jnp.log10(jnp.where(equal, 1.0, error) / (high - low) ** 2)
    return jnp.where(equal, jnp.inf, ratio)
