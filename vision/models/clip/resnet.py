"""The modified ResNet of CLIP (Radford et al. 2021, section 2.4): ResNet-D, antialiased strides, attention pooling.

Three 3x3 convolutions and a mean pool begin it (He et al. 2019); wherever a stride would be, features are averaged
over 2x2 pixels first (Zhang 2019, "Making convolutional networks shift-invariant again"); one layer of attention, whose
query is the mean of all places, takes the place of the global mean.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.models.resnet import Conv1x1, Conv3x3, Shortcut
from vision.nn.attention import dot_product_attention
from vision.nn.batch_norm import batch_norm
from vision.nn.dense import Dense, add_bias
from vision.nn.pooling import mean_pool_2x2
from vision.ranges import Channels, Depth


@dataclass(frozen=True)
class ImageResNetConfig:
    """The image tower. The defaults are those of CLIP RN50."""

    depths: tuple[Depth, Depth, Depth, Depth] = (3, 4, 6, 3)
    """Residual blocks of each stage; each stage after the first halves the resolution and doubles the channels."""
    width: Channels = 64
    """Channels inside the blocks of the first stage, an even number; the features have 32 times as many."""
    heads: Depth = 32
    """Heads of the attention pooling, at least 1; as published, half the width."""


class AntialiasedBottleneck(nn.Module):
    """conv 1x1, norm, relu, conv 3x3, norm, relu, mean pool for a stride, conv 1x1, norm, + shortcut, relu."""

    inner: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], train: bool) -> Float[Array, "b H W n"]:
        """Transform ``features``; ``train`` is positional so that remat can treat it as static."""
        norm = partial(batch_norm, train=train, dtype=self.dtype)
        channels = 4 * self.inner
        hidden = Conv1x1(self.inner, dtype=self.dtype, name="conv_in")(features)
        hidden = nn.relu(norm(name="norm_in")(hidden))
        hidden = Conv3x3(self.inner, dtype=self.dtype, name="conv_mid")(hidden)
        hidden = nn.relu(norm(name="norm_mid")(hidden))
        hidden = mean_pool_2x2(hidden) if self.stride > 1 else hidden
        hidden = Conv1x1(channels, dtype=self.dtype, name="conv_out")(hidden)
        hidden = norm(name="norm_out", scale_init=nn.initializers.zeros)(hidden)
        shortcut = Shortcut(channels, self.stride, kind="average", dtype=self.dtype, name="shortcut")
        return nn.relu(shortcut(features, train) + hidden)


class AttentionPool(nn.Module):
    """Attention of the mean of all places to itself and to all places."""

    channels: int
    """Of the result."""
    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b channels"]:
        """Pool; raises ``UserError`` unless ``c`` is a multiple of ``heads``."""
        width = features.shape[-1]
        if width % self.heads:
            raise UserError(f"{self.heads} heads of the attention pooling cannot share {width} channels equally")
        tokens = rearrange(features, "b h w c -> b (h w) c")
        tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
        position = self.param("position", nn.initializers.normal(width**-0.5), (tokens.shape[1], width))
        tokens = add_bias(tokens, position)
        dense = partial(Dense, kernel_init=nn.initializers.normal(width**-0.5), dtype=self.dtype)
        split = lambda x: rearrange(x, "b n (h d) -> b n h d", h=self.heads)
        query = split(dense(width, name="query")(tokens[:, :1]))
        key, value = (split(dense(width, name=name)(tokens)) for name in ("key", "value"))
        mixed = rearrange(dot_product_attention(query, key, value), "b 1 h d -> b (h d)")
        return dense(self.channels, name="out")(mixed)


class ImageResNet(nn.Module):
    """Embed images."""

    config: ImageResNetConfig
    embedding: int
    """Channels of an embedding."""
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Array]:
        """Embed images of about zero mean and unit variance, of the sides that it was initialised for.

        Returns:
          "embedding": float32 [b embedding], of any length; "tokens": the features before they are pooled, [b h/32 w/32
          32 width] in ``dtype``.

        Raises:
          UserError: sides that are no multiples of 32, an odd width, or heads that do not divide the features.
        """
        config = self.config
        height, width = image.shape[1:3]
        if height % 32 or width % 32:
            raise UserError(f"images of {height} x {width} pixels cannot be reduced 32 times: choose multiples of 32")
        if config.width % 2:
            raise UserError(f"the stem of this ResNet has half its width, and {config.width} is odd")
        norm = partial(batch_norm, train=train, dtype=self.dtype)
        hidden = image
        for index, (channels, stride) in enumerate(((config.width // 2, 2), (config.width // 2, 1), (config.width, 1))):
            hidden = Conv3x3(channels, strides=stride, dtype=self.dtype, name=f"stem_{index}_conv")(hidden)
            hidden = nn.relu(norm(name=f"stem_{index}_norm")(hidden))
        hidden = mean_pool_2x2(hidden)
        block = nn.remat(AntialiasedBottleneck, static_argnums=(2,)) if self.remat else AntialiasedBottleneck
        for stage, depth in enumerate(config.depths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"stage_{stage + 1}_block_{index}"
                hidden = block(config.width * 2**stage, stride, self.dtype, name=name)(hidden, train)
        pooled = AttentionPool(self.embedding, config.heads, self.dtype, name="pool")(hidden)
        return {"embedding": pooled.astype(jnp.float32), "tokens": hidden}
