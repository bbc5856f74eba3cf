"""Layers that keep the magnitude of activations (Karras et al. 2024, arXiv:2312.02696, "EDM2").

The magnitude of a vector is its root mean square. Where the inputs of a layer have the magnitude 1, and what is added
or concatenated is uncorrelated, its outputs have the magnitude 1 too, at initialisation and throughout training: no
activation grows, no layer needs a normalisation of groups, and a learning rate means the same relative change of every
weight. The layers have no biases; a network that needs one gets a channel of ones as an input.

Weights are parameters called "weight", outputs last. Every use divides them by their magnitude over the inputs of each
output, and :func:`normalised_weights` does the same to the parameters after each step of the optimizer ("forced weight
normalization", algorithm 1), without which a weight grows with the gradients that are orthogonal to it, and its
effective learning rate falls.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from vision.nn.convolution import convolve
from vision.nn.dense import multiply
from vision.nn.window import Window
from vision.parallel.sharding import path_name

EPSILON = 1e-4
"""Keeps divisions by magnitudes defined (algorithm 1)."""

_SILU = 0.596
"""The magnitude of SiLU of a standard normal variable."""


def mp_silu(features: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """SiLU divided by the magnitude that it has for standard normal features."""
    return nn.silu(features) / _SILU


def mp_sum(one: Float[Array, "*any"], other: Float[Array, "*any"], share: float) -> Float[Array, "*any"]:
    """(1 - share) one + share other, divided by the magnitude that this has for uncorrelated features of magnitude 1.

    ``share`` is in [0, 1]; the arrays have one shape.
    """
    return ((1.0 - share) * one + share * other) / math.hypot(1.0 - share, share)


def mp_concatenated(one: Float[Array, "... a"], other: Float[Array, "... b"], share: float) -> Float[Array, "... c"]:
    """Channels of both, weighted so that ``other`` has ``share`` of the influence, whatever the channels are.

    For features of magnitude 1 the result has magnitude 1; ``share`` is in [0, 1].
    """
    first, second = one.shape[-1], other.shape[-1]
    scale = math.sqrt((first + second) / ((1.0 - share) ** 2 + share**2))
    return jnp.concatenate(
        [one * (scale * (1.0 - share) / math.sqrt(first)), other * (scale * share / math.sqrt(second))], axis=-1
    )


def pixel_normalised(features: Float[Array, "... c"]) -> Float[Array, "... c"]:
    """Features divided by their magnitude over the last axis, pixel by pixel; computed in float32, of the same type."""
    # Karras et al. 2018, section 4.2: b = a / sqrt(mean of a^2 + epsilon)
    wide = features.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + EPSILON)
    return (wide * scale).astype(features.dtype)


def mp_fourier(values: Num[Array, " b"], width: int) -> Float[Array, "b width"]:
    """sqrt(2) cos(2 pi (f value + phase)) for ``width`` random frequencies and phases, which are the same ever after.

    Frequencies are standard normal, as fits values of about unit magnitude such as log(sigma) / 4. Float32.
    """
    random = np.random.default_rng(0)
    frequency, phase = random.normal(size=width), random.uniform(size=width)
    angle = values.astype(jnp.float32)[:, None] * (2.0 * np.pi * frequency).astype(np.float32)
    return math.sqrt(2.0) * jnp.cos(angle + (2.0 * np.pi * phase).astype(np.float32))


def normalised(weight: Float[Array, "... n"]) -> Float[Array, "... n"]:
    """A weight whose magnitude over the inputs of each of its ``n`` outputs is 1; inputs are all axes but the last."""
    # algorithm 1: w / (epsilon + |w| / sqrt(N)), with N inputs
    magnitude = jnp.sqrt(jnp.mean(jnp.square(weight), axis=tuple(range(weight.ndim - 1)), keepdims=True))
    return weight / (magnitude + EPSILON)


def normalised_weights(params: Any) -> Any:
    """``params`` with every "weight" normalised; others, as gains, stay as they are.

    For ``vision.train.step.projected``, which applies it after each step of the optimizer.
    """
    is_weight = lambda path: path_name(path).split("/")[-1] == "weight"
    return jax.tree_util.tree_map_with_path(lambda path, leaf: normalised(leaf) if is_weight(path) else leaf, params)


class MPDense(nn.Module):
    """A dense layer without a bias that keeps magnitudes."""

    features: int
    gain: bool = False
    """Multiply by a learned number that starts at 0, for what is to be learned from nothing."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "... c"]) -> Float[Array, "... n"]:
        """Multiply by the normalised "weight" [c features], and by "gain"."""
        kernel = _kernel(self, (features.shape[-1], self.features), gain=self.gain)
        flat = features.astype(self.dtype).reshape(-1, features.shape[-1])  # one product, see PointwiseConv
        return multiply(flat, kernel).reshape(*features.shape[:-1], self.features)


class MPConv(nn.Module):
    """A convolution with zero padding and without a bias that keeps sides and magnitudes."""

    channels: int
    size: int = 3
    """Side of the window, odd."""
    gain: bool = False
    """Multiply by a learned number that starts at 0."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w channels"]:
        """Convolve with the normalised "weight" [size size c channels], and multiply by "gain"."""
        kernel = _kernel(self, (self.size, self.size, features.shape[-1], self.channels), gain=self.gain)
        margin = (self.size // 2, self.size // 2)
        return convolve(features.astype(self.dtype), kernel, Window(padding=(margin, margin), winograd=True))


def _kernel(module: nn.Module, shape: tuple[int, ...], *, gain: bool) -> Float[Array, "... n"]:
    """What inputs are multiplied with: a normalised weight over sqrt(inputs), which keeps the magnitude of noise."""
    weight = module.param("weight", nn.initializers.normal(1.0), shape)
    # algorithm 1
    kernel = normalised(weight) / math.sqrt(math.prod(shape[:-1]))
    return kernel * module.param("gain", nn.initializers.zeros, ()) if gain else kernel
