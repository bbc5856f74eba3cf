"""Noise of cameras: Gaussian, and Poisson as of counted photons; of each colour, or the same for all.

Images are in [0, 1], the results are not clipped.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from vision.ops.colour import greyscale


def gaussian_noise(
    images: Float[Array, "b h w c"], sigma: Float[Array, " b"], *, grey: Bool[Array, " b"], key: PRNGKeyArray
) -> Float[Array, "b h w c"]:
    """Add normal noise.

    Args:
      images: in [0, 1].
      sigma: the noise's deviation for each image, as a share of the range; papers give it in levels of 255.
      grey: whether all channels of an image get the same noise.
      key: random key.
    """
    batch, height, width, channels = images.shape
    # one more channel, so that colour noise does not depend on whether there is grey
    noise = jax.random.normal(key, (batch, height, width, channels + 1), images.dtype)
    noise = jnp.where(_each(grey), noise[..., channels:], noise[..., :channels])
    return images + _each(sigma) * noise


def poisson_noise(
    images: Float[Array, "b h w c"], scale: Float[Array, " b"], *, grey: Bool[Array, " b"], key: PRNGKeyArray
) -> Float[Array, "b h w c"]:
    """Add ``scale`` times the noise of counting photons, of which a pixel of value 1 has n on average.

    n is the number of different levels of the image of 8 bits, rounded up to a power of 2, as in Wang et al. 2021
    ("Real-ESRGAN"); grey noise is that of the image's luma.

    Args:
      images: in [0, 1].
      scale: factor of the noise for each image; 1 is that of counting.
      grey: whether all channels of an image get the same noise.
      key: random key.
    """
    colour_key, grey_key = jax.random.split(key)
    noise = _counting_noise(images, key=colour_key)
    luma = _counting_noise(greyscale(images), key=grey_key)
    return images + _each(scale) * jnp.where(_each(grey), luma, noise)


def _counting_noise(images: Array, *, key: PRNGKeyArray) -> Array:
    levels = jnp.round(jnp.clip(images, 0.0, 1.0) * 255.0)
    counts = jax.vmap(lambda levels: jnp.zeros(256).at[levels.reshape(-1).astype(jnp.int32)].set(1.0))(levels)
    photons = _each(2.0 ** jnp.ceil(jnp.log2(counts.sum(-1))))
    values = levels / 255.0
    return jax.random.poisson(key, values * photons).astype(images.dtype) / photons - values


def _each(number: Array) -> Array:
    return number[:, None, None, None]
