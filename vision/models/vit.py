"""Vision transformers: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words" (arXiv:2010.11929).

The smaller sizes, stochastic depth and initial values are those of Touvron et al. 2021 (DeiT, arXiv:2012.12877). The
normalisations and the layout equal those of the published weights (``vision/pretrained/vit.py``).
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.nn.convolution import Conv
from vision.nn.dense import Dense, add_bias
from vision.nn.transformer import TransformerBlock, small
from vision.ranges import Channels, Depth, DropRate, NoneOrMoreClasses, Pixels


@dataclass(frozen=True)
class ViTConfig:
    """The transformer's shape. The defaults are ViT-S/16 for ImageNet."""

    patch: Pixels = 16
    """Side of the square of pixels that makes a token, at least 1."""
    width: Channels = 384
    """Channels of a token, a multiple of the heads."""
    depth: Depth = 12
    """Blocks, at least 1."""
    heads: Depth = 6
    """Attention heads, at least 1."""
    expansion: Depth = 4
    """Width of a block's dense network, as a multiple of the width; at least 1."""
    dropout: DropRate = 0.0
    """Probability, in [0, 1), of dropping a feature: of the embedded tokens and after each dense layer of a block."""
    stochastic_depth: DropRate = 0.0
    """Probability, in [0, 1), of dropping the last block's residual branches in training; linearly lower for earlier
    ones, 0 for the first."""
    classes: NoneOrMoreClasses = 1000
    """Number of logits, not negative; 0 for no head, and the class token as the output."""
    channels: Channels = 3
    """Channels of the image, at least 1."""
    remat: bool = False
    """Recompute the inside of blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters, softmax and the head stay float32."""


# Dosovitskiy et al. 2021, table 1; Touvron et al. 2021, table 1
VIT_TI16 = ViTConfig(width=192, heads=3)
VIT_S16 = ViTConfig()
VIT_B16 = ViTConfig(width=768, heads=12)
VIT_B32 = ViTConfig(patch=32, width=768, heads=12)
VIT_L16 = ViTConfig(width=1024, depth=24, heads=16)

# Shoeybi et al. 2019: of two layers, split the outputs of the first and the inputs of the second.
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+/qkv/kernel$", P(None, None, "tensor")),
    (r"block_\d+/qkv/bias$", P(None, "tensor")),
    (r"block_\d+/dense_in/kernel$", P(None, "tensor")),
    (r"block_\d+/dense_in/bias$", P("tensor")),
    (r"block_\d+/(out|dense_out)/kernel$", P("tensor", None)),
    (r"head/kernel$", P("tensor", None)),
)

LayerNorm = partial(nn.LayerNorm, epsilon=1e-6)


class ViT(nn.Module):
    """Classify images by the class token, or return features."""

    config: ViTConfig = ViTConfig()

    def setup(self):
        """The head, which :meth:`features` does not need."""
        if self.config.classes > 0:
            self.head = Dense(self.config.classes, kernel_init=nn.initializers.zeros)

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b d"]:
        """Logits in float32, [b classes]; the class token where ``config.classes`` is 0.

        Args:
          image: images of about zero mean and unit variance; sides are multiples of the patch, and those that the
            position embeddings were initialised for.
          train: whether dropout and stochastic depth are active, which need the "dropout" random stream where their
            rates are not 0.

        Raises:
          UserError: sides that are no multiples of the patch, or a width that is no multiple of the heads.
        """
        pooled = self.features(image, train=train)["pooled"]
        return self.head(pooled) if self.config.classes > 0 else pooled

    @nn.compact
    def features(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Array]:
        """Features: ``model.apply(variables, image, train=False, method="features")``.

        Returns:
          "tokens": the last layer's tokens of the patches as a map [b h/patch w/patch d], in ``config.dtype``;
          "pooled": the class token, [b d] in float32; both after the last LayerNorm.
        """
        config = self.config
        dtype = jnp.dtype(config.dtype)
        batch, height, width, _ = image.shape
        if height % config.patch or width % config.patch:
            raise UserError(f"images of {height} x {width} pixels cannot be cut into patches of {config.patch}")
        if config.width % config.heads:
            raise UserError(f"a width of {config.width} is no multiple of {config.heads} heads")
        patch = config.patch
        embed = Conv(config.width, patch, patch, padding="VALID", kernel_init=small, dtype=dtype, name="stem")
        grid = embed(image)
        rows, columns = grid.shape[1:3]
        class_token = self.param("class_token", small, (1, 1, config.width))
        first = jnp.tile(class_token, (batch, 1, 1)).astype(dtype)
        tokens = jnp.concatenate([first, rearrange(grid, "b h w d -> b (h w) d")], 1)
        tokens = add_bias(tokens, self.param("position", small, (1, rows * columns + 1, config.width)))
        tokens = nn.Dropout(config.dropout)(tokens, deterministic=not train)
        block = nn.remat(TransformerBlock, static_argnums=(2,)) if config.remat else TransformerBlock
        for index in range(config.depth):
            rate = config.stochastic_depth * index / max(config.depth - 1, 1)
            shape = (config.heads, config.expansion, config.dropout, rate)
            tokens = block(*shape, dtype=dtype, name=f"block_{index}")(tokens, train)
        tokens = LayerNorm(dtype=dtype, name="norm")(tokens)
        patches = rearrange(tokens[:, 1:], "b (h w) d -> b h w d", h=rows)
        return {"tokens": patches, "pooled": tokens[:, 0].astype(jnp.float32)}


def layers(config: ViTConfig) -> int:
    """The number of layers for learning rates by layer: the embedding, each block, the head with its normalisation."""
    return config.depth + 2


def layer_of(config: ViTConfig, path: str) -> int:
    """The layer of the parameter at ``path``: 0 for the embedding, blocks from 1, the last for the head."""
    if match := re.search(r"block_(\d+)/", path):
        return 1 + int(match[1])
    return 0 if re.search(r"(stem|class_token|position)", path) else layers(config) - 1
