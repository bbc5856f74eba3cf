"""Batch normalisation, with the defaults of the published networks."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

EPSILON = 1e-5


def batch_norm(
    *,
    train: bool,
    dtype: Any = jnp.float32,
    name: str | None = None,
    momentum: float = 0.9,
    epsilon: float = EPSILON,
    use_scale: bool = True,
    scale_init: Callable[..., Array] = nn.initializers.ones,
) -> nn.Module:
    """A batch normalisation layer (Ioffe & Szegedy 2015) of [b, h, w, c] over all but the last axis.

    The interface of the ``norm`` argument of convolutional networks: called with ``train``, ``dtype``, ``name`` and
    sometimes ``scale_init``, it returns a module. Statistics are float32 whatever ``dtype`` is. Under a jit over the
    global batch they are those of the global batch, with no axis name.

    Args:
      train: whether to normalise by the batch and to update the running statistics in the collection "batch_stats".
      dtype: type of the result.
      name: name of the module.
      momentum: share of the running statistics that is kept; PyTorch's momentum is one minus this.
      epsilon: added to the variance.
      use_scale: whether there is a learned scale.
      scale_init: its initializer.

    Running variances are those of the batch, with n and not n - 1 in the denominator as in PyTorch.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
        epsilon=epsilon,
        dtype=dtype,
        use_scale=use_scale,
        scale_init=scale_init,
        name=name,
    )
