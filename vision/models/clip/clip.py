"""CLIP: images and texts in one space (Radford et al. 2021, arXiv:2103.00020), with the sizes that are published.

    made = Clip(VIT_B32).apply(variables, image, tokens, train=False)
    image = Clip(VIT_B32).apply(variables, image, train=False, method="encode_image")["embedding"]

Embeddings are projections of any length; similarities are cosines (:func:`normalised`) times a learned scale.
"""

import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from vision.errors import UserError
from vision.models.clip.resnet import ImageResNet, ImageResNetConfig
from vision.models.clip.text import Activation, TextConfig, TextTransformer
from vision.models.clip.vit import ImageTransformer, ImageTransformerConfig
from vision.models.resnet import SHARDING_RULES as RESNET_RULES
from vision.models.vit import SHARDING_RULES as VIT_RULES
from vision.ops.spherical import normalised
from vision.ranges import Channels
from vision.types import Params

LARGEST_SCALE = 100.0
"""Of similarities (Radford et al. 2021, section 2.5)."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What CLIPs of all image towers share."""

    text: TextConfig = TextConfig()
    embedding: Channels = 512
    """Channels of the space that images and texts have in common."""
    activation: Activation = "quick_gelu"
    """Of the dense networks of transformers: x sigmoid(1.702 x) as in OpenAI's weights, or GELU."""
    logits: Literal["softmax", "sigmoid"] = "softmax"
    """What scaled similarities are: the logits of a softmax over the batch (Radford et al. 2021), or, with a learned
    bias, of a sigmoid for each pair (Zhai et al. 2023)."""
    channels: Channels = 3
    """Channels of the image, at least 1."""
    remat: bool = False
    """Recompute the inside of blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters, softmax and embeddings stay float32."""


@dataclass(frozen=True, kw_only=True)
class TransformerClipConfig(ClipConfig):
    """With a vision transformer. The defaults are ViT-B/32."""

    image: ImageTransformerConfig = ImageTransformerConfig()


@dataclass(frozen=True, kw_only=True)
class ResNetClipConfig(ClipConfig):
    """With a modified ResNet. The defaults are RN50."""

    image: ImageResNetConfig = ImageResNetConfig()
    embedding: Channels = 1024


AnyClipConfig = TransformerClipConfig | ResNetClipConfig

# Radford et al. 2021, tables 19 and 20
VIT_B32 = TransformerClipConfig()
VIT_B16 = TransformerClipConfig(image=ImageTransformerConfig(patch=16))
VIT_L14 = TransformerClipConfig(
    image=ImageTransformerConfig(patch=14, width=1024, depth=24, heads=16),
    text=TextConfig(width=768, heads=12),
    embedding=768,
)
RN50 = ResNetClipConfig()
RN101 = ResNetClipConfig(image=ImageResNetConfig(depths=(3, 4, 23, 3)), embedding=512)
RN50X4 = ResNetClipConfig(
    image=ImageResNetConfig(depths=(4, 6, 10, 6), width=80, heads=40),
    text=TextConfig(width=640, heads=10),
    embedding=640,
)
CLIPS = {
    "vit_b32": VIT_B32,
    "vit_b16": VIT_B16,
    "vit_l14": VIT_L14,
    "rn50": RN50,
    "rn101": RN101,
    "rn50x4": RN50X4,
}
"""The published sizes by name, for images of 224 pixels; RN50x4 is for 288."""

SHARDING_RULES: tuple[tuple[str, P], ...] = (
    *(rule for rule in VIT_RULES if "head" not in rule[0]),
    *(rule for rule in RESNET_RULES if "head" not in rule[0]),
)


class ClipOutput(struct.PyTreeNode):
    """What a CLIP makes of a batch of pairs.

    Attributes:
      image: embeddings of images, float32 [b e], of length 1.
      text: embeddings of texts, likewise.
      scale: float32 scalar, by which cosines are multiplied.
      bias: float32 scalar that is added to them; 0 for a softmax.
    """

    image: Float[Array, "b e"]
    text: Float[Array, "b e"]
    scale: Float[Array, ""]
    bias: Float[Array, ""]


class Clip(nn.Module):
    """Embed images and texts."""

    config: AnyClipConfig = VIT_B32

    def setup(self):
        """Both towers and the scale."""
        config = self.config
        if config.text.end >= config.text.vocabulary:
            raise UserError(
                f"the end token {config.text.end} is none of a vocabulary of {config.text.vocabulary} tokens"
            )
        dtype = jnp.dtype(config.dtype)
        match config:
            case TransformerClipConfig():
                self.image = ImageTransformer(config.image, config.embedding, config.activation, config.remat, dtype)
            case ResNetClipConfig():
                self.image = ImageResNet(config.image, config.embedding, config.remat, dtype)
        self.text = TextTransformer(config.text, config.embedding, config.activation, config.remat, dtype)
        # Radford et al. 2021, section 2.5: 1 / 0.07; Zhai et al. 2023, algorithm 1: 10 and -10
        initial = math.log(1 / 0.07) if config.logits == "softmax" else math.log(10.0)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(initial), ())
        if config.logits == "sigmoid":
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def __call__(self, image: Float[Array, "b h w c"], tokens: Int[Array, "b n"], *, train: bool) -> ClipOutput:
        """Embed pairs.

        Args:
          image: images of about zero mean and unit variance, of the sides that the tower was initialised for.
          tokens: in [0, text.vocabulary), each row with the end token.
          train: for a ResNet, whether to use the statistics of the batch (``mutable=["batch_stats"]``).

        Raises:
          UserError: the configuration contradicts itself, or images or tokens do not fit it.
        """
        images = self.encode_image(image, train=train)["embedding"]
        texts = self.encode_text(tokens, train=train)["embedding"]
        bias = self.logit_bias if self.config.logits == "sigmoid" else jnp.zeros(())
        return ClipOutput(normalised(images), normalised(texts), jnp.exp(self.logit_scale), bias)

    def encode_image(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Array]:
        """Images alone: "embedding" float32 [b e] of any length, and "tokens" [b H W d], see the towers."""
        return self.image(image, train=train)

    def encode_text(self, tokens: Int[Array, "b n"], *, train: bool) -> dict[str, Array]:
        """Texts alone: "embedding" float32 [b e] of any length, and "tokens" [b n d] after the last normalisation."""
        return self.text(tokens, train=train)


def limited_scale(params: Params) -> Params:
    """Parameters of a `Clip` whose scale is at most `LARGEST_SCALE`, for ``vision.train.step.projected``."""
    return {**params, "logit_scale": jnp.minimum(params["logit_scale"], math.log(LARGEST_SCALE))}
