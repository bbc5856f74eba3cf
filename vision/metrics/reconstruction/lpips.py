"""LPIPS: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric".

The distance of two images in the features of a classifier: at each level features are divided by their norm over the
channels, and the squared differences, weighted channel by channel, are averaged over pixels and summed over levels.
The features are any function of images; ``vision.pretrained.lpips`` has those of the paper and reads the weights.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.errors import UserError

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""What images in [-1, 1] are normalised by: the mean and deviation of ImageNet, as rounded in the published code."""
_EPSILON = 1e-10

Features = Callable[[Float[Array, "b h w 3"]], Sequence[Float[Array, "b _ _ _"]]]
"""Images normalised by ``SHIFT`` and ``SCALE`` -> the features of each level, the finest first."""


def lpips(
    image: Float[Array, "b h w 3"],
    reference: Float[Array, "b h w 3"],
    *,
    features: Features,
    weights: Sequence[Float[Array | np.ndarray, " _"]],
) -> Float[Array, " b"]:
    """The distance of each pair of images, 0 for equal ones, not negative where no weight is.

    Args:
      image: RGB in [-1, 1].
      reference: what it is compared to.
      features: the network.
      weights: for each level a weight for each channel.

    Raises:
      UserError: there are not as many weights as there are features.
    """
    levels = [features(_normalised(each)) for each in (image, reference)]
    widths = [level.shape[-1] for level in levels[0]]
    if widths != [len(weight) for weight in weights]:
        raise UserError(
            f"LPIPS of features with {', '.join(map(str, widths))} channels needs as many weights, and got "
            f"{', '.join(str(len(weight)) for weight in weights)}: choose the weights of this network"
        )
    # Zhang et al. 2018, eq. 1
    terms = [
        jnp.mean(jnp.square(_unit(one) - _unit(other)) @ weight, axis=(1, 2))
        for one, other, weight in zip(*levels, weights, strict=True)
    ]
    return sum(terms, jnp.zeros(len(image)))


def _normalised(images: Array) -> Array:
    return (images - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)


def _unit(features: Array) -> Array:
    squares = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    # the root's derivative at 0, where all features are, is infinite
    some = squares > 0.0
    norm = jnp.where(some, jnp.sqrt(jnp.where(some, squares, 1.0)), 0.0)
    return features / (norm + _EPSILON)
