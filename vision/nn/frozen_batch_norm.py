"""Batch normalisation whose statistics, scale and bias are all fixed, for detectors that train on few images a step."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.nn.batch_norm import EPSILON


class FrozenBatchNorm(nn.Module):
    """An affine function of each channel by four fixed vectors (He et al. 2017, section 3.1, after He et al. 2016).

    "mean", "var", "scale" and "bias" are in the collection "batch_stats" and not parameters: no optimizer, no weight
    decay and no count of parameters sees them. Initially it is the identity, up to ``epsilon``.
    """

    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """(x - mean) / sqrt(var + epsilon) * scale + bias."""
        fixed = lambda name, value: self.variable("batch_stats", name, value, features.shape[-1], jnp.float32).value
        scale, bias = fixed("scale", jnp.ones), fixed("bias", jnp.zeros)
        mean, variance = fixed("mean", jnp.zeros), fixed("var", jnp.ones)
        multiplier = jax.lax.rsqrt(variance + self.epsilon) * scale
        return (features.astype(jnp.float32) * multiplier + (bias - mean * multiplier)).astype(self.dtype)


def frozen_batch_norm(
    *, train: bool, dtype: Any = jnp.float32, name: str | None = None, epsilon: float = EPSILON, **how: Any
) -> nn.Module:
    """The ``norm`` argument of a network with fixed normalisations (see ``nn/batch_norm.py``); the same in training.

    A ``scale_init`` is ignored: a branch that begins with a fixed scale of 0 would stay 0.
    """
    del train, how
    return FrozenBatchNorm(epsilon=epsilon, dtype=dtype, name=name)
