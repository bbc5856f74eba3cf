"""Edits of an image's embedding by the difference of two texts (Ramesh et al. 2022, section 3.3).

    changed = towards(image, text_difference(now, before), 0.3)   figure 5

An embedding of any length is a direction and a length; the direction is what CLIP compares.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.ops.spherical import normalised, slerp


def text_difference(text: Float[Array, "*b e"], reference: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
    """The direction from one text to another, of length 1: what an edit of an image goes towards."""
    return normalised(normalised(text) - normalised(reference))


def towards(
    image: Float[Array, "*b e"], difference: Float[Array, "*b e"], share: Float[Array, "*#b"] | float
) -> Float[Array, "*b e"]:
    """An image's embedding turned towards the difference of two texts; its length stays.

    Ramesh et al. 2022, section 3.3, take shares up to 0.25 or 0.5, and the noise that an image was inverted to.
    """
    length = jnp.linalg.norm(image, axis=-1, keepdims=True)
    return slerp(image, normalised(difference) * length, share)
