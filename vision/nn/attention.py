"""Attention (Vaswani et al. 2017), and self-attention over the positions of a feature map (Wang et al. 2018)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from vision.errors import UserError
from vision.nn.dense import Dense


def dot_product_attention(
    query: Float[Array, "b q heads d"],
    key: Float[Array, "b k heads d"],
    value: Float[Array, "b k heads v"],
    *,
    causal: bool = False,
    seen: Bool[Array, "b q k"] | None = None,
) -> Float[Array, "b q heads v"]:
    """For each query the mean of ``value``, weighted by the softmax of scaled products with ``key``, head by head.

    With ``causal``, query i sees the keys up to i alone; with ``seen``, those alone that it names, of which each query
    has at least one.

    Products are accumulated and the softmax computed in float32 whatever the type of the arrays, which the result has.
    """
    # Vaswani et al. 2017, eq. 1: softmax(q k^T / sqrt(d)) v
    scale = 1.0 / jnp.sqrt(query.shape[-1]).astype(jnp.float32)
    logits = jnp.einsum("bqnd,bknd->bnqk", query, key, preferred_element_type=jnp.float32) * scale
    if causal:
        logits = jnp.where(jnp.tri(query.shape[1], key.shape[1], dtype=bool), logits, -jnp.inf)
    if seen is not None:
        logits = jnp.where(seen[:, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bnqk,bknd->bqnd", weights, value)


def seen_by_all(mask: Bool[Array, "b k"] | None, queries: int) -> Bool[Array, "b {queries} k"] | None:
    """A mask of keys as every one of ``queries`` queries sees it, for :func:`dot_product_attention`."""
    return None if mask is None else jnp.broadcast_to(mask[:, None], (mask.shape[0], queries, mask.shape[1]))


class SelfAttention2d(nn.Module):
    """Residual multi-head self-attention over all h*w positions: [b, h, w, c] to the same shape.

    With a context, positions attend to it as well: it has projections of its own, and its keys and values are
    concatenated to those of the positions (Nichol et al. 2021, "GLIDE", section 3.1), or take their place where ``own``
    is False.

    The softmax is computed in float32 whatever ``dtype`` is. The output projection starts at ``out_init``, zero in
    the UNet, so that a new block is the identity. The sum with the input is multiplied by ``scale``.
    """

    norm: Callable[..., nn.Module] | None
    """None to attend to the features as they are."""
    heads: int = 1
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Array] = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
    out_init: Callable[..., Array] = nn.initializers.zeros
    scale: float = 1.0
    own: bool = True

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "b h w c"],
        context: Float[Array, "b n e"] | None = None,
        context_mask: Bool[Array, "b n"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Attend to positions, and to a context where its mask is True.

        Raises ``UserError`` unless ``c`` is a multiple of ``heads``.
        """
        _, height, width, channels = features.shape
        if channels % self.heads:
            raise UserError(f"{self.heads} attention heads cannot share {channels} channels equally: choose a divisor")
        project = lambda name, init: Dense(channels, dtype=self.dtype, kernel_init=init, name=name)
        split = lambda x: rearrange(x, "b h w (n d) -> b (h w) n d", n=self.heads)
        hidden = features if self.norm is None else self.norm(name="norm")(features)
        query = split(project("query", self.kernel_init)(hidden))
        keys, values, seen = [], [], []
        if self.own:
            keys.append(split(project("key", self.kernel_init)(hidden)))
            values.append(split(project("value", self.kernel_init)(hidden)))
            seen.append(jnp.ones(keys[0].shape[:2], bool))
        if context is not None:
            of_context = lambda name: rearrange(
                project(name, self.kernel_init)(context), "b k (n d) -> b k n d", n=self.heads
            )
            keys.append(of_context("context_key"))
            values.append(of_context("context_value"))
            seen.append(context_mask)
        mask = jnp.concatenate(seen, axis=1) if context_mask is not None else None
        key, value = (jnp.concatenate(each, axis=1) if len(each) > 1 else each[0] for each in (keys, values))
        mixed = dot_product_attention(query, key, value, seen=seen_by_all(mask, query.shape[1]))
        mixed = rearrange(mixed, "b (h w) n d -> b h w (n d)", h=height, w=width)
        mixed = features + project("out", self.out_init)(mixed)
        return mixed if self.scale == 1.0 else mixed * self.scale
