"""Convolutions: as XLA computes them on accelerators, and in the fastest form for the shape and direction on CPUs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.nn import cpu_convolution, window
from vision.nn.bilinear import Operations, bilinear
from vision.nn.dense import add_bias, multiply
from vision.nn.initializers import fan_in_uniform
from vision.nn.window import Pair, Window, xla_convolution
from vision.parallel.gathering import over_samples, sharing_mesh
from vision.platform import platform

_convolution = bilinear(
    "convolution",
    Operations(window.forward, window.to_features, window.to_kernel),
    cpu=Operations(cpu_convolution.forward, cpu_convolution.to_features, cpu_convolution.to_kernel),
    gpu=Operations(window.forward, window.to_features, window.gpu_to_kernel),
)


def convolve(
    features: Float[Array, "b h w c"], kernel: Float[Array | np.ndarray, "kh kw e n"], how: Window
) -> Float[Array, "b H W n"]:
    """Convolve [b, h, w, c] with ``n`` kernels of e = c / groups channels each, in the type of the features.

    The gradient of the kernel leaves its convolution in the type of the kernel: give a parameter as it is, float32, and
    its gradient is summed over devices in float32 also where features are bfloat16.

    Gradients of any order, forward mode, ``vmap`` and ``remat`` work, and each gradient has its own fastest form on
    CPUs (``cpu_convolution``). Elsewhere it is XLA's convolution; in groups with a gradient of the kernel that is right
    on every mesh (``window.to_kernel``).

    Raises:
      ValueError: the channels do not fit, or the window is larger than the image.
    """
    kernel = jnp.asarray(kernel)  # of variables from a file
    each, outputs = kernel.shape[2:]
    if features.shape[-1] != each * how.groups or outputs % how.groups:
        raise ValueError(
            f"a kernel {kernel.shape} in {how.groups} groups does not fit features of {features.shape[-1]} channels"
        )
    wider = kernel.dtype != features.dtype
    if platform() != "cpu" and how.groups == 1 and not wider:
        return over_samples(xla_convolution(features, kernel, how))
    if platform() == "gpu" and wider:
        how = dataclasses.replace(how, mesh=sharing_mesh())
    shape = how.result_shape(features.shape, kernel.shape)
    if min(shape[1:3]) < 1:
        raise ValueError(f"a kernel {kernel.shape} is larger than features {features.shape} with their padding")
    return over_samples(_convolution(features, kernel, shape=shape, how=how))


class Conv(nn.Module):
    """``nn.Conv`` of two dimensions by :func:`convolve`; the parameters have its names and shapes."""

    channels: int
    size: int | Pair = 3
    strides: int = 1
    padding: int | str | tuple[Pair, Pair] | None = None
    """Pixels of zeros on every side, "SAME" or "VALID"; by default those that keep the sides with odd sizes."""
    dilation: int = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Array] = nn.initializers.zeros
    winograd: bool = False
    """See ``Window.winograd``: for networks that are not compared with published figures to more than four digits."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b H W channels"]:
        """Convolve with "kernel" [kh kw c/groups channels], and add "bias"."""
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        shape = (*size, features.shape[-1] // self.groups, self.channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        pair = lambda number: (number, number)
        how = Window(
            strides=pair(self.strides),
            padding=self._margins((features.shape[1], features.shape[2]), size),
            dilation=pair(self.dilation),
            groups=self.groups,
            winograd=self.winograd,
        )
        made = convolve(features.astype(self.dtype), kernel, how)
        if self.use_bias:
            made = add_bias(made, self.param("bias", self.bias_init, (self.channels,)))
        return made

    def _margins(self, sides: Pair, size: Pair) -> tuple[Pair, Pair]:
        if isinstance(self.padding, str):
            reach = tuple((each - 1) * self.dilation + 1 for each in size)
            first, second = jax.lax.padtype_to_pads(sides, reach, (self.strides,) * 2, self.padding)
            return (first[0], first[1]), (second[0], second[1])
        if isinstance(self.padding, tuple):
            return self.padding
        first, second = ((each - 1) * self.dilation // 2 if self.padding is None else self.padding for each in size)
        return (first, first), (second, second)


class PointwiseConv(nn.Module):
    """``nn.Conv`` with a kernel of 1x1 and no padding; the parameters have its names and shapes.

    XLA computes a 1x1 convolution on CPUs with its code for windows. Forward and backward over [8, 56, 56, 64] to 256
    channels take 74 ms on two cores with it, and 18 ms as one product over all pixels; over [16, 40, 40, 64] to 32, 7.0
    and 2.5 ms.
    """

    channels: int
    strides: int = 1
    use_bias: bool = False
    kernel_init: Callable[..., Array] = fan_in_uniform
    bias_init: Callable[..., Array] = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b H W channels"]:
        """The "kernel" [1 1 c channels] times every pixel of every ``strides``-th row and column, plus "bias"."""
        features = features[:, :: self.strides, :: self.strides].astype(self.dtype)
        batch, height, width, inputs = features.shape
        kernel = self.param("kernel", self.kernel_init, (1, 1, inputs, self.channels))
        # one matrix of all pixels: with separate axes XLA computes a product for each image, several times as slow
        made = multiply(features.reshape(-1, inputs), kernel[0, 0])
        if self.use_bias:
            made = add_bias(made, self.param("bias", self.bias_init, (self.channels,)))
        return made.reshape(batch, height, width, self.channels)
