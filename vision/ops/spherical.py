"""Directions: vectors of length 1, and interpolation along great circles."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_SMALL = 1e-4
"""Radians: below, the arc is the chord in float32."""
_LEAST = 1e-12


def normalised(embedding: Float[Array | np.ndarray, "*b e"]) -> Float[Array, "*b e"]:
    """Vectors of length 1; one of zeros stays so, and its gradient is finite."""
    embedding = jnp.asarray(embedding)
    square = jnp.sum(jnp.square(embedding), axis=-1, keepdims=True)
    return embedding * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def slerp(
    start: Float[Array | np.ndarray, "*#b e"],
    end: Float[Array | np.ndarray, "*#b e"],
    share: Float[Array | np.ndarray, "*#b"] | float,
) -> Float[Array, "*b e"]:
    """Spherical interpolation (Shoemake 1985): the shortest arc between directions, at constant speed.

    Of the latents of generators White 2016, section 2.1: it keeps their length likely.

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
