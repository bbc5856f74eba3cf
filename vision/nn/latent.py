"""Latents with Gaussian distributions: densities, divergences, and the result of inference."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Inferred(NamedTuple):
    """The output of a latent-variable model for images, for one sample z of each latent from q(z|x)."""

    outputs: Array
    """Parameters of p(x|z), float32 [b h w p]."""
    kl: Array
    """KL(q(z|x) || p(z)) in closed form, of each dimension or group, float32 [b g] in nats."""
    log_ratio: Array
    """log q(z|x) - log p(z) of the sample, float32 [b] in nats; its expectation is the sum of ``kl``."""
    code: Array
    """The sampled latent."""


def gaussian_kl(
    mean: Float[Array, "*shape"],
    log_variance: Float[Array, "*shape"],
    prior_mean: Float[Array, "*shape"] | float = 0.0,
    prior_log_variance: Float[Array, "*shape"] | float = 0.0,
) -> Float[Array, "*shape"]:
    """KL(N(mean, exp(log_variance)) || N(prior_mean, exp(prior_log_variance))) of each dimension, in nats.

    With the defaults, Kingma & Welling 2014, appendix B.
    """
    spread = jnp.exp(log_variance - prior_log_variance)
    distance = jnp.square(mean - prior_mean) * jnp.exp(-jnp.asarray(prior_log_variance))
    return 0.5 * (spread + distance - 1.0 + prior_log_variance - log_variance)


def gaussian_log_density(
    value: Float[Array, "*shape"], mean: Float[Array, "*shape"] | float, log_variance: Float[Array, "*shape"] | float
) -> Float[Array, "*shape"]:
    """The log density N(value; mean, exp(log_variance)) of each dimension, in nats."""
    scaled = jnp.square(value - mean) * jnp.exp(-jnp.asarray(log_variance))
    return -0.5 * (math.log(2.0 * math.pi) + log_variance + scaled)


def standard_normal(
    shape: tuple[int, ...], *, key: Key[Array, ""], index: Int[Array, " b"] | None = None
) -> Float[Array, "b ..."]:
    """N(0, 1) of a shape [b ...]; row i is a function of (key, index[i]) alone, by default of (key, i)."""
    rows = jnp.arange(shape[0]) if index is None else index
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:]))(keys)
