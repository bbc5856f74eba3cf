"""Dense layers, whose gradients are float32 in whatever type they compute."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.nn.bilinear import Operations, Shape, bilinear
from vision.parallel.gathering import over_samples


def _forward(left: Array, right: Array, /, *, shape: Shape, dtype: Any, how: None) -> Array:
    """F(x, k): [... c] and [c n...] to [... n...]."""
    del shape, how
    return jax.lax.dot_general(left, right, (((left.ndim - 1,), (0,)), ((), ()))).astype(dtype)


def _to_features(left: Array, right: Array, /, *, shape: Shape, dtype: Any, how: None) -> Array:
    """D(y, k): [... n...] and [c n...] to [... c]."""
    del how
    own, of_kernel = tuple(range(len(shape) - 1, left.ndim)), tuple(range(1, right.ndim))
    return jax.lax.dot_general(left, right, ((own, of_kernel), ((), ()))).astype(dtype)


def _to_kernel(left: Array, right: Array, /, *, shape: Shape, dtype: Any, how: None) -> Array:
    """W(x, y): [... c] and [... n...] to [c n...], accumulated and given in ``dtype``."""
    del shape, how
    lead = tuple(range(left.ndim - 1))
    return jax.lax.dot_general(left, right, ((lead, lead), ((), ())), preferred_element_type=dtype)


_dense = bilinear("dense", Operations(_forward, _to_features, _to_kernel))


def multiply(features: Float[Array, "... c"], kernel: Float[Array | np.ndarray, "c ..."]) -> Float[Array, "..."]:
    """[..., c] times [c, n, ...] is [..., n, ...], in the type of the features.

    The gradient of the kernel leaves the product in the type of the kernel: a sum over devices is float32 where the
    parameters are, also where the products are bfloat16.
    """
    kernel = jnp.asarray(kernel)  # of variables from a file
    if features.dtype == kernel.dtype:
        made = jax.lax.dot_general(features, kernel, (((features.ndim - 1,), (0,)), ((), ())))
    else:
        samples = features if features.ndim > 1 else features[None]
        made = _dense(samples, kernel, shape=(*samples.shape[:-1], *kernel.shape[1:]), how=None)
        made = made if features.ndim > 1 else made[0]
    return over_samples(made) if features.ndim > 1 else made


def add_bias(features: Float[Array, "... c"], bias: Float[Array | np.ndarray, "..."]) -> Float[Array, "... c"]:
    """The sum, in the type of the features; it is made in the type of the bias, in which its gradient is summed."""
    return (features.astype(bias.dtype) + bias).astype(features.dtype)


class Dense(nn.Module):
    """``nn.Dense``, or ``nn.DenseGeneral`` where there are several axes of results; parameters have their names."""

    features: int | tuple[int, ...]
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Array] = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "... c"]) -> Float[Array, "..."]:
        """Multiply by "kernel" [c features], and add "bias"."""
        inputs = features.shape[-1]
        axes = (self.features,) if isinstance(self.features, int) else self.features
        flat = lambda key, shape: self.kernel_init(key, (inputs, math.prod(axes))).reshape(shape)
        made = multiply(features.astype(self.dtype), self.param("kernel", flat, (inputs, *axes)))
        if self.use_bias:
            made = add_bias(made, self.param("bias", self.bias_init, axes))
        return made
