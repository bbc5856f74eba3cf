"""Pooling: maxima as those of strided slices, and means over a grid, whose gradients are cheap on every backend.

The gradient of a window reduction is a select-and-scatter, which XLA runs on a CPU one window after another. Forward
and backward over [64, 31, 31, 64] on two cores: 77 ms by windows, 10 ms by a reshape and one maximum, 3.7 ms by slices;
the 3x3 pool of a ResNet over [8, 112, 112, 64]: 185 ms and 45 ms. Equal maxima share their gradient.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def max_pool_2x2(features: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Maxima of squares of 2x2 pixels: [b, h // 2, w // 2, c]; a last odd row or column is left out."""
    _, height, width, _ = features.shape
    features = features[:, : height // 2 * 2, : width // 2 * 2]
    rows = jnp.maximum(features[:, 0::2], features[:, 1::2])
    return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


def mean_pool_2x2(features: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Means of squares of 2x2 pixels: [b, h // 2, w // 2, c]; a last odd row or column is left out."""
    _, height, width, _ = features.shape
    features = features[:, : height // 2 * 2, : width // 2 * 2]
    rows = features[:, 0::2] + features[:, 1::2]
    return (rows[:, :, 0::2] + rows[:, :, 1::2]) * 0.25


def max_pool_3x3(features: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Maxima of 3x3 pixels around every other pixel: [b, ceil(h / 2), ceil(w / 2), c]; the border is -inf.

    PyTorch's max pooling with kernel 3, stride 2 and padding 1.
    """
    _, height, width, _ = features.shape
    # One before, and after as many as are needed for 2n + 1
    border = ((0, 0), (1, height % 2), (1, width % 2), (0, 0))
    features = jnp.pad(features, border, constant_values=-jnp.inf)
    rows = jnp.maximum(jnp.maximum(features[:, 0:-1:2], features[:, 1::2]), features[:, 2::2])
    return jnp.maximum(jnp.maximum(rows[:, :, 0:-1:2], rows[:, :, 1::2]), rows[:, :, 2::2])


def max_pool_5x5(features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Maxima of 5x5 pixels around every pixel; the border is -inf."""
    _, height, width, _ = features.shape
    features = jnp.pad(features, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=-jnp.inf)
    rows = functools.reduce(jnp.maximum, [features[:, i : i + height] for i in range(5)])
    return functools.reduce(jnp.maximum, [rows[:, :, j : j + width] for j in range(5)])


def average_pool_to(features: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Means over a grid of ``size`` (height, width), whatever the sides are: cells overlap where they do not divide.

    Cell i of H covers the rows from floor(i h / H) to ceil((i + 1) h / H), as in PyTorch's adaptive average pooling; a
    side smaller than the grid is repeated.
    """
    if features.shape[1:3] == size:
        return features
    rows, columns = (_cells(length, count) for length, count in zip(features.shape[1:3], size, strict=True))
    for product, weights in (("wx,byxc->bywc", columns), ("hy,bywc->bhwc", rows)):
        weights = jnp.asarray(weights, features.dtype)
        features = jnp.einsum(product, weights, features, precision=jax.lax.Precision.HIGHEST)
    return features


def _cells(length: int, count: int) -> Float[np.ndarray, "{count} {length}"]:
    """Weights of the means over ``count`` cells of a line."""
    cell, pixel = np.arange(count)[:, None], np.arange(length)
    inside = (pixel >= cell * length // count) & (pixel < -(-(cell + 1) * length // count))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)
