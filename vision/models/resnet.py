"""Residual networks: He et al. 2016 ("Deep Residual Learning for Image Recognition") and their usual relatives.

The stride of a bottleneck is in its 3x3 convolution ("v1.5"), as in the published weights. Relatives: ResNeXt (Xie et
al. 2017), wide ResNets (Zagoruyko & Komodakis 2016), ResNet-D (He et al. 2019, "Bag of Tricks", section 4),
squeeze-and-excitation (Hu et al. 2018), stochastic depth (Huang et al. 2016), dilated last stages (Chen et al. 2017,
"Rethinking Atrous Convolution"), and the 6n + 2 layers for CIFAR-10 (He et al. 2016, section 4.2). Padding is explicit
and equals PyTorch's, so that published weights give the published logits (``vision/pretrained``).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.nn.batch_norm import batch_norm
from vision.nn.convolution import Conv, PointwiseConv
from vision.nn.dense import Dense
from vision.nn.initializers import fan_in_uniform, he_fan_out
from vision.nn.pooling import max_pool_3x3
from vision.nn.squeeze_excite import SqueezeExcite
from vision.nn.stochastic_depth import linear_rates, stochastic_depth
from vision.ranges import Channels, Depth, DropRate, Fraction, NoneOrMoreClasses


@dataclass(frozen=True)
class ResNetConfig:
    """The architecture of a residual network. The defaults are ResNet-50 for ImageNet."""

    depths: Annotated[tuple[Depth, ...], MinLen(1)] = (3, 4, 6, 3)
    """Residual blocks of each stage; each stage after the first halves the resolution and doubles the channels."""
    block: Literal["basic", "bottleneck"] = "bottleneck"
    """Two 3x3 convolutions; or 1x1, 3x3, 1x1 with four times as many channels outside as inside."""
    width: Channels = 64
    """Channels inside the blocks of the first stage, and of the stem."""
    stem: Literal["imagenet", "deep", "cifar"] = "imagenet"
    """7x7 with stride 2 and a 3x3 max pool; three 3x3 in place of the 7x7 (ResNet-D); one 3x3, no pool."""
    shortcut: Literal["projection", "average", "identity"] = "projection"
    """The shortcut of a block that changes the shape: 1x1 convolution with stride; average pool and 1x1 convolution
    (ResNet-D); every other pixel and channels of zeros, without parameters (option A of He et al. 2016)."""
    groups: Depth = 1
    """Groups of a bottleneck's 3x3 convolution (ResNeXt)."""
    group_width: Channels = 64
    """Channels of each group at a width of 64: 4 for ResNeXt 32x4d, 128 with one group for wide networks."""
    squeeze_excite: Fraction = 0.0
    """Hidden channels of squeeze-and-excitation as a share of the block's; 0 for none, 1/16 as published."""
    output_stride: Literal[8, 16, 32] = 32
    """Stride of the last features: 32 as for classification, each stage after the first with stride 2; at 16 and 8
    convolutions of later stages are dilated instead (Chen et al. 2017), for dense prediction. The parameters are the
    same."""
    stochastic_depth: DropRate = 0.0
    """Probability of dropping the last residual branch in training; linearly lower for earlier ones."""
    dropout: DropRate = 0.0
    """Probability of dropping a feature before the head."""
    classes: NoneOrMoreClasses = 1000
    """Number of logits; 0 for no head, and pooled features as the output."""
    channels: Channels = 3
    """Channels of the image."""
    zero_init: bool = True
    """Initialise residual branches to zero, by the scale of their last normalisation (Goyal et al. 2017)."""
    remat: bool = False
    """Recompute the inside of blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and convolutions; parameters, statistics and the head stay float32."""


# fmt: off
RESNET18        = ResNetConfig(depths=(2, 2, 2, 2), block="basic")
RESNET34        = ResNetConfig(depths=(3, 4, 6, 3), block="basic")
RESNET50        = ResNetConfig(depths=(3, 4, 6, 3))
RESNET101       = ResNetConfig(depths=(3, 4, 23, 3))
RESNET152       = ResNetConfig(depths=(3, 8, 36, 3))
RESNET50_D      = ResNetConfig(depths=(3, 4, 6, 3), stem="deep", shortcut="average")
RESNEXT50_32X4D = ResNetConfig(depths=(3, 4, 6, 3), groups=32, group_width=4)
WIDE_RESNET50_2 = ResNetConfig(depths=(3, 4, 6, 3), group_width=128)
SE_RESNET50     = ResNetConfig(depths=(3, 4, 6, 3), squeeze_excite=1 / 16)
CIFAR_RESNET18  = ResNetConfig(depths=(2, 2, 2, 2), block="basic", stem="cifar", classes=10)
# fmt: on


def cifar_resnet(depth: int, classes: int = 10) -> ResNetConfig:
    """The network of 6n + 2 layers for 32x32 images (He et al. 2016, section 4.2): 20, 32, 44, 56 or 110 as published.

    Raises ``UserError`` where ``depth`` is not 6n + 2 with n > 0.
    """
    if depth < 8 or depth % 6 != 2:
        raise UserError(f"a CIFAR ResNet cannot have depth {depth}: choose 6n + 2, such as 20, 32, 44, 56 or 110")
    depths = ((depth - 2) // 6,) * 3
    return ResNetConfig(depths=depths, block="basic", width=16, stem="cifar", shortcut="identity", classes=classes)


# Tensor parallelism after Shoeybi et al. 2019: the last convolution of a block is sharded over its input channels, the
# ones before it over their outputs, so that one reduction ends the block. A bottleneck without groups gathers the input
# of its 3x3 convolution in addition. The stem and squeeze-and-excitation are small and not sharded.
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+/conv_(in|mid)/kernel$", P(None, None, None, "tensor")),
    (r"block_\d+/conv_out/kernel$", P(None, None, "tensor", None)),
    (r"block_\d+/norm_(in|mid)/(scale|bias|mean|var)$", P("tensor")),
    (r"block_\d+/shortcut/conv/kernel$", P(None, None, None, "tensor")),
    (r"head/kernel$", P("tensor", None)),
)

Norm = Callable[..., nn.Module]

Conv1x1 = partial(PointwiseConv, kernel_init=he_fan_out)
Conv3x3 = partial(Conv, use_bias=False, kernel_init=he_fan_out)


class Shortcut(nn.Module):
    """The shortcut of a residual block, which is the identity unless the block changes the shape."""

    channels: int
    stride: int
    kind: Literal["projection", "average", "identity"] = "projection"
    norm: Norm = batch_norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], train: bool) -> Float[Array, "b H W channels"]:
        """Bring the features to the block's shape: sides divided by the stride and rounded up."""
        _, height, width, channels = features.shape
        if self.stride == 1 and channels == self.channels:
            return features
        stride = self.stride
        if self.kind == "identity":
            # Zeros on both sides of the channels: the paper does not specify where, published weights are like this.
            before = (self.channels - channels) // 2
            spread = ((0, 0), (0, 0), (0, 0), (before, self.channels - channels - before))
            return jnp.pad(features[:, ::stride, ::stride], spread)
        if self.kind == "average" and stride > 1:
            odd = ((0, height % stride), (0, width % stride))
            window = (stride, stride)
            pool = partial(nn.avg_pool, window_shape=window, strides=window, count_include_pad=False)
            features = pool(features, padding=odd)  # pyright: ignore[reportArgumentType] - takes pairs too
            stride = 1
        features = Conv1x1(self.channels, strides=stride, dtype=self.dtype, name="conv")(features)
        return self.norm(train=train, dtype=self.dtype, name="norm")(features)


class BasicBlock(nn.Module):
    """conv 3x3, norm, act, conv 3x3, norm, + shortcut, act (He et al. 2016, fig. 5 left).

    ``dilation`` is that of the first convolution and ``dilation_out`` that of the second: in a block that is dilated in
    place of a stride, the second sees what is behind the stride that is not there.

    In addition to its shape, a block is given its parts: ``norm`` and ``act``; ``shortcut`` (channels, stride) for the
    residual connection; ``excite`` () for the layer after the last normalisation; ``drop``, the rate of stochastic
    depth.
    """

    channels: int
    stride: int = 1
    dilation: int = 1
    dilation_out: int = 1
    norm: Norm = batch_norm
    act: Callable[[Array], Array] = nn.relu
    shortcut: Callable[..., nn.Module] = Shortcut
    excite: Callable[..., nn.Module] | None = None
    drop: float = 0.0
    zero_init: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], train: bool) -> Float[Array, "b H W channels"]:
        """Transform ``features``; ``train`` is positional so that remat can treat it as static."""
        norm = partial(self.norm, train=train, dtype=self.dtype)
        last_norm = partial(norm, scale_init=nn.initializers.zeros) if self.zero_init else norm
        conv = partial(Conv3x3, self.channels, winograd=train, dtype=self.dtype)
        hidden = conv(strides=self.stride, dilation=self.dilation, name="conv_in")(features)
        hidden = self.act(norm(name="norm_in")(hidden))
        hidden = conv(dilation=self.dilation_out, name="conv_out")(hidden)
        hidden = last_norm(name="norm_out")(hidden)
        if self.excite is not None:
            hidden = self.excite(name="excite")(hidden)
        if train and self.drop > 0:
            hidden = stochastic_depth(hidden, rate=self.drop, key=self.make_rng("dropout"))
        return self.act(self.shortcut(self.channels, self.stride, name="shortcut")(features, train) + hidden)


class BottleneckBlock(nn.Module):
    """conv 1x1, norm, act, conv 3x3 with stride, dilation and groups, norm, act, conv 1x1, norm, + shortcut, act.

    He et al. 2016, fig. 5 right. ``inner`` is the width of the 3x3 convolution; the parts are those of BasicBlock.
    """

    channels: int
    inner: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    norm: Norm = batch_norm
    act: Callable[[Array], Array] = nn.relu
    shortcut: Callable[..., nn.Module] = Shortcut
    excite: Callable[..., nn.Module] | None = None
    drop: float = 0.0
    zero_init: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], train: bool) -> Float[Array, "b H W channels"]:
        """Transform ``features``; ``train`` is positional so that remat can treat it as static."""
        norm = partial(self.norm, train=train, dtype=self.dtype)
        last_norm = partial(norm, scale_init=nn.initializers.zeros) if self.zero_init else norm
        hidden = Conv1x1(self.inner, dtype=self.dtype, name="conv_in")(features)
        hidden = self.act(norm(name="norm_in")(hidden))
        how: dict[str, Any] = {"strides": self.stride, "dilation": self.dilation, "groups": self.groups}
        hidden = Conv3x3(self.inner, winograd=train, dtype=self.dtype, name="conv_mid", **how)(hidden)
        hidden = self.act(norm(name="norm_mid")(hidden))
        hidden = Conv1x1(self.channels, dtype=self.dtype, name="conv_out")(hidden)
        hidden = last_norm(name="norm_out")(hidden)
        if self.excite is not None:
            hidden = self.excite(name="excite")(hidden)
        if train and self.drop > 0:
            hidden = stochastic_depth(hidden, rate=self.drop, key=self.make_rng("dropout"))
        return self.act(self.shortcut(self.channels, self.stride, name="shortcut")(features, train) + hidden)


class ResNet(nn.Module):
    """Classify images, or return features of several resolutions.

    ``norm`` is called with train, dtype, name and, for ``zero_init``, scale_init (see :func:`batch_norm`).
    """

    config: ResNetConfig = ResNetConfig()
    norm: Norm = batch_norm
    act: Callable[[Array], Array] = nn.relu

    @property
    def output_stride(self) -> int:
        """The stride of the last features."""
        natural = natural_stride(self.config)
        return natural if self.config.output_stride == 32 else self.config.output_stride

    def setup(self):
        """The parts after the features, which :meth:`features` does not need."""
        self.dropout = nn.Dropout(self.config.dropout)
        if self.config.classes > 0:
            self.head = Dense(self.config.classes, kernel_init=fan_in_uniform)

    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b d"]:
        """Logits in float32, [b classes]; pooled features where ``config.classes`` is 0.

        Args:
          image: images of about zero mean and unit variance.
          train: whether to use the statistics of the batch (``mutable=["batch_stats"]``), and whether dropout and
            stochastic depth are active (which need the "dropout" random stream where their rates are not 0).

        Raises:
          UserError: if the configuration contradicts itself.
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
        return {**levels, "pooled": levels[f"c{len(self.config.depths) + 1}"].mean((1, 2), dtype=jnp.float32)}

    @nn.compact
    def levels(self, image: Float[Array, "b h w c"], *, train: bool) -> dict[str, Float[Array, "b _ _ _"]]:
        """Features of every resolution, with which detectors begin.

        Returns:
          "c1": the stem's output before its max pool; "c2", "c3", ...: each stage's output; in ``config.dtype``. With
          the ImageNet stems "cN" has the stride 2**N, at most ``config.output_stride``; with the CIFAR stem "c1" and
          "c2" have the stride 1, "c3" 2.
        """
        config = self.config
        dtype = jnp.dtype(config.dtype)
        if config.block == "basic" and (config.groups, config.group_width) != (1, 64):
            raise UserError(
                f"basic blocks have neither groups nor another group_width (groups={config.groups}, "
                f"group_width={config.group_width}): choose block='bottleneck', or change width"
            )
        if config.block == "bottleneck" and config.width * config.group_width < 64:
            raise UserError(
                f"groups of width {config.group_width} have no channels in a network of width {config.width}: "
                f"choose a width of at least {-(-64 // config.group_width)}"
            )
        if config.output_stride < 32 and (config.stem == "cifar" or config.output_stride > natural_stride(config)):
            raise UserError(
                f"a ResNet of {len(config.depths)} stages with the stem {config.stem} has features of stride "
                f"{natural_stride(config)} at most and cannot have output_stride={config.output_stride}: choose "
                "output_stride=32 for the strides that it has, or the stem imagenet or deep and four stages"
            )
        hidden = self._stem(image, train, dtype)
        levels = {"c1": hidden}
        if config.stem != "cifar":
            hidden = max_pool_3x3(hidden)
        parts: dict[str, Any] = {"norm": self.norm, "act": self.act, "dtype": dtype, "zero_init": config.zero_init}
        parts["shortcut"] = partial(Shortcut, kind=config.shortcut, norm=self.norm, dtype=dtype)
        rates = iter(linear_rates(config.stochastic_depth, sum(config.depths)))
        expansion = 4 if config.block == "bottleneck" else 1
        dilation = 1
        for stage, depth in enumerate(config.depths):
            narrow = config.width * 2**stage
            channels = expansion * narrow
            if config.squeeze_excite > 0:
                squeezed = max(round(config.squeeze_excite * channels), 1)
                parts["excite"] = partial(SqueezeExcite, squeezed, act=self.act, dtype=dtype)
            if config.block == "basic":
                make = BasicBlock
            else:
                make = BottleneckBlock
                parts |= {"inner": narrow * config.group_width // 64 * config.groups, "groups": config.groups}
            if config.remat:
                make = nn.remat(make, static_argnums=(2,))
            # 2 ** (stage + 2) is the stride with which the stage would end. Where that is too much, all that would come
            # behind the stride has twice the dilation, so that pixels that a stride would have kept are as they were.
            dilated = config.output_stride < 32 and 2 ** (stage + 2) > config.output_stride
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 and not dilated else 1
                behind = 2 * dilation if dilated and index == 0 else dilation
                shape = {"stride": stride, "dilation": dilation, "drop": next(rates)}
                if config.block == "basic":
                    shape["dilation_out"] = behind
                hidden = make(channels, **shape, **parts, name=f"stage_{stage + 1}_block_{index}")(hidden, train)
                dilation = behind
            levels[f"c{stage + 2}"] = hidden
        return levels

    def _stem(self, image: Array, train: bool, dtype: Any) -> Array:
        """The layers before the first stage, without the max pool."""
        width = self.config.width
        norm = partial(self.norm, train=train, dtype=dtype)
        if self.config.stem == "deep":
            # He et al. 2019, fig. 2b (ResNet-C); the last convolution is the stem's own below
            for index, stride in enumerate((2, 1)):
                image = Conv3x3(width // 2, strides=stride, dtype=dtype, name=f"stem_{index}_conv")(image)
                image = self.act(norm(name=f"stem_{index}_norm")(image))
        if self.config.stem == "imagenet":
            conv = partial(Conv, size=7, strides=2, use_bias=False, kernel_init=he_fan_out)
        else:
            conv = Conv3x3
        hidden = conv(width, dtype=dtype, name="stem_conv")(image)
        return self.act(norm(name="stem_norm")(hidden))


def natural_stride(config: ResNetConfig) -> int:
    """The stride of the last features without dilation."""
    return 2 ** (len(config.depths) - 1) * (1 if config.stem == "cifar" else 4)


def layers(config: ResNetConfig) -> int:
    """Layers for learning rates by depth: the stem, every residual block, the head."""
    return sum(config.depths) + 2


def layer_of(config: ResNetConfig, path: str) -> int:
    """The layer of the parameter at ``path``, from 0 for the stem to ``layers(config) - 1`` for the head."""
    block = re.search(r"stage_(\d+)_block_(\d+)", path)
    if block is not None:
        stage, index = map(int, block.groups())
        return sum(config.depths[: stage - 1]) + index + 1
    return layers(config) - 1 if "head" in path else 0
