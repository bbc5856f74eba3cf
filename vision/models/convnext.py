"""ConvNeXt: Liu et al. 2022, "A ConvNet for the 2020s" (arXiv:2201.03545).

The normalisations and the layout equal those of the published weights (``vision/pretrained/convnext.py``).
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.nn.stochastic_depth import stochastic_depth
from vision.ranges import Channels, Depth, DropRate, NoneOrMoreClasses, PositiveFloat


@dataclass(frozen=True)
class ConvNeXtConfig:
    """The architecture of a ConvNeXt. The defaults are ConvNeXt-T for ImageNet."""

    depths: Annotated[tuple[Depth, ...], MinLen(1)] = (3, 3, 9, 3)
    """Blocks of each stage, at least 1; each stage after the first halves the resolution."""
    widths: Annotated[tuple[Channels, ...], MinLen(1)] = (96, 192, 384, 768)
    """Channels of each stage, at least 1; as many as there are stages."""
    layer_scale: PositiveFloat = 1e-6
    """Initial scale of each channel of a residual branch (Touvron et al. 2021, "CaiT"), above 0."""
    stochastic_depth: DropRate = 0.0
    """Probability, in [0, 1), of dropping the last residual branch in training; linearly lower for earlier ones, 0 for
    the first."""
    classes: NoneOrMoreClasses = 1000
    """Number of logits, not negative; 0 for no head, and pooled features as the output."""
    channels: Channels = 3
    """Channels of the image, at least 1."""
    remat: bool = False
    """Recompute the inside of blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and convolutions; parameters, normalisation and the head stay float32."""


# Liu et al. 2022, section 3
CONVNEXT_TINY = ConvNeXtConfig()
CONVNEXT_SMALL = ConvNeXtConfig(depths=(3, 3, 27, 3))
CONVNEXT_BASE = ConvNeXtConfig(depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024))
CONVNEXT_LARGE = ConvNeXtConfig(depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536))
CONVNEXT_XLARGE = ConvNeXtConfig(depths=(3, 3, 27, 3), widths=(256, 512, 1024, 2048))

# Shoeybi et al. 2019: of two layers, split the outputs of the first and the inputs of the second.
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+/dense_in/kernel$", P(None, "tensor")),
    (r"block_\d+/dense_in/bias$", P("tensor")),
    (r"block_\d+/dense_out/kernel$", P("tensor", None)),
    (r"head/kernel$", P("tensor", None)),
)

# Liu et al. 2022, appendix A: deviation 0.02, truncated
small = nn.initializers.truncated_normal(0.02)
LayerNorm = partial(nn.LayerNorm, epsilon=1e-6)


class Block(nn.Module):
    """Depthwise 7x7 convolution, LayerNorm, dense, GELU, dense, layer scale (Liu et al. 2022, figure 4, right)."""

    layer_scale: float = 1e-6
    drop: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """Transform ``features``; ``train`` is positional so that remat can treat it as static."""
        width = features.shape[-1]
        depthwise = Conv(width, 7, groups=width, kernel_init=small, dtype=self.dtype, name="depthwise")
        hidden = depthwise(features)
        hidden = LayerNorm(dtype=self.dtype, name="norm")(hidden)
        hidden = Dense(4 * width, kernel_init=small, dtype=self.dtype, name="dense_in")(hidden)
        hidden = nn.gelu(hidden, approximate=False)
        hidden = Dense(width, kernel_init=small, dtype=self.dtype, name="dense_out")(hidden)
        scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (width,))
        hidden = (hidden * scale).astype(self.dtype)
        if train and self.drop > 0:
            hidden = stochastic_depth(hidden, rate=self.drop, key=self.make_rng("dropout"))
        return features + hidden


class ConvNeXt(nn.Module):
    """Classify images, or return features of several resolutions."""

    config: ConvNeXtConfig = ConvNeXtConfig()

    @property
    def output_stride(self) -> int:
        """The stride of the last features."""
        return 2 ** (len(self.config.depths) + 1)

    def setup(self):
        """The parts after the features: the normalisation of their mean, and the head."""
        self.norm = LayerNorm()
        if self.config.classes > 0:
            self.head = Dense(self.config.classes, kernel_init=small)

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b d"]:
        """Logits in float32, [b classes]; pooled features where ``config.classes`` is 0.

        Args:
          image: images of about zero mean and unit variance.
          train: whether stochastic depth is active, which needs the "dropout" random stream where its rate is not 0.

        Raises:
          UserError: if depths and widths are not equally many.
        """
        pooled = self.features(image, train=train)["pooled"]
        return self.head(pooled) if self.config.classes > 0 else pooled

    def features(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Array]:
        """Features of all levels: ``model.apply(variables, image, train=False, method="features")``.

        Returns:
          what :meth:`levels` returns, and "pooled": the mean of the last over its pixels, layer-normalised, [b d] in
          float32.
        """
        levels = self.levels(image, train=train)
        pooled = levels[f"c{len(self.config.depths) + 1}"].mean((1, 2), dtype=jnp.float32)
        return {**levels, "pooled": self.norm(pooled)}

    @nn.compact
    def levels(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        """Features of every resolution, with which detectors begin.

        Returns:
          "c2", "c3", ...: each stage's output, with the stride 2**N, in ``config.dtype``.
        """
        config = self.config
        dtype = jnp.dtype(config.dtype)
        if len(config.depths) != len(config.widths):
            raise UserError(
                f"a ConvNeXt with {len(config.depths)} depths cannot have {len(config.widths)} widths: "
                "give each stage one of both"
            )
        blocks = sum(config.depths)
        # from 0 at the first block, as published
        rates = iter(config.stochastic_depth * index / max(blocks - 1, 1) for index in range(blocks))
        block = nn.remat(Block, static_argnums=(2,)) if config.remat else Block
        conv = partial(Conv, padding="VALID", kernel_init=small, dtype=dtype)
        hidden = conv(config.widths[0], 4, 4, name="stem_conv")(image)
        hidden = LayerNorm(dtype=dtype, name="stem_norm")(hidden)
        levels: dict[str, Array] = {}
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True), start=1):
            if stage > 1:
                hidden = LayerNorm(dtype=dtype, name=f"stage_{stage}_down_norm")(hidden)
                hidden = conv(width, 2, 2, name=f"stage_{stage}_down_conv")(hidden)
            for index in range(depth):
                name = f"stage_{stage}_block_{index}"
                hidden = block(config.layer_scale, next(rates), dtype, name=name)(hidden, train)
            levels[f"c{stage + 1}"] = hidden
        return levels


def layers(config: ConvNeXtConfig) -> int:
    """The number of layers for learning rates by layer: the stem, each block, and the head with its normalisation."""
    return sum(config.depths) + 2


def layer_of(config: ConvNeXtConfig, path: str) -> int:
    """The layer of the parameter at ``path``: 0 for the stem, blocks from 1, ``layers(config) - 1`` for the head.

    A downsampling layer belongs to the block that follows it.
    """
    if match := re.search(r"stage_(\d+)_(?:block_(\d+)|down)", path):
        return 1 + sum(config.depths[: int(match[1]) - 1]) + int(match[2] or 0)
    return 0 if "stem_" in path else layers(config) - 1
