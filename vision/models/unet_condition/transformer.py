"""The transformer of latent diffusion (Rombach et al. 2022, appendix E.2.1) over the places of a feature map.

Each block attends to the places themselves, then to a context such as the tokens of a text, and ends in a dense network
whose hidden values are gated (Shazeer 2020, "GLU variants improve transformer").
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from vision.errors import UserError
from vision.nn.attention import dot_product_attention, seen_by_all
from vision.nn.dense import Dense
from vision.nn.norms import GroupNorm
from vision.nn.transformer import gelu

_EPSILON = 1e-5
"""Of layer normalisations, as published."""
_GROUP_EPSILON = 1e-6
"""Of the normalisation before the first block."""


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to themselves or to others; only the last projection has a bias."""

    heads: int
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    out_init: Callable[..., Array] = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b q c"], others: Float[Array, "b k e"], mask: Bool[Array, "b k"] | None = None
    ) -> Float[Array, "b q c"]:
        """Attend to ``others`` where ``mask`` is True; ``c`` is a multiple of the heads."""
        width = tokens.shape[-1]
        project = partial(Dense, width, dtype=self.dtype)
        split = lambda x: rearrange(x, "b n (h d) -> b n h d", h=self.heads)
        query = split(project(use_bias=False, kernel_init=self.kernel_init, name="query")(tokens))
        key = split(project(use_bias=False, kernel_init=self.kernel_init, name="key")(others))
        value = split(project(use_bias=False, kernel_init=self.kernel_init, name="value")(others))
        seen = seen_by_all(mask, tokens.shape[1])
        mixed = rearrange(dot_product_attention(query, key, value, seen=seen), "b n h d -> b n (h d)")
        return project(kernel_init=self.out_init, name="out")(mixed)


class CrossAttentionBlock(nn.Module):
    """Attention to the tokens, attention to the context, a gated dense network, each normalised before and added."""

    heads: int
    own: bool = True
    """Whether the first attention is to the tokens themselves; otherwise it is to the context too."""
    expansion: int = 4
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b n c"],
        context: Float[Array, "b k e"],
        mask: Bool[Array, "b k"] | None,
        train: bool,
    ) -> Float[Array, "b n c"]:
        """Transform ``tokens``; ``train`` is positional so that remat can treat it as static."""
        norm = partial(nn.LayerNorm, epsilon=_EPSILON, dtype=self.dtype)
        dropped = lambda x: nn.Dropout(self.dropout, deterministic=not train)(x)
        attention = partial(CrossAttention, self.heads, dtype=self.dtype)
        hidden = norm(name="norm_self")(tokens)
        first = (hidden, None) if self.own else (context, mask)
        tokens = tokens + dropped(attention(name="self")(hidden, *first))
        tokens = tokens + dropped(attention(name="cross")(norm(name="norm_cross")(tokens), context, mask))
        width = tokens.shape[-1]
        hidden = Dense(2 * self.expansion * width, dtype=self.dtype, name="dense_in")(norm(name="norm_dense")(tokens))
        hidden, gate = jnp.split(hidden, 2, axis=-1)
        return tokens + Dense(width, dtype=self.dtype, name="dense_out")(dropped(hidden * gelu(gate)))


class SpatialTransformer(nn.Module):
    """Normalise a feature map, project it, transform its places, project them back, and add: the same shape.

    The last projection starts at zero, so that a new transformer is the identity.
    """

    heads: int
    depth: int = 1
    """Blocks."""
    groups: int = 32
    """Of channels that are normalised together, a divisor of the channels."""
    own: bool = True
    """Whether places attend to each other."""
    dropout: float = 0.0
    remat: bool = False
    """Recompute the inside of blocks in the backward pass."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b h w c"],
        context: Float[Array, "b k e"],
        mask: Bool[Array, "b k"] | None = None,
        *,
        train: bool,
    ) -> Float[Array, "b h w c"]:
        """Transform; the context counts where ``mask`` is True. Raises ``UserError`` unless heads divide ``c``."""
        height, channels = features.shape[1], features.shape[-1]
        if channels % self.heads:
            raise UserError(f"{self.heads} attention heads cannot share {channels} channels equally: choose a divisor")
        norm = GroupNorm(groups=self.groups, least=1, epsilon=_GROUP_EPSILON, dtype=self.dtype, name="norm")
        tokens = rearrange(norm(features), "b h w c -> b (h w) c")
        tokens = Dense(channels, dtype=self.dtype, name="project_in")(tokens)
        kind: Any = nn.remat(CrossAttentionBlock, static_argnums=(4,)) if self.remat else CrossAttentionBlock
        for index in range(self.depth):
            block = kind(self.heads, self.own, dropout=self.dropout, dtype=self.dtype, name=f"block_{index}")
            tokens = block(tokens, context.astype(self.dtype), mask, train)
        closed: Any = nn.initializers.zeros
        tokens = Dense(channels, dtype=self.dtype, kernel_init=closed, name="project_out")(tokens)
        return features + rearrange(tokens, "b (h w) c -> b h w c", h=height)
