"""DeepLabV3 and DeepLabV3+: dilated convolutions of several rates side by side, with a mean over the image.

Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation" (arXiv:1706.05587); Chen et al. 2018,
"Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation" (arXiv:1802.02611). Without the
decoder of the second it is the network of torchvision's weights.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen
from jaxtyping import Array, Float

from vision.models.segmentation.fcn import logits_of
from vision.models.segmentation.levels import Levels, last_level, level, size_of
from vision.nn.batch_norm import batch_norm
from vision.nn.conv_norm_act import ConvNormAct, Norm, SeparableConvNormAct
from vision.nn.resample_bilinear import upsample_bilinear_to
from vision.ranges import Channels, Depth, DropRate


@dataclass(frozen=True)
class DeepLabConfig:
    """Dilated convolutions of the last features, and what follows them. The defaults are DeepLabV3."""

    plus: bool = False
    """Whether features of stride 4 are added, as in DeepLabV3+."""
    rates: Annotated[tuple[Depth, ...], MinLen(1)] = (12, 24, 36)
    """Dilation of each branch, at least 1, for features of stride 8; in proportion for others: 6, 12 and 18 for stride
    16."""
    width: Channels = 256
    """Channels of each branch and of all that follows, at least 1."""
    fine_width: Channels = 48
    """Channels to which the features of stride 4 are reduced, at least 1, of DeepLabV3+ alone."""
    separable: bool = False
    """Whether 3x3 convolutions are depthwise and 1x1 ones (Chen et al. 2018, section 3.2)."""
    dropout: DropRate = 0.5
    """Probability, in [0, 1), of dropping a value behind the branches in training."""
    remat: bool = False
    """Recompute the inside of the branches in the backward pass."""


class AtrousPyramid(nn.Module):
    """A 1x1 convolution, dilated 3x3 ones, and the mean of the image, together projected (ASPP)."""

    config: DeepLabConfig
    rates: tuple[int, ...]
    norm: Norm = batch_norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w width"]:
        """Features of the same resolution; ``train`` is positional so that remat can treat it as static."""
        width = self.config.width
        unit = partial(ConvNormAct, width, norm=self.norm, dtype=self.dtype)
        dilated = conv_3x3(self.config, self.norm, self.dtype)
        branches: list[Any] = [unit(name="branch_0")(features, train=train)]
        for index, rate in enumerate(self.rates, start=1):
            branches.append(dilated(width, dilation=rate, name=f"branch_{index}")(features, train=train))
        mean = features.mean((1, 2), keepdims=True, dtype=jnp.float32).astype(self.dtype)
        pooled: Any = unit(name="pool")(mean, train=train)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        hidden = unit(name="project")(jnp.concatenate(branches, -1), train=train)
        return nn.Dropout(self.config.dropout)(hidden, deterministic=not train)


class DeepLab(nn.Module):
    """The decoder of DeepLabV3 or DeepLabV3+.

    ``output_stride`` is that of the last features.
    """

    classes: int
    output_stride: int
    config: DeepLabConfig = DeepLabConfig()
    norm: Norm = batch_norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Levels, *, train: bool) -> Float[Array, "b h w classes"]:
        """Logits in float32, of the resolution of the last features, or of stride 4 with ``config.plus``.

        Raises:
          UserError: there are no features of stride 4, which ``config.plus`` needs.
        """
        config, width = self.config, self.config.width
        rates = tuple(max(rate * 8 // self.output_stride, 1) for rate in config.rates)
        make = nn.remat(AtrousPyramid, static_argnums=(2,)) if config.remat else AtrousPyramid
        conv = conv_3x3(config, self.norm, self.dtype)
        hidden = make(config, rates, self.norm, self.dtype, name="pyramid")(last_level(levels), train)
        if config.plus:
            reduce = ConvNormAct(config.fine_width, norm=self.norm, dtype=self.dtype, name="reduce")
            fine: Any = reduce(level(levels, "c2", "DeepLabV3+"), train=train)
            hidden = jnp.concatenate([upsample_bilinear_to(hidden, size_of(fine)), fine], -1)
            hidden = conv(width, name="fuse")(hidden, train=train)
        return logits_of(self.classes)(conv(width, name="mix")(hidden, train=train))


def conv_3x3(config: DeepLabConfig, norm: Norm, dtype: Any) -> Any:
    """What makes the 3x3 convolutions: (channels, dilation=..., name=...) -> a module."""
    if config.separable:
        return partial(SeparableConvNormAct, norm=norm, dtype=dtype)
    return partial(ConvNormAct, size=3, norm=norm, dtype=dtype)
