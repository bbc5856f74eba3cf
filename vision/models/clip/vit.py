"""The vision transformer of CLIP (Radford et al. 2021, section 2.4).

Unlike ``models/vit.py``'s, patches have no bias and the embedded tokens are normalised before the first block.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.models.clip.text import ACTIVATIONS, EPSILON, Activation, block_of
from vision.nn.convolution import Conv
from vision.nn.dense import Dense, add_bias
from vision.ranges import Channels, Depth, Pixels


@dataclass(frozen=True)
class ImageTransformerConfig:
    """The image tower. The defaults are those of CLIP ViT-B/32."""

    patch: Pixels = 32
    """Side of the square of pixels that makes a token, at least 1."""
    width: Channels = 768
    """Channels of a token, a multiple of the heads."""
    depth: Depth = 12
    """Blocks, at least 1."""
    heads: Depth = 12
    """Attention heads, at least 1."""


class ImageTransformer(nn.Module):
    """Embed images."""

    config: ImageTransformerConfig
    embedding: int
    """Channels of an embedding."""
    activation: Activation = "quick_gelu"
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Array]:
        """Embed images of about zero mean and unit variance, of the sides that it was initialised for.

        Returns:
          "embedding": the projection of the class token, float32 [b embedding], of any length; "tokens": the tokens of
          the patches as a map [b h/patch w/patch width] in ``dtype``, after the last block.

        Raises:
          UserError: sides that are no multiples of the patch, or a width that is no multiple of the heads.
        """
        config = self.config
        batch, height, width, _ = image.shape
        patch = config.patch
        if height % patch or width % patch:
            raise UserError(f"images of {height} x {width} pixels cannot be cut into patches of {patch}")
        deviation = nn.initializers.normal(config.width**-0.5)
        embed = Conv(config.width, patch, patch, padding="VALID", use_bias=False, dtype=self.dtype, name="stem")
        grid = embed(image)
        rows, columns = grid.shape[1:3]
        first = jnp.tile(self.param("class_token", deviation, (1, 1, config.width)), (batch, 1, 1)).astype(self.dtype)
        tokens = jnp.concatenate([first, rearrange(grid, "b h w d -> b (h w) d")], 1)
        tokens = add_bias(tokens, self.param("position", deviation, (rows * columns + 1, config.width)))
        norm = lambda name: nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name=name)
        tokens = norm("norm_in")(tokens)
        how = {"activation": ACTIVATIONS[self.activation], "dtype": self.dtype}
        block = block_of(config.width, config.depth, heads=config.heads, remat=self.remat, **how)
        for index in range(config.depth):
            tokens = block(f"block_{index}")(tokens, train)
        pooled = norm("norm")(tokens[:, 0]).astype(jnp.float32)
        made = Dense(self.embedding, use_bias=False, kernel_init=deviation, name="projection")(pooled)
        return {"embedding": made, "tokens": rearrange(tokens[:, 1:], "b (h w) d -> b h w d", h=rows)}
