"""EDSR: Lim et al. 2017, "Enhanced Deep Residual Networks for Single Image Super-Resolution" (arXiv:1707.02921)."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.models.restoration.scales import PixelShuffleUpsampling, Scale, mean_of
from vision.nn.convolution import Conv
from vision.nn.initializers import fan_in_uniform
from vision.ranges import Channels, Depth, PositiveFraction

LEVELS = 255.0
"""The features are in units of levels: published weights take images of 0 to 255."""


@dataclass(frozen=True)
class EdsrConfig:
    """The architecture of an EDSR. The defaults are the baseline model, twice as large."""

    scale: Scale = 2
    """How many times as long the sides become; 1 leaves out the upsampling."""
    blocks: Depth = 16
    """Residual blocks, at least 1."""
    width: Channels = 64
    """Channels of the features, at least 1."""
    residual_scale: PositiveFraction = 1.0
    """Factor of residual branches, in (0, 1]; 0.1 keeps the training of the large model stable (section 3.3)."""
    channels: Channels = 3
    """Channels of the image, at least 1; of 3 the mean of DIV2K is subtracted."""
    remat: bool = False
    """Recompute the inside of blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters and the result are float32."""


# Lim et al. 2017, table 1
EDSR_BASELINE = EdsrConfig()
EDSR_LARGE = EdsrConfig(blocks=32, width=256, residual_scale=0.1)

SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+/conv_1/kernel$", P(None, None, None, "tensor")),
    (r"block_\d+/conv_1/bias$", P("tensor")),
    (r"block_\d+/conv_2/kernel$", P(None, None, "tensor", None)),
)


class Block(nn.Module):
    """Convolution, ReLU, convolution, added to the input; no normalisation (figure 2)."""

    scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Transform ``features``."""
        conv = partial(Conv, features.shape[-1], kernel_init=fan_in_uniform, dtype=self.dtype)
        hidden = conv(name="conv_2")(nn.relu(conv(name="conv_1")(features)))
        return features + (hidden if self.scale == 1.0 else hidden * self.scale)


class Edsr(nn.Module):
    """Enlarge an image."""

    config: EdsrConfig = EdsrConfig()

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W c"]:
        """The enlarged images, float32 of about [0, 1].

        Args:
          image: in [0, 1].
          train: without effect.
        """
        del train
        config = self.config
        dtype = jnp.dtype(config.dtype)
        conv = partial(Conv, kernel_init=fan_in_uniform, dtype=dtype)
        make = nn.remat(Block) if config.remat else Block
        mean = mean_of(config.channels)
        first = conv(config.width, name="conv_first")((image - mean) * LEVELS)
        hidden = first
        for index in range(config.blocks):
            hidden = make(config.residual_scale, dtype, name=f"block_{index}")(hidden)
        hidden = first + conv(config.width, name="conv_after")(hidden)
        hidden = PixelShuffleUpsampling(config.scale, dtype, name="upsampling")(hidden)
        return conv(config.channels, name="conv_last")(hidden).astype(jnp.float32) / LEVELS + mean
