"""SwinIR: Liang et al. 2021, "SwinIR: Image Restoration Using Swin Transformer" (arXiv:2108.10257).

Residual groups of Swin blocks, each group ended by a convolution. Images of any size are continued by reflection to
multiples of the window, and what was added is cut off the result.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.models.restoration.scales import PixelShuffleUpsampling, Scale, mean_of
from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.nn.initializers import fan_in_uniform
from vision.nn.resample import depth_to_space
from vision.nn.shifted_windows import WindowAttention, small
from vision.nn.stochastic_depth import stochastic_depth
from vision.ranges import Channels, Depth, DropRate, Pixels, PositiveInt

LayerNorm = partial(nn.LayerNorm, epsilon=1e-5)


@dataclass(frozen=True)
class SwinIrConfig:
    """The architecture of a SwinIR. The defaults are the medium-sized one for classical super-resolution."""

    scale: Scale = 2
    """How many times as long the sides become."""
    upsampling: Literal["shuffle", "shuffle direct", "none"] = "shuffle"
    """"shuffle": convolutions of ``feature_width`` channels; "shuffle direct": one convolution to the pixels, of the
    light model; "none": the image plus what the network finds, for denoising and JPEG artifacts (scale 1)."""
    width: Channels = 180
    """Channels of the features, at least 1; a multiple of the heads."""
    depths: Annotated[tuple[Depth, ...], MinLen(1)] = (6, 6, 6, 6, 6, 6)
    """Swin blocks of each group, at least 1."""
    heads: Depth = 6
    """Heads of attention, at least 1."""
    window: Pixels = 8
    """Sides of the windows, at least 2; 7 for JPEG artifacts."""
    expansion: PositiveInt = 2
    """Hidden features of the dense layers, in multiples of the width, at least 1."""
    stochastic_depth: DropRate = 0.1
    """Probability, in [0, 1), of dropping the last residual branch in training; linearly lower for earlier ones."""
    feature_width: Channels = 64
    """Channels at the higher resolution, for "shuffle"."""
    channels: Channels = 3
    """Channels of the image, at least 1; of 3 the mean of DIV2K is subtracted."""
    remat: bool = False
    """Recompute the inside of Swin blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters, normalisation and the result are float32."""


# Liang et al. 2021, section 4.1 and 4.2
SWINIR_MEDIUM = SwinIrConfig()
SWINIR_LIGHT = SwinIrConfig(upsampling="shuffle direct", width=60, depths=(6, 6, 6, 6))
SWINIR_DENOISING = SwinIrConfig(scale=1, upsampling="none")

SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+/dense_in/kernel$", P(None, "tensor")),
    (r"block_\d+/dense_in/bias$", P("tensor")),
    (r"block_\d+/dense_out/kernel$", P("tensor", None)),
)


class Block(nn.Module):
    """LayerNorm, attention in windows, LayerNorm, two dense layers; both parts are added to the input (figure 2)."""

    heads: int
    window: int
    shift: int
    expansion: int
    drop: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """Transform ``features``; ``train`` is positional so that remat can treat it as static."""
        width = features.shape[-1]
        dense = partial(Dense, kernel_init=small, dtype=self.dtype)
        hidden = LayerNorm(dtype=self.dtype, name="norm_attention")(features)
        attention = WindowAttention(self.heads, self.window, self.shift, self.dtype, name="attention")
        features = features + self._dropped(attention(hidden), train)
        hidden = LayerNorm(dtype=self.dtype, name="norm_dense")(features)
        hidden = nn.gelu(dense(self.expansion * width, name="dense_in")(hidden), approximate=False)
        return features + self._dropped(dense(width, name="dense_out")(hidden), train)

    def _dropped(self, branch: Array, train: bool) -> Array:
        if train and self.drop > 0:
            return stochastic_depth(branch, rate=self.drop, key=self.make_rng("dropout"))
        return branch


class SwinIr(nn.Module):
    """Restore or enlarge an image."""

    config: SwinIrConfig = SwinIrConfig()

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W c"]:
        """The restored images, float32 of about [0, 1].

        Args:
          image: in [0, 1].
          train: whether stochastic depth is active, which needs the "dropout" random stream where its rate is not 0.

        Raises:
          UserError: the configuration contradicts itself, or the image is smaller than half a window.
        """
        config = self.config
        _check(config)
        dtype = jnp.dtype(config.dtype)
        conv = partial(Conv, kernel_init=fan_in_uniform, dtype=dtype)
        height, width = image.shape[1:3]
        mean = mean_of(config.channels)
        padded = _to_multiples(image, config.window) - mean
        shallow = conv(config.width, name="conv_first")(padded)
        hidden = LayerNorm(dtype=dtype, name="norm_first")(shallow)
        block = nn.remat(Block, static_argnums=(2,)) if config.remat else Block
        blocks = sum(config.depths)
        number = 0
        for group, depth in enumerate(config.depths):
            before = hidden
            for index in range(depth):
                shift = config.window // 2 if index % 2 else 0
                rate = config.stochastic_depth * number / max(blocks - 1, 1)
                parts = (config.heads, config.window, shift, config.expansion, rate, dtype)
                hidden = block(*parts, name=f"group_{group}_block_{index}")(hidden, train)
                number += 1
            hidden = before + conv(config.width, name=f"group_{group}_conv")(hidden)
        hidden = LayerNorm(dtype=dtype, name="norm_last")(hidden)
        hidden = shallow + conv(config.width, name="conv_after")(hidden)
        if config.upsampling == "shuffle":
            hidden = nn.leaky_relu(conv(config.feature_width, name="conv_before")(hidden), 0.01)
            hidden = PixelShuffleUpsampling(config.scale, dtype, name="upsampling")(hidden)
        if config.upsampling == "shuffle direct":
            hidden = conv(config.channels * config.scale**2, name="conv_last")(hidden)
            hidden = depth_to_space(hidden, config.scale).astype(jnp.float32)
        else:
            hidden = conv(config.channels, name="conv_last")(hidden).astype(jnp.float32)
        if config.upsampling == "none":
            hidden = padded + hidden
        return (hidden + mean)[:, : height * config.scale, : width * config.scale]


def _check(config: SwinIrConfig) -> None:
    if config.upsampling == "none" and config.scale != 1:
        raise UserError(f"a SwinIR without upsampling has the scale 1, not {config.scale}: choose an upsampling")
    if config.width % config.heads:
        raise UserError(f"a width of {config.width} is no multiple of {config.heads} heads")


def _to_multiples(image: Array, window: int) -> Array:
    """The image continued to the right and below by reflection, to sides that are multiples of the window."""
    height, width = image.shape[1:3]
    more = (-height % window, -width % window)
    if more[0] >= height or more[1] >= width:
        raise UserError(
            f"images of {height}x{width} pixels are too small to be continued by reflection to windows of {window}"
        )
    return jnp.pad(image, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)), mode="reflect")
