"""MobileNetV2: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv:1801.04381).

Padding and normalisation equal those of the published weights (``vision/pretrained/mobilenet.py``).
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Interval, MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.nn.batch_norm import batch_norm
from vision.nn.convolution import Conv, PointwiseConv
from vision.nn.dense import Dense
from vision.nn.initializers import he_fan_out
from vision.ranges import Channels, Depth, DropRate, NoneOrMoreClasses


@dataclass(frozen=True)
class MobileNetV2Config:
    """The architecture of a MobileNetV2. The defaults are the network of 1.0 for ImageNet (table 2)."""

    width: Annotated[float, Interval(gt=0.0, le=100.0)] = 1.0
    """Multiplier of all channels, above 0 and at most 100, of the last convolution's only where it is above 1; products
    are rounded to multiples of 8."""
    expansions: Annotated[tuple[Depth, ...], MinLen(1)] = (1, 6, 6, 6, 6, 6, 6)
    """Channels inside the blocks of each stage as a multiple of their input's, at least 1; 1 for blocks without the
    convolution that expands."""
    widths: Annotated[tuple[Channels, ...], MinLen(1)] = (16, 24, 32, 64, 96, 160, 320)
    """Channels of each stage before the multiplier, at least 1."""
    depths: Annotated[tuple[Depth, ...], MinLen(1)] = (1, 2, 3, 4, 3, 3, 1)
    """Blocks of each stage, at least 1."""
    strides: Annotated[tuple[Annotated[int, Interval(ge=1, le=2)], ...], MinLen(1)] = (1, 2, 2, 2, 1, 2, 1)
    """Stride of the first block of each stage, 1 or 2; that of the stem is 2."""
    stem_width: Channels = 32
    """Channels of the stem before the multiplier, at least 1."""
    last_width: Channels = 1280
    """Channels of the last convolution before the multiplier, at least 1."""
    dropout: DropRate = 0.2
    """Probability, in [0, 1), of dropping a feature before the head in training."""
    classes: NoneOrMoreClasses = 1000
    """Number of logits, not negative; 0 for no head, and pooled features as the output."""
    channels: Channels = 3
    """Channels of the image, at least 1."""
    remat: bool = False
    """Recompute the inside of blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and convolutions; parameters, statistics and the head stay float32."""


MOBILENET_V2 = MobileNetV2Config()

# Shoeybi et al. 2019: the channels inside a block are divided, which its depthwise convolution and normalisations leave
# so, and one reduction ends the block; likewise the last convolution and the head. The stem is small and not sharded.
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+/conv_(in|mid)/kernel$", P(None, None, None, "tensor")),
    (r"block_\d+/norm_(in|mid)/(scale|bias|mean|var)$", P("tensor")),
    (r"block_\d+/conv_out/kernel$", P(None, None, "tensor", None)),
    (r"last_conv/kernel$", P(None, None, None, "tensor")),
    (r"last_norm/(scale|bias|mean|var)$", P("tensor")),
    (r"head/kernel$", P("tensor", None)),
)

Norm = Callable[..., nn.Module]

Conv1x1 = partial(PointwiseConv, kernel_init=he_fan_out)
Conv3x3 = partial(Conv, use_bias=False, kernel_init=he_fan_out)


def scaled_channels(channels: int, multiplier: float) -> int:
    """The product rounded to a multiple of 8, at least 8 and not below nine tenths of it, as in the paper's code."""
    product = channels * multiplier
    rounded = max(8, int(product + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * product else rounded


class InvertedResidual(nn.Module):
    """conv 1x1 to more channels, depthwise 3x3, conv 1x1 without activation, + identity (table 1, figure 4d).

    The first convolution is left out where the expansion is 1, the identity where the block changes the shape.
    """

    channels: int
    expansion: int = 6
    stride: int = 1
    norm: Norm = batch_norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], train: bool) -> Float[Array, "b H W channels"]:
        """Transform ``features``; ``train`` is positional so that remat can treat it as static."""
        norm = partial(self.norm, train=train, dtype=self.dtype)
        inputs = features.shape[-1]
        inner = self.expansion * inputs
        hidden = features
        if self.expansion > 1:
            hidden = Conv1x1(inner, dtype=self.dtype, name="conv_in")(hidden)
            hidden = nn.relu6(norm(name="norm_in")(hidden))
        depthwise = Conv3x3(inner, groups=inner, strides=self.stride, dtype=self.dtype, name="conv_mid")
        hidden = nn.relu6(norm(name="norm_mid")(depthwise(hidden)))
        hidden = Conv1x1(self.channels, dtype=self.dtype, name="conv_out")(hidden)
        hidden = norm(name="norm_out")(hidden)
        return features + hidden if self.stride == 1 and inputs == self.channels else hidden


class MobileNetV2(nn.Module):
    """Classify images, or return features of several resolutions.

    ``norm`` is called with train, dtype and name (see :func:`batch_norm`).
    """

    config: MobileNetV2Config = MOBILENET_V2
    norm: Norm = batch_norm

    @property
    def output_stride(self) -> int:
        """The stride of the last features."""
        return total_stride(self.config)

    def setup(self):
        """The parts after the features, which :meth:`features` does not need."""
        self.dropout = nn.Dropout(self.config.dropout)
        if self.config.classes > 0:
            self.head = Dense(self.config.classes, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b d"]:
        """Logits in float32, [b classes]; pooled features where ``config.classes`` is 0.

        Args:
          image: images of about zero mean and unit variance.
          train: whether to use the statistics of the batch (``mutable=["batch_stats"]``), and whether dropout is active
            (which needs the "dropout" random stream where its rate is not 0).

        Raises:
          UserError: if the stages' expansions, widths, depths and strides are not equally many.
        """
        pooled = self.features(image, train=train)["pooled"]
        pooled = self.dropout(pooled, deterministic=not train)
        return self.head(pooled) if self.config.classes > 0 else pooled

    def features(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Array]:
        """Features of all levels: ``model.apply(variables, image, train=False, method="features")``.

        Returns:
          what :meth:`levels` returns, and "pooled": the mean of the last over its pixels, [b d] in float32.
        """
        levels = self.levels(image, train=train)
        last = f"c{int(math.log2(total_stride(self.config)))}"
        return {**levels, "pooled": levels[last].mean((1, 2), dtype=jnp.float32)}

    @nn.compact
    def levels(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        """Features of every resolution, with which detectors begin.

        Returns:
          "c1", "c2", ...: the output of the last stage with the stride 2**N, and at the end that of the last
          convolution; in ``config.dtype``.
        """
        config = self.config
        dtype = jnp.dtype(config.dtype)
        norm = partial(self.norm, train=train, dtype=dtype)
        block = nn.remat(InvertedResidual, static_argnums=(2,)) if config.remat else InvertedResidual
        width = scaled_channels(config.stem_width, config.width)
        hidden = Conv3x3(width, strides=2, dtype=dtype, name="stem_conv")(image)
        hidden = nn.relu6(norm(name="stem_norm")(hidden))
        level = 1
        levels = {"c1": hidden}
        for stage, (expansion, channels, depth, stride) in enumerate(stages(config), start=1):
            width = scaled_channels(channels, config.width)
            for index in range(depth):
                how: dict[str, Any] = {"norm": self.norm, "dtype": dtype, "name": f"stage_{stage}_block_{index}"}
                hidden = block(width, expansion, stride if index == 0 else 1, **how)(hidden, train)
            level += stride - 1
            levels[f"c{level}"] = hidden
        # "for multipliers less than one, we apply width multiplier to all layers except the very last" (section 6.1)
        width = scaled_channels(config.last_width, max(1.0, config.width))
        hidden = Conv1x1(width, dtype=dtype, name="last_conv")(hidden)
        levels[f"c{level}"] = nn.relu6(norm(name="last_norm")(hidden))
        return levels


def stages(config: MobileNetV2Config) -> tuple[tuple[int, int, int, int], ...]:
    """(expansion, channels before the multiplier, depth, stride) of each stage.

    Raises ``UserError`` where they are not equally many.
    """
    columns = (config.expansions, config.widths, config.depths, config.strides)
    if len({len(column) for column in columns}) > 1:
        counts = "{} expansions, {} widths, {} depths and {} strides".format(*map(len, columns))
        raise UserError(f"the stages of a MobileNetV2 cannot have {counts}: give each stage one of all four")
    return tuple(zip(*columns, strict=True))


def total_stride(config: MobileNetV2Config) -> int:
    """The stride of the last features, with the stem's."""
    return 2 * math.prod(config.strides)


def layers(config: MobileNetV2Config) -> int:
    """Layers for learning rates by depth: the stem, every block, the last convolution, the head."""
    return sum(config.depths) + 3


def layer_of(config: MobileNetV2Config, path: str) -> int:
    """The layer of the parameter at ``path``, from 0 for the stem to ``layers(config) - 1`` for the head."""
    if match := re.search(r"stage_(\d+)_block_(\d+)", path):
        return 1 + sum(config.depths[: int(match[1]) - 1]) + int(match[2])
    if "last_" in path:
        return layers(config) - 2
    return layers(config) - 1 if "head" in path else 0
