"""The diffusion UNet of Ho et al. 2020 ("Denoising Diffusion Probabilistic Models", appendix B).

A wide ResNet with skip connections between equal resolutions, group normalisation, self-attention at chosen
resolutions, and the time of the diffusion added to every residual block. The defaults are the published CIFAR-10
network with 35,746,307 parameters. Two things are added: conditions, and a space-to-depth stem (``patch``), which
trades resolution for channels so that small machines can afford the network.

Conditions enter as follows. The embedding of a label and a projection of a vector are added to the time embedding
(Dhariwal & Nichol 2021; Ramesh et al. 2022, section 2.1). Tokens are embedded, projected to keys and values of their
own in every attention layer, and attended to together with the feature map (Nichol et al. 2021, "GLIDE", section 3.1);
a projection of their mean is added to the time embedding (Saharia et al. 2022, "Imagen", section 2.3). An image is
concatenated to the noisy one (Saharia et al. 2021, "SR3").
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Interval, MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Num

from vision.nn.attention import SelfAttention2d
from vision.nn.conditioning import check_condition, condition_shapes
from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.nn.embeddings import sinusoidal_embedding
from vision.nn.norms import GroupNorm
from vision.nn.resample import depth_to_space, space_to_depth, upsample_nearest
from vision.nn.token_embedding import TokenEmbedding
from vision.ranges import Channels, Depth, DropRate, NoneOrMoreChannels, NoneOrMoreClasses, Pixels
from vision.types import Condition


@dataclass(frozen=True)
class UNetConfig:
    """The UNet's shape. The defaults are Ho et al. 2020 for CIFAR-10."""

    width: Annotated[int, Interval(ge=4, le=65_536)] = 128
    """Channels at the highest resolution."""
    multipliers: Annotated[tuple[Depth, ...], MinLen(1)] = (1, 2, 2, 2)
    """Channels of each level as multiples of the width; each level halves the resolution."""
    blocks: Depth = 2
    """Residual blocks a level on the way down; one more on the way up."""
    attention: tuple[Pixels, ...] = (16,)
    """Side lengths of the feature maps that attend to themselves; the narrowest point always does."""
    heads: Depth = 1
    """Attention heads."""
    dropout: DropRate = 0.1
    """Probability of dropping an activation inside residual blocks."""
    classes: NoneOrMoreClasses = 0
    """Number of class labels; 0 for a network without the condition "label". Label ``classes`` means "no label"."""
    embedding: NoneOrMoreChannels = 0
    """Width of the condition "embedding", a vector; 0 for a network without it."""
    vocabulary: NoneOrMoreChannels = 0
    """Number of values of a token, padding included; 0 for a network without the condition "tokens"."""
    tokens: NoneOrMoreChannels = 0
    """Length of the condition "tokens", padding included; 0 for a network without it."""
    condition_channels: NoneOrMoreChannels = 0
    """Channels of the condition "image", as high and wide as the noisy image; 0 for a network without it."""
    conditioning: Literal["add", "scale_shift"] = "add"
    """How time and class enter a residual block: added to its features, as published, or as a scale and a shift of
    the second normalisation (Dhariwal & Nichol 2021, section 3), which follows labels sooner."""
    patch: Pixels = 1
    """Side of the squares of pixels that the stem folds into channels; 1 leaves the image as it is."""
    channels: Channels = 3
    """Channels of the image."""
    out_channels: Channels | None = None
    """Channels of the prediction; None for as many as the image has."""
    remat: bool = False
    """Recompute the inside of residual blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters and normalisation statistics stay float32."""


# Tensor parallelism after Shoeybi et al. 2019: split the output channels of the first of two layers and the input
# channels of the second, so that one reduction a block is enough (a second where heads are fewer than the axis).
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+/conv_in/kernel$|mid_[ab]/conv_in/kernel$", P(None, None, None, "tensor")),
    (r"block_\d+/conv_out/kernel$|mid_[ab]/conv_out/kernel$", P(None, None, "tensor", None)),
    (r"/(query|key|value|context_key|context_value)/kernel$", P(None, "tensor")),
    (r"/out/kernel$", P("tensor", None)),
    (r"time_in/kernel$", P(None, "tensor")),
    (r"time_out/kernel$", P("tensor", None)),
    (r"(embedding|token)_projection/kernel$", P(None, "tensor")),
)

fan_average = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
Conv3x3 = partial(Conv, winograd=True, kernel_init=fan_average)


class ResidualBlock(nn.Module):
    """norm, act, conv, + embedding, norm, act, dropout, conv; a 1x1 convolution on the way past if widths differ."""

    channels: int
    dropout: float
    norm: Callable[..., nn.Module]
    conditioning: Literal["add", "scale_shift"] = "add"
    act: Callable[[Array], Array] = nn.silu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], embedding: Float[Array, "b e"], train: bool
    ) -> Float[Array, "b h w channels"]:
        """Transform ``features``; ``train`` is positional so that remat can hold it static."""
        hidden = self.act(self.norm(name="norm_in")(features))
        hidden = Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(hidden)
        size = self.channels * (2 if self.conditioning == "scale_shift" else 1)
        project = Dense(size, dtype=self.dtype, kernel_init=fan_average, name="embedding")
        signal = project(self.act(embedding))[:, None, None, :]
        if self.conditioning == "scale_shift":
            scale, shift = jnp.split(signal, 2, axis=-1)
            # Dhariwal & Nichol 2021, section 3: AdaGN(h, y) = y_s GroupNorm(h) + y_b, here with y_s = 1 + scale
            hidden = self.act((1.0 + scale) * self.norm(name="norm_out")(hidden) + shift)
        else:
            hidden = self.act(self.norm(name="norm_out")(hidden + signal))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        hidden = Conv3x3(self.channels, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="conv_out")(hidden)
        if features.shape[-1] != self.channels:
            features = Dense(self.channels, dtype=self.dtype, kernel_init=fan_average, name="skip")(features)
        return features + hidden


class UNet(nn.Module):
    """Predict the target of diffusion (noise, image or velocity) from a noisy image and its time."""

    config: UNetConfig = UNetConfig()

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b h w c"],
        time: Num[Array, " b"],
        condition: Condition | None = None,
        *,
        train: bool,
    ) -> Float[Array, "b h w out"]:
        """Run the network.

        Args:
          image: noisy images of about unit variance; sides must be multiples of patch * 2 ** (levels - 1).
          time: diffusion time in steps, 0 to 999 for the published schedule.
          condition: what the configuration names, and nothing else; None or ``{}`` for nothing. "label" int32 [b] in
            [0, classes], where ``classes`` means "no label"; "embedding" float [b embedding]; "tokens" int32 [b tokens]
            in [0, vocabulary); "image" float [b h w condition_channels].
          train: whether dropout is active; it then needs the "dropout" random stream.

        Returns:
          The prediction in float32, with ``out_channels`` channels.

        Raises:
          UserError: only one of ``vocabulary`` and ``tokens`` is 0.
          ValueError: a condition is missing, has another shape, or is one that the network was not built for.
        """
        config = self.config
        dtype = jnp.dtype(config.dtype)
        condition = condition or {}
        check_condition("a UNet", condition, condition_shapes(config, image.shape))
        # 32 groups at the published width; narrower networks get groups of four channels
        norm = lambda name: GroupNorm(name=name, dtype=dtype)
        block = nn.remat(ResidualBlock, static_argnums=(3,)) if config.remat else ResidualBlock
        residual = partial(block, dropout=config.dropout, norm=norm, conditioning=config.conditioning, dtype=dtype)
        attention = partial(SelfAttention2d, norm=norm, heads=config.heads, dtype=dtype, kernel_init=fan_average)
        levels = len(config.multipliers)

        dense = partial(Dense, 4 * config.width, dtype=dtype, kernel_init=fan_average)
        embedding = sinusoidal_embedding(time, config.width)
        embedding = dense(name="time_out")(nn.silu(dense(name="time_in")(embedding)))
        if config.classes:
            # Linen's default variance, 1 / (4 width), is far below the time embedding's: labels go unheard for long.
            unit = nn.initializers.normal(1.0)
            table = nn.Embed(config.classes + 1, 4 * config.width, embedding_init=unit, name="label_embedding")
            embedding = embedding + table(condition["label"]).astype(dtype)
        if config.embedding:
            embedding = embedding + dense(name="embedding_projection")(condition["embedding"])
        context = None
        if config.tokens:
            words = TokenEmbedding(config.vocabulary, 4 * config.width, dtype=dtype, name="token_embedding")
            context = words(condition["tokens"])
            embedding = embedding + dense(name="token_projection")(jnp.mean(context, axis=1))

        if config.condition_channels:
            image = jnp.concatenate([image, condition["image"]], axis=-1)
        hidden = space_to_depth(image, config.patch) if config.patch > 1 else image
        hidden = Conv3x3(config.width, dtype=dtype, name="stem")(hidden)
        skips = [hidden]
        for level, multiplier in enumerate(config.multipliers):
            for index in range(config.blocks):
                name = f"down_{level}_block_{index}"
                hidden = residual(config.width * multiplier, name=name)(hidden, embedding, train)
                if hidden.shape[1] in config.attention:
                    hidden = attention(name=f"down_{level}_attention_{index}")(hidden, context)
                skips.append(hidden)
            if level < levels - 1:
                hidden = Conv3x3(hidden.shape[-1], strides=2, dtype=dtype, name=f"down_{level}_halve")(hidden)
                skips.append(hidden)

        hidden = residual(hidden.shape[-1], name="mid_a")(hidden, embedding, train)
        hidden = attention(name="mid_attention")(hidden, context)
        hidden = residual(hidden.shape[-1], name="mid_b")(hidden, embedding, train)

        for level in reversed(range(levels)):
            for index in range(config.blocks + 1):
                hidden = jnp.concatenate([hidden, skips.pop()], axis=-1)
                name = f"up_{level}_block_{index}"
                hidden = residual(config.width * config.multipliers[level], name=name)(hidden, embedding, train)
                if hidden.shape[1] in config.attention:
                    hidden = attention(name=f"up_{level}_attention_{index}")(hidden, context)
            if level > 0:
                hidden = upsample_nearest(hidden)
                hidden = Conv3x3(hidden.shape[-1], dtype=dtype, name=f"up_{level}_double")(hidden)

        hidden = nn.silu(norm(name="norm")(hidden))
        channels = config.channels if config.out_channels is None else config.out_channels
        closed = nn.initializers.zeros
        out = Conv3x3(channels * config.patch**2, dtype=dtype, kernel_init=closed, name="head")(hidden)
        out = depth_to_space(out, config.patch) if config.patch > 1 else out
        return out.astype(jnp.float32)
