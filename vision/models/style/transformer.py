"""The network of Johnson et al. 2016 that paints in one style: "Perceptual Losses for Real-Time Style Transfer".

Two convolutions of stride 2, residual blocks, and back to full size (supplementary table 1). Instance normalisation
takes the place of batch normalisation (Ulyanov et al. 2016), and nearest-neighbour upsampling with a convolution that
of transposed convolutions, whose results have chequerboards (Odena et al. 2016).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.nn.convolution import Conv
from vision.nn.initializers import fan_in_uniform
from vision.nn.norms import InstanceNorm
from vision.nn.resample import upsample_nearest
from vision.ranges import Channels, Depth

MULTIPLE = 4
"""What sides of images must be multiples of."""


@dataclass(frozen=True)
class StyleTransformerConfig:
    """The architecture; the defaults are the paper's, 1.7 M parameters."""

    width: Channels = 32
    """Channels, at least 1, at full size; two and four times as many at a half and a quarter."""
    blocks: Depth = 5
    """Residual blocks at a quarter of the size, at least 1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters and the image stay float32."""


SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+/conv_1/convolution/kernel$", P(None, None, None, "tensor")),
    (r"block_\d+/conv_1/norm/(scale|bias)$", P("tensor")),
    (r"block_\d+/conv_2/convolution/kernel$", P(None, None, "tensor", None)),
)


class ConvNorm(nn.Module):
    """A convolution of the image continued by its mirror image, and instance normalisation."""

    channels: int
    size: int = 3
    strides: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b _ _ channels"]:
        """Convolve and normalise."""
        made = Conv(
            self.channels,
            self.size,
            self.strides,
            padding=0,
            use_bias=False,  # the normalisation has one
            kernel_init=fan_in_uniform,
            dtype=self.dtype,
            name="convolution",
        )(mirrored(features, self.size // 2))
        return InstanceNorm(dtype=self.dtype, name="norm")(made)


class Block(nn.Module):
    """Convolution, ReLU, convolution, added to the input (He et al. 2016, without the last ReLU)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Transform ``features``."""
        make = partial(ConvNorm, features.shape[-1], dtype=self.dtype)
        return features + make(name="conv_2")(nn.relu(make(name="conv_1")(features)))


class StyleTransformer(nn.Module):
    """Paint an image in the style that the network was trained for."""

    config: StyleTransformerConfig = StyleTransformerConfig()

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h w 3"]:
        """The painted images, float32 in (0, 1).

        Args:
          image: in [0, 1], with sides that are multiples of 4 and at least 16.
          train: without effect.
        """
        del train
        config = self.config
        make = partial(ConvNorm, dtype=jnp.dtype(config.dtype))
        hidden = (image.astype(jnp.float32) - 0.5) * 4.0
        hidden = nn.relu(make(config.width, 9, name="conv_1")(hidden))
        hidden = nn.relu(make(2 * config.width, strides=2, name="conv_2")(hidden))
        hidden = nn.relu(make(4 * config.width, strides=2, name="conv_3")(hidden))
        for index in range(config.blocks):
            hidden = Block(jnp.dtype(config.dtype), name=f"block_{index}")(hidden)
        hidden = nn.relu(make(2 * config.width, name="conv_4")(upsample_nearest(hidden)))
        hidden = nn.relu(make(config.width, name="conv_5")(upsample_nearest(hidden)))
        last = Conv(3, 9, padding=0, kernel_init=fan_in_uniform, name="conv_last")
        return nn.sigmoid(last(mirrored(hidden.astype(jnp.float32), 4)))


def mirrored(features: Float[Array, "b h w c"], margin: int) -> Float[Array, "b H W c"]:
    """Features continued by their mirror image, the border not repeated."""
    sides = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    return jnp.pad(features, sides, mode="reflect")
