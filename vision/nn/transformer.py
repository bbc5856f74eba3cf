"""The block of a transformer that normalises before each of its two parts (Dosovitskiy et al. 2021, eq. 2 and 3)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from vision.nn.attention import dot_product_attention
from vision.nn.dense import Dense
from vision.nn.stochastic_depth import stochastic_depth

small = nn.initializers.truncated_normal(0.02)
"""The initial values of dense layers (Dosovitskiy et al. 2021)."""


def gelu(features: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """X times the normal distribution function of x (Hendrycks & Gimpel 2016), exactly."""
    return jax.nn.gelu(features, approximate=False)


def quick_gelu(features: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """X times the logistic function of 1.702 x (Hendrycks & Gimpel 2016, section 2), as in the published CLIP."""
    return features * jax.nn.sigmoid(1.702 * features)


class TransformerBlock(nn.Module):
    """Self-attention, then a dense network, each after a LayerNorm and added to what it was given."""

    heads: int
    expansion: int = 4
    dropout: float = 0.0
    drop: float = 0.0
    """The rate of stochastic depth."""
    causal: bool = False
    """Whether a token attends only to itself and those before it."""
    activation: Callable[[Array], Array] = gelu
    epsilon: float = 1e-6
    """Of the normalisations."""
    kernel_init: Callable[..., Array] = small
    out_init: Callable[..., Array] | None = None
    """Of the two layers whose results are added; None for ``kernel_init``."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], train: bool, seen: Bool[Array, "b n n"] | None = None
    ) -> Float[Array, "b n d"]:
        """Transform ``tokens``; ``train`` is positional so that remat can treat it as static.

        ``seen`` says which tokens (last axis) each token attends to, itself among them; None for all.
        """
        width = tokens.shape[-1]
        dense = partial(Dense, dtype=self.dtype)
        norm = partial(nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype)
        out_init = self.kernel_init if self.out_init is None else self.out_init
        hidden = norm(name="norm_attention")(tokens)
        qkv = dense((3, width), kernel_init=self.kernel_init, name="qkv")(hidden)
        query, key, value = rearrange(qkv, "b n three (h d) -> three b n h d", h=self.heads)
        mixed = dot_product_attention(query, key, value, causal=self.causal, seen=seen)
        mixed = rearrange(mixed, "b n h d -> b n (h d)")
        tokens = tokens + self._dropped(dense(width, kernel_init=out_init, name="out")(mixed), train)
        hidden = norm(name="norm_dense")(tokens)
        hidden = dense(self.expansion * width, kernel_init=self.kernel_init, name="dense_in")(hidden)
        hidden = nn.Dropout(self.dropout)(self.activation(hidden), deterministic=not train)
        return tokens + self._dropped(dense(width, kernel_init=out_init, name="dense_out")(hidden), train)

    def _dropped(self, branch: Array, train: bool) -> Array:
        branch = nn.Dropout(self.dropout)(branch, deterministic=not train)
        if train and self.drop > 0:
            branch = stochastic_depth(branch, rate=self.drop, key=self.make_rng("dropout"))
        return branch
