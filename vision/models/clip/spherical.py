"""Embeddings as directions: interpolation on the sphere, and differences of texts (Ramesh et al. 2022, section 3).

    between = slerp(one, other, 0.5)                              of two images, figure 4
    changed = towards(image, text_difference(now, before), 0.3)   of an image by two texts, figure 5

An embedding of any length is a direction and a length; the direction is what CLIP compares.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.models.clip.clip import normalised

_SMALL = 1e-4
"""Radians: below, the arc is the chord in float32."""
_LEAST = 1e-12


def slerp(
    start: Float[Array, "*b e"], end: Float[Array, "*b e"], share: Float[Array, "*#b"] | float
) -> Float[Array, "*b e"]:
    """Spherical interpolation (Shoemake 1985): the shortest arc between directions, at constant speed.

    Lengths are interpolated linearly. Opposite directions have no shortest arc: the result goes through one of them.

    Args:
      start: where ``share`` is 0.
      end: where it is 1.
      share: in [0, 1]; one number, or one for each vector.
    """
    share = jnp.asarray(share, jnp.float32)[..., None]
    one, other = normalised(start), normalised(end)
    # twice the half angle by its tangent, exact for near and for opposite directions where an arc cosine is neither
    gap, total = (jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (one - other, one + other))
    angle = 2.0 * jnp.arctan2(gap, total)
    near = angle < _SMALL
    safe = jnp.where(near, 1.0, angle)
    sine = jnp.maximum(jnp.sin(safe), _LEAST)
    first = jnp.where(near, 1.0 - share, jnp.sin((1.0 - share) * safe) / sine)
    second = jnp.where(near, share, jnp.sin(share * safe) / sine)
    length = lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True)
    return normalised(first * one + second * other) * ((1.0 - share) * length(start) + share * length(end))


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
