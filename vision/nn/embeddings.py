"""Embeddings of scalars: the sinusoidal and the Fourier code of a diffusion time."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Num


def sinusoidal_embedding(
    time: Num[Array, " b"], width: int, *, longest: float = 10_000.0, shift: float = 1.0
) -> Float[Array, "b width"]:
    """Encode ``time`` (float or integer, in steps) by sines and cosines of geometric frequencies.

    Vaswani et al. 2017, section 3.5, in the form of Ho et al. 2020: the first half are sines, the second half
    cosines, of ``time * longest ** (-i / (width / 2 - shift))``. ``width`` is even and at least 4, ``shift`` in [0, 1].
    Values in [-1, 1], float32.
    """
    half = width // 2
    frequency = jnp.exp(-jnp.log(longest) * jnp.arange(half, dtype=jnp.float32) / (half - shift))
    angle = time.astype(jnp.float32)[:, None] * frequency[None, :]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def fourier_embedding(values: Float[Array, " b"], frequencies: Float[Array, " n"]) -> Float[Array, "b m"]:
    """N sines, then n cosines, of ``2 pi values * frequencies``: m = 2 n numbers in [-1, 1] (Tancik et al. 2020)."""
    angle = values[:, None] * frequencies[None, :] * 2.0 * jnp.pi
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
