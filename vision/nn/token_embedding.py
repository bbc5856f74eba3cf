"""Learned embeddings of a sequence of tokens."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class TokenEmbedding(nn.Module):
    """The sum of a learned embedding of each token and one of its position, layer-normalised.

    Embeddings start with deviation 0.02 (Radford et al. 2018). The normalisation is that which Saharia et al. 2022,
    "Photorealistic text-to-image diffusion models with deep language understanding" (Imagen), section 2.3, found to
    help attention to text. Padding is a token like any other.
    """

    vocabulary: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "b n"]) -> Float[Array, "b n width"]:
        """Embed ``tokens`` in [0, vocabulary)."""
        small = nn.initializers.normal(0.02)
        table = nn.Embed(self.vocabulary, self.width, embedding_init=small, name="token")
        position = self.param("position", small, (tokens.shape[1], self.width), jnp.float32)
        return nn.LayerNorm(name="norm")(table(tokens) + position).astype(self.dtype)
