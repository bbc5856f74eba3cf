"""RRDB: Wang et al. 2018, "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (arXiv:1809.00219).

Residual-in-residual dense blocks at the resolution of the small image, which is then enlarged four times. For scales of
2 and 1 the image is first folded, squares of pixels into channels, by 2 and 4 (Wang et al. 2021, "Real-ESRGAN").
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
from vision.nn.resample import space_to_depth, upsample_nearest
from vision.ranges import Channels, Depth, PositiveFraction


@dataclass(frozen=True)
class RrdbConfig:
    """The architecture of ESRGAN's generator. The defaults are the published one."""

    scale: Literal[1, 2, 4] = 4
    """How many times as long the sides become. Below 4, images need sides that are multiples of 4 / scale."""
    blocks: Depth = 23
    """Residual-in-residual dense blocks, at least 1."""
    width: Channels = 64
    """Channels of the features, at least 1."""
    growth: Channels = 32
    """Channels that each convolution of a dense block adds, at least 1."""
    residual_scale: PositiveFraction = 0.2
    """Factor of residual branches, in (0, 1]."""
    channels: Channels = 3
    """Channels of the image, at least 1."""
    remat: bool = False
    """Recompute the inside of dense blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters and the result are float32."""


RRDB = RrdbConfig()

SHARDING_RULES: tuple[tuple[str, P], ...] = ((r"conv_[1-5]/kernel$", P(None, None, None, "tensor")),)

# Wang et al. 2018, section 3.2: He et al. 2015 with a tenth of the deviation
smaller = nn.initializers.variance_scaling(0.02, "fan_in", "normal")


def activation(features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """A ReLU that keeps a fifth of what is negative."""
    return nn.leaky_relu(features, 0.2)


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and the results of all before it."""

    growth: int
    scale: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Transform ``features``."""
        conv = partial(Conv, kernel_init=smaller, dtype=self.dtype)
        seen = features
        for number in range(1, 5):
            seen = jnp.concatenate([seen, activation(conv(self.growth, name=f"conv_{number}")(seen))], axis=-1)
        return features + self.scale * conv(features.shape[-1], name="conv_5")(seen)


class Rrdb(nn.Module):
    """Enlarge an image."""

    config: RrdbConfig = RrdbConfig()

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W c"]:
        """The enlarged images, float32 of about [0, 1].

        Args:
          image: in [0, 1].
          train: without effect.

        Raises:
          UserError: sides that are no multiples of 4 / scale.
        """
        del train
        config = self.config
        dtype = jnp.dtype(config.dtype)
        conv = partial(Conv, kernel_init=fan_in_uniform, dtype=dtype)
        make = nn.remat(DenseBlock) if config.remat else DenseBlock
        folded = image if config.scale == 4 else space_to_depth(image, 4 // config.scale)
        first = conv(config.width, name="conv_first")(folded)
        hidden = first
        for index in range(config.blocks):
            before = hidden
            for number in range(1, 4):
                name = f"block_{index}_dense_{number}"
                hidden = make(config.growth, config.residual_scale, dtype, name=name)(hidden)
            hidden = before + config.residual_scale * hidden
        hidden = first + conv(config.width, name="conv_after")(hidden)
        for name in ("conv_up_1", "conv_up_2"):
            hidden = activation(conv(config.width, name=name)(upsample_nearest(hidden)))
        hidden = activation(conv(config.width, name="conv_fine")(hidden))
        return conv(config.channels, name="conv_last")(hidden).astype(jnp.float32)
