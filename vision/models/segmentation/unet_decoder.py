"""The expanding path of a U-Net: Ronneberger et al. 2015, on the features of any backbone.

From the coarsest features on, each step doubles the resolution, appends the backbone's features of that resolution, and
has two 3x3 convolutions, until the finest features of the backbone are used.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.models.segmentation.fcn import logits_of
from vision.models.segmentation.levels import Levels, last_level, numbers, size_of
from vision.nn.batch_norm import batch_norm
from vision.nn.conv_norm_act import ConvNormAct, Norm
from vision.nn.resample_bilinear import upsample_bilinear_to
from vision.ranges import Channels


@dataclass(frozen=True)
class UNetDecoderConfig:
    """Channels of the steps."""

    width: Channels = 256
    """Channels of the first step, at the second coarsest features, at least 1; each step has half of those of the one
    before."""
    narrowest: Channels = 16
    """Channels that no step falls below, at least 1."""
    remat: bool = False
    """Recompute the inside of the steps in the backward pass."""


class Step(nn.Module):
    """Upsample, concatenate, and twice 3x3 convolution, normalisation and ReLU."""

    channels: int
    norm: Norm = batch_norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, coarse: Float[Array, "b y x c"], fine: Float[Array, "b h w e"], train: bool
    ) -> Float[Array, "b h w channels"]:
        """Features of the finer resolution; ``train`` is positional so that remat can treat it as static."""
        conv = partial(ConvNormAct, self.channels, 3, norm=self.norm, dtype=self.dtype)
        hidden = jnp.concatenate([upsample_bilinear_to(coarse, size_of(fine)), fine], -1)
        hidden = conv(name="conv_1")(hidden, train=train)
        return conv(name="conv_2")(hidden, train=train)


class UNetDecoder(nn.Module):
    """Steps from the coarsest to the finest features of a backbone, and logits."""

    classes: int
    config: UNetDecoderConfig = UNetDecoderConfig()
    norm: Norm = batch_norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        """Logits in float32, of the resolution of the finest features."""
        config = self.config
        make = nn.remat(Step, static_argnums=(3,)) if config.remat else Step
        hidden = last_level(levels)
        for index, number in enumerate(reversed(numbers(levels)[:-1])):
            channels = max(config.width // 2**index, min(config.narrowest, config.width))
            step = make(channels, self.norm, self.dtype, name=f"step_{number}")
            hidden = step(hidden, levels[f"c{number}"], train)
        return logits_of(self.classes)(hidden)
