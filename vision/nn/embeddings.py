"""Embeddings of scalars: the sinusoidal code of a diffusion time."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num


def sinusoidal_embedding(time: Num[Array, " b"], width: int, *, longest: float = 10_000.0) -> Float[Array, "b width"]:
    """Encode ``time`` (float or integer, in steps) by sines and cosines of geometric frequencies.

    Vaswani et al. 2017, section 3.5, in the form of Ho et al. 2020: the first half are sines, the second half
    cosines, of ``time * longest ** (-i / (width / 2 - 1))``. ``width`` is even and at least 4. Values in [-1, 1],
    float32.
    """
    half = width // 2
    frequency = jnp.exp(-jnp.log(longest) * jnp.arange(half, dtype=jnp.float32) / (half - 1))
    angle = time.astype(jnp.float32)[:, None] * frequency[None, :]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
