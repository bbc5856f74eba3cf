"""The text tower of CLIP: a causal transformer (Radford et al. 2021, section 2.4; Radford et al. 2019)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from vision.errors import UserError
from vision.nn.dense import Dense, add_bias
from vision.nn.transformer import TransformerBlock, gelu, quick_gelu
from vision.ranges import Channels, Depth, NonNegativeInt, PositiveInt

Activation = Literal["quick_gelu", "gelu"]
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {"quick_gelu": quick_gelu, "gelu": gelu}
"""The activations of dense networks by name."""
EPSILON = 1e-5
"""Of all normalisations."""


@dataclass(frozen=True)
class TextConfig:
    """The text tower. The defaults are those of CLIP ViT-B/32."""

    vocabulary: PositiveInt = 49_408
    """Tokens that there are, at least 1."""
    length: PositiveInt = 77
    """Tokens of a text, padding included, at least 1."""
    end: NonNegativeInt = 49_407
    """The token that ends a text, whose first occurrence stands for the whole text."""
    width: Channels = 512
    """Channels of a token, a multiple of the heads."""
    depth: Depth = 12
    """Blocks, at least 1."""
    heads: Depth = 8
    """Attention heads, at least 1."""


def block_of(width: int, depth: int, *, heads: int, remat: bool, **of: Any) -> Callable[..., Callable[..., Array]]:
    """Makes the blocks of a tower by name.

    Initial values are those of the published text tower: deviations of 1 / sqrt(width), and for what is added to the
    residual stream 1 / sqrt(2 depth) of that (Radford et al. 2019, section 2.3).

    Raises:
      UserError: the width is no multiple of the heads.
    """
    if width % heads:
        raise UserError(f"a width of {width} is no multiple of {heads} heads")
    deviation = width**-0.5
    block: Any = nn.remat(TransformerBlock, static_argnums=(2,)) if remat else TransformerBlock
    return lambda name: block(
        heads,
        epsilon=EPSILON,
        kernel_init=nn.initializers.normal(deviation),
        out_init=nn.initializers.normal(deviation * (2 * depth) ** -0.5),
        name=name,
        **of,
    )


def text_mask(tokens: Int[Array, "b n"], end: int) -> Bool[Array, "b n"]:
    """Which tokens are of the text, its first end token included, and no padding after it."""
    return jnp.cumsum(tokens == end, axis=1) - (tokens == end) == 0


class TextTransformer(nn.Module):
    """Embed texts."""

    config: TextConfig
    embedding: int
    """Channels of an embedding; 0 for the end token as it is, of a tower without projection."""
    activation: Activation = "quick_gelu"
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"], *, train: bool) -> dict[str, Array]:
        """Embed ``tokens`` in [0, vocabulary), of which each row has the token ``end``; padding after it has no effect.

        Returns:
          "embedding": the projection of the end token, or that itself, float32 [b embedding], of any length; "tokens":
          all tokens after the last normalisation, [b n width] in ``dtype``.

        Raises:
          UserError: the tokens are not ``length``, or the width is no multiple of the heads.
        """
        config = self.config
        if tokens.shape[1] != config.length:
            raise UserError(f"texts of {tokens.shape[1]} tokens are given to a text tower for {config.length}")
        table = self.param("token", nn.initializers.normal(0.02), (config.vocabulary, config.width), jnp.float32)
        position = self.param("position", nn.initializers.normal(0.01), (config.length, config.width), jnp.float32)
        hidden = add_bias(jnp.take(table, tokens, axis=0).astype(self.dtype), position)
        how = {"activation": ACTIVATIONS[self.activation], "causal": True, "dtype": self.dtype}
        block = block_of(config.width, config.depth, heads=config.heads, remat=self.remat, **how)
        for index in range(config.depth):
            hidden = block(f"block_{index}")(hidden, train)
        hidden = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(hidden)
        end = jnp.argmax(tokens == config.end, axis=1)  # the first, also where padding is the same token
        pooled = jnp.take_along_axis(hidden, end[:, None, None], axis=1)[:, 0].astype(jnp.float32)
        if not self.embedding:
            return {"embedding": pooled, "tokens": hidden}
        project = Dense(
            self.embedding, use_bias=False, kernel_init=nn.initializers.normal(config.width**-0.5), name="projection"
        )
        return {"embedding": project(pooled), "tokens": hidden}
