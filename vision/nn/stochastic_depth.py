"""Stochastic depth (Huang et al. 2016): residual branches that are dropped at random during training."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def stochastic_depth(branch: Float[Array, "b *rest"], *, rate: float, key: PRNGKeyArray) -> Float[Array, "b *rest"]:
    """Set complete samples of a residual branch to zero with probability ``rate``, in [0, 1).

    Samples are independent, while the paper decides once per batch. Kept samples are divided by 1 - rate, so that the
    expectation is ``branch`` and evaluation needs no correction (the paper multiplies then, eq. 5).
    """
    shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
    survives = jax.random.bernoulli(key, 1.0 - rate, shape)
    return jnp.where(survives, branch / (1.0 - rate), 0.0).astype(branch.dtype)


def linear_rates(rate: float, blocks: int) -> tuple[float, ...]:
    """The rate of each of ``blocks`` blocks: rising linearly to ``rate`` at the last (Huang et al. 2016, eq. 4)."""
    # p_l = 1 - l / L (1 - p_L), here as rates 1 - p
    return tuple(rate * (index + 1) / blocks for index in range(blocks))
