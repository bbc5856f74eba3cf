"""The head of a fully convolutional network: Long et al. 2015, in the form of torchvision's weights.

It is a decoder by itself, and the auxiliary head of others (Zhao et al. 2017, "Pyramid Scene Parsing Network", section
3.3), on features of a stage before the last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.nn.batch_norm import batch_norm
from vision.nn.conv_norm_act import ConvNormAct, Norm
from vision.nn.convolution import PointwiseConv
from vision.ranges import DropRate, NoneOrMoreChannels


@dataclass(frozen=True)
class FcnConfig:
    """A 3x3 convolution of the last features, and a 1x1 to logits."""

    width: NoneOrMoreChannels = 0
    """Channels between the two convolutions; 0 for a quarter of the features'."""
    dropout: DropRate = 0.1
    """Probability, in [0, 1), of dropping a value between them in training."""


class FcnHead(nn.Module):
    """3x3 convolution, normalisation, ReLU, dropout, 1x1 convolution to logits."""

    classes: int
    config: FcnConfig = FcnConfig()
    norm: Norm = batch_norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w classes"]:
        """Logits in float32, of the same resolution."""
        width = self.config.width or max(features.shape[-1] // 4, 1)
        mix = ConvNormAct(width, 3, norm=self.norm, dtype=self.dtype, name="mix")
        hidden = nn.Dropout(self.config.dropout)(mix(features, train=train), deterministic=not train)
        return logits_of(self.classes)(hidden)


def logits_of(classes: int) -> Callable[[Array], Array]:
    """The last layer of all decoders, "logits": a 1x1 convolution with bias, in float32."""
    return PointwiseConv(classes, use_bias=True, name="logits")
