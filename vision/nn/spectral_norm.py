"""Spectral normalisation: layers whose kernel is divided by its largest singular value.

Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks". The singular value is estimated by
power iteration, whose vector u is kept in the collection "spectral" and updated by one step at each application with
``train``; the kernel changes slowly, so that one step is enough. The kernel of a convolution [h w c n] is treated as
the matrix [h * w * c, n], as in the paper: the result bounds the norm of the matrix, not that of the convolution
itself.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vision.nn.convolution import convolve
from vision.nn.dense import add_bias, multiply
from vision.nn.window import Window
from vision.parallel.gathering import on_every_device

# Keeps the division defined where a kernel is zero.
_SMALLEST = 1e-12


def power_iteration(
    matrix: Float[Array, "n m"], vector: Float[Array, " m"]
) -> tuple[Float[Array, ""], Float[Array, " m"]]:
    """One step towards the largest singular value: (estimate, the next vector).

    Miyato et al. 2018, algorithm 1, with the kernel transposed (inputs first, as in Flax). Gradients pass through the
    estimate as if the singular vectors were constants, which is the exact derivative where they have converged.

    Args:
      matrix: float32, the kernel.
      vector: current estimate of the right singular vector, of length one.
    """
    fixed = jax.lax.stop_gradient(matrix)
    # cheaper than what devices would exchange if each did a part
    left = on_every_device(_unit(fixed @ vector))
    right = on_every_device(_unit(left @ fixed))
    # algorithm 1: sigma = u^T W v
    return jnp.einsum("n,nm,m->", left, matrix, right), right


def _unit(vector: Float[Array, " m"]) -> Float[Array, " m"]:
    return vector / (jnp.linalg.norm(vector) + _SMALLEST)


def normalised_kernel(module: nn.Module, kernel: Float[Array, "... m"], *, train: bool) -> Float[Array, "... m"]:
    """``kernel`` divided by its largest singular value, as ``module``'s variable "u" in "spectral" estimates it.

    Args:
      module: the layer, bound, inside a compact method.
      kernel: float32, outputs last.
      train: whether to keep the vector after the step; the collection must then be mutable.
    """
    start = lambda: _unit(jax.random.normal(module.make_rng("params"), (kernel.shape[-1],)))
    vector = module.variable("spectral", "u", start)
    sigma, moved = power_iteration(kernel.reshape(-1, kernel.shape[-1]), vector.value)
    if train and not module.is_initializing():
        vector.value = moved
    return on_every_device(kernel / (sigma + _SMALLEST))


class SpectralConv(nn.Module):
    """A convolution with zero padding whose kernel, where ``spectral``, is divided by its spectral norm.

    With a stride of 1 the sides are kept, with 2 they are halved. Without ``spectral`` it is an ordinary convolution,
    so that a network can have both forms.
    """

    channels: int
    size: int = 3
    strides: int = 1
    spectral: bool = True
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.glorot_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W channels"]:
        """Convolve."""
        inputs = features.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, inputs, self.channels))
        if self.spectral:
            kernel = normalised_kernel(self, kernel, train=train)
        features = features.astype(self.dtype)
        if self.size == 1 and self.strides == 1:
            # as one product of matrices, see vision/nn/convolution.py
            made = multiply(features.reshape(-1, inputs), kernel[0, 0]).reshape(*features.shape[:-1], self.channels)
        else:
            # equal padding before and after the image where stride 2 halves an even side
            before, total = (self.size - 1) // 2, self.size - self.strides
            border = (before, max(total, before) - before) if self.strides > 1 else (before, self.size - 1 - before)
            how = Window(strides=(self.strides, self.strides), padding=(border, border), winograd=True)
            made = convolve(features, kernel, how)
        if self.use_bias:
            made = add_bias(made, self.param("bias", nn.initializers.zeros, (self.channels,)))
        return made


class SpectralDense(nn.Module):
    """A dense layer whose kernel, where ``spectral``, is divided by its spectral norm."""

    features: int
    spectral: bool = True
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.glorot_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, inputs: Float[Array, "... n"], *, train: bool) -> Float[Array, "... features"]:
        """Multiply."""
        kernel = self.param("kernel", self.kernel_init, (inputs.shape[-1], self.features))
        if self.spectral:
            kernel = normalised_kernel(self, kernel, train=train)
        made = multiply(inputs.astype(self.dtype), kernel)
        if self.use_bias:
            made = add_bias(made, self.param("bias", nn.initializers.zeros, (self.features,)))
        return made


class SpectralEmbed(nn.Module):
    """A vector for each class; the table, where ``spectral``, is divided by its spectral norm."""

    classes: int
    features: int
    spectral: bool = True
    embedding_init: Callable[..., Array] = nn.initializers.glorot_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, label: Int[Array, " b"], *, train: bool) -> Float[Array, "b features"]:
        """Look up; labels are in [0, classes)."""
        table = self.param("embedding", self.embedding_init, (self.classes, self.features))
        if self.spectral:
            table = normalised_kernel(self, table, train=train)
        return table[label].astype(self.dtype)
