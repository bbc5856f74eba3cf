"""Blocks of the detectors after YOLOv4: convolution with normalisation, cross-stage partial blocks, pyramid pooling.

Cross-stage partial networks: Wang et al. 2020, "CSPNet: A New Backbone that can Enhance Learning Capability of CNN".
Spatial pyramid pooling within a network: He et al. 2015 and Redmon & Farhadi 2018; here as a sequence of pools, since
two 5x5 maxima equal one of 9x9, and three equal one of 13x13.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from vision.nn.batch_norm import batch_norm
from vision.nn.convolution import Conv, PointwiseConv, convolve
from vision.nn.initializers import fan_in_uniform
from vision.nn.pooling import max_pool_5x5
from vision.nn.resample import space_to_depth
from vision.nn.window import Window

Norm = Callable[..., nn.Module]

# eps and 1 - momentum of the published networks
NORM_EPSILON = 1e-3
yolo_norm = partial(batch_norm, momentum=0.97, epsilon=NORM_EPSILON)


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
    norm: Norm = yolo_norm
    act: Callable[[Array], Array] = nn.silu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W channels"]:
        """Sides are divided by the stride, and rounded up."""
        if self.size == 1:
            features = PointwiseConv(self.channels, self.stride, dtype=self.dtype, name="conv")(features)
        elif self.size == 6:
            features = StemConv(self.channels, dtype=self.dtype, name="conv")(features)
        else:
            features = Conv(
                self.channels,
                self.size,
                self.stride,
                use_bias=False,
                winograd=train,
                kernel_init=fan_in_uniform,
                dtype=self.dtype,
                name="conv",
            )(features)
        return self.act(self.norm(train=train, dtype=self.dtype, name="norm")(features))


class Bottleneck(nn.Module):
    """1x1 and 3x3 convolution, with a residual connection (He et al. 2016) if ``shortcut``."""

    channels: int
    shortcut: bool = True
    conv: Callable[..., nn.Module] = ConvNormAct

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """``train`` is positional so that remat can treat it as static."""
        hidden: Any = self.conv(self.channels, name="reduce")(features, train=train)
        hidden = self.conv(self.channels, size=3, name="conv_3x3")(hidden, train=train)
        return features + hidden if self.shortcut else hidden


class CSPBlock(nn.Module):
    """Two halves of the channels: one through ``depth`` bottlenecks, the other around them; then mixed by a 1x1.

    It has three convolutions in addition to the bottlenecks, hence its name C3.
    """

    channels: int
    depth: int = 1
    shortcut: bool = True
    conv: Callable[..., nn.Module] = ConvNormAct
    remat: bool = False

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w channels"]:
        """The features of the same resolution."""
        half = self.channels // 2
        make = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck
        through: Any = self.conv(half, name="through")(features, train=train)
        for index in range(self.depth):
            through = make(half, self.shortcut, self.conv, name=f"block_{index}")(through, train)
        past = self.conv(half, name="past")(features, train=train)
        return self.conv(self.channels, name="mix")(jnp.concatenate([through, past], -1), train=train)


class PyramidPool(nn.Module):
    """Concatenated maxima over windows of 1, 5, 9 and 13 pixels (spatial pyramid pooling, fast form: SPPF)."""

    channels: int
    conv: Callable[..., nn.Module] = ConvNormAct

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w channels"]:
        """The features of the same resolution."""
        levels: list[Any] = [self.conv(features.shape[-1] // 2, name="reduce")(features, train=train)]
        for _ in range(3):
            levels.append(max_pool_5x5(levels[-1]))
        return self.conv(self.channels, name="mix")(jnp.concatenate(levels, -1), train=train)
