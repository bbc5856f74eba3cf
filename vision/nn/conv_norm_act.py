"""Convolution, normalisation, activation: the unit of detectors and of decoders for dense prediction."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from vision.nn.batch_norm import batch_norm
from vision.nn.convolution import Conv, PointwiseConv, convolve
from vision.nn.initializers import fan_in_uniform, he_fan_out
from vision.nn.resample import space_to_depth
from vision.nn.window import Window

Norm = Callable[..., nn.Module]


class StemConv(nn.Module):
    """A convolution of 6x6 with stride 2 and padding 2 without bias, as one of 3x3 over squares of 2x2 pixels.

    The sums are the same: each pixel (i, j) of a square becomes separate channels. Few channels on wide maps are slow
    everywhere; on two CPU cores forward and backward take 0.8 of the time.
    """

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b H W channels"]:
        """Halves the sides, which are even; the parameter is "kernel" [6 6 c channels]."""
        kernel = self.param("kernel", fan_in_uniform, (6, 6, image.shape[-1], self.channels))
        squares = rearrange(kernel, "(h p) (w q) c d -> h w (p q c) d", p=2, q=2)
        around = Window(padding=((1, 1), (1, 1)))
        return convolve(space_to_depth(image, 2).astype(self.dtype), squares, around)


class ConvNormAct(nn.Module):
    """Convolution without bias, normalisation, activation; "conv" and "norm" are its parts."""

    channels: int
    size: int = 1
    """Size of the kernel: odd, or 6 for a stem of stride 2."""
    stride: int = 1
    dilation: int = 1
    """Distance between two values of the kernel, in pixels; of kernels of 3 and more that are odd."""
    groups: int = 1
    """Groups of channels that are convolved separately; likewise."""
    norm: Norm = batch_norm
    act: Callable[[Array], Array] = nn.relu
    kernel_init: Callable[..., Array] = he_fan_out
    """Initializer of the kernel, except of a stem's."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W channels"]:
        """Sides are divided by the stride, and rounded up."""
        how: dict[str, Any] = {"dtype": self.dtype, "name": "conv"}
        if self.size == 6:
            features = StemConv(self.channels, **how)(features)
        elif self.size == 1:
            features = PointwiseConv(self.channels, self.stride, kernel_init=self.kernel_init, **how)(features)
        else:
            how |= {"dilation": self.dilation, "groups": self.groups, "kernel_init": self.kernel_init}
            features = Conv(self.channels, self.size, self.stride, use_bias=False, winograd=train, **how)(features)
        return self.act(self.norm(train=train, dtype=self.dtype, name="norm")(features))


class SeparableConvNormAct(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution, each with normalisation and activation (Chen et al. 2018, section 3.2)."""

    channels: int
    dilation: int = 1
    """Of the depthwise convolution."""
    norm: Norm = batch_norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w channels"]:
        """Features of the same resolution; the parts are "depthwise" and "pointwise"."""
        inputs = features.shape[-1]
        how: dict[str, Any] = {"norm": self.norm, "dtype": self.dtype}
        depthwise = ConvNormAct(inputs, 3, dilation=self.dilation, groups=inputs, name="depthwise", **how)
        return ConvNormAct(self.channels, name="pointwise", **how)(depthwise(features, train=train), train=train)
