"""Blocks of the detectors after YOLOv4: cross-stage partial blocks, pyramid pooling.

Cross-stage partial networks: Wang et al. 2020, "CSPNet: A New Backbone that can Enhance Learning Capability of CNN".
Spatial pyramid pooling within a network: He et al. 2015 and Redmon & Farhadi 2018; here as a sequence of pools, since
two 5x5 maxima equal one of 9x9, and three equal one of 13x13.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.nn.batch_norm import batch_norm
from vision.nn.conv_norm_act import ConvNormAct
from vision.nn.initializers import fan_in_uniform
from vision.nn.pooling import max_pool_5x5

# eps and 1 - momentum of the published networks
NORM_EPSILON = 1e-3
yolo_norm = partial(batch_norm, momentum=0.97, epsilon=NORM_EPSILON)
yolo_conv = partial(ConvNormAct, norm=yolo_norm, act=nn.silu, kernel_init=fan_in_uniform)


class Bottleneck(nn.Module):
    """1x1 and 3x3 convolution, with a residual connection (He et al. 2016) if ``shortcut``."""

    channels: int
    shortcut: bool = True
    conv: Callable[..., nn.Module] = yolo_conv

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
    conv: Callable[..., nn.Module] = yolo_conv
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
    conv: Callable[..., nn.Module] = yolo_conv

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w channels"]:
        """The features of the same resolution."""
        levels: list[Any] = [self.conv(features.shape[-1] // 2, name="reduce")(features, train=train)]
        for _ in range(3):
            levels.append(max_pool_5x5(levels[-1]))
        return self.conv(self.channels, name="mix")(jnp.concatenate(levels, -1), train=train)
