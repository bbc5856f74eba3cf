"""YOLOv5: anchors at three strides, a CSP-Darknet or another backbone, and features fused in both directions.

Redmon & Farhadi 2018 ("YOLOv3": anchors, three levels, logistic classes); Bochkovskiy et al. 2020 ("YOLOv4": the
cross-stage partial Darknet, spatial pyramid pooling, a path aggregation neck after Liu et al. 2018). The fifth version
has no paper; its published description is followed: stem of 6x6 with stride 2, SiLU, five sizes by two multiples.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval, MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.nn.conv_norm_act import Norm
from vision.nn.convolution import PointwiseConv
from vision.nn.csp import CSPBlock, PyramidPool, yolo_conv, yolo_norm
from vision.nn.resample import upsample_nearest
from vision.ops.pixels import PixelScale, scaled
from vision.ranges import Classes, OpenFraction, PositiveFloat

STRIDES = (8, 16, 32)

# Widths and heights in pixels of the published anchors, for images of 640 pixels: three of each stride
ANCHORS = (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)


@dataclass(frozen=True)
class YoloConfig:
    """The architecture of a detector. The defaults are the size s for the 80 classes of COCO."""

    depth: Annotated[float, Interval(gt=0.0, le=100.0)] = 0.33
    """Bottlenecks per block, as a multiple of those of the size l."""
    width: Annotated[float, Interval(gt=0.0, le=100.0)] = 0.50
    """Channels, as a multiple of those of the size l; rounded up to a multiple of 8."""
    classes: Classes = 80
    """Number of classes."""
    anchors: Annotated[tuple[PositiveFloat, ...], MinLen(1)] = tuple(map(float, ANCHORS))
    """Width and height in pixels of each anchor: first those of stride 8, then equally many of stride 16 and of stride
    32."""
    pixels: PixelScale = "symmetric"
    """How the network takes images: in [-1, 1] (symmetric), in [0, 1] as the published weights of YOLOv5 need it
    (unit), or normalised by the mean and deviation of ImageNet as those of classifiers need it (imagenet)."""
    prior: OpenFraction = 0.01
    """Initial probability of objectness and classes (Lin et al. 2017, "Focal Loss", section 4.1)."""
    remat: bool = False
    """Recompute the inside of bottlenecks in the backward pass."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and convolutions; parameters, statistics and predictions stay float32."""

    def __post_init__(self):
        if not self.anchors or len(self.anchors) % (2 * len(STRIDES)):
            raise UserError(
                f"anchors must be pairs, equally many for each of {len(STRIDES)} strides, not {self.anchors}"
            )

    @property
    def anchors_per_cell(self) -> int:
        """Anchors of each level."""
        return len(self.anchors) // (2 * len(STRIDES))

    @property
    def anchor_levels(self) -> Float[np.ndarray, "levels a 2"]:
        """Width and height in pixels of the anchors of each level, float32."""
        return np.array(self.anchors, np.float32).reshape(len(STRIDES), -1, 2)


# fmt: off
YOLO_N = YoloConfig(depth=0.33, width=0.25)
YOLO_S = YoloConfig(depth=0.33, width=0.50)
YOLO_M = YoloConfig(depth=0.67, width=0.75)
YOLO_L = YoloConfig(depth=1.00, width=1.00)
YOLO_X = YoloConfig(depth=1.33, width=1.25)
# fmt: on

# Tensor parallelism: the bottlenecks' first convolution is sharded over its outputs, the second over its inputs. The
# layers between are small; they have only data and fsdp sharding. Other backbones have rules of their own.
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+/reduce/conv/kernel$", P(None, None, None, "tensor")),
    (r"block_\d+/reduce/norm/(scale|bias|mean|var)$", P("tensor")),
    (r"block_\d+/conv_3x3/conv/kernel$", P(None, None, "tensor", None)),
)


def scaled_anchors(side: int) -> tuple[float, ...]:
    """The published anchors for images of ``side`` pixels, scaled in proportion."""
    return tuple(round(length * side / 640, 2) for length in ANCHORS)


def channels(config: YoloConfig, of_l: int) -> int:
    """The number of channels where the size l has ``of_l``: a multiple of 8."""
    return math.ceil(of_l * config.width / 8) * 8


def blocks(config: YoloConfig, of_l: int) -> int:
    """The number of bottlenecks where the size l has ``of_l``: at least one."""
    return max(round(of_l * config.depth), 1)


class CSPDarknet(nn.Module):
    """Features of strides 8, 16 and 32 of an image (Bochkovskiy et al. 2020, section 3.4, in its later form)."""

    config: YoloConfig
    conv: Any

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> list[Float[Array, "b _ _ _"]]:
        """[b h/8 w/8 c3], [b h/16 w/16 c4], [b h/32 w/32 c5]."""
        config, conv = self.config, self.conv
        hidden: Any = conv(channels(config, 64), size=6, stride=2, name="stem")(image, train=train)
        levels = []
        for stage, (width, depth) in enumerate(((128, 3), (256, 6), (512, 9), (1024, 3)), start=1):
            hidden = conv(channels(config, width), size=3, stride=2, name=f"down_{stage}")(hidden, train=train)
            block = CSPBlock(
                channels(config, width), blocks(config, depth), conv=conv, remat=config.remat, name=f"csp_{stage}"
            )
            hidden = block(hidden, train=train)
            levels.append(hidden)
        levels[-1] = PyramidPool(channels(config, 1024), conv=conv, name="pool")(hidden, train=train)
        return levels[1:]


class PathAggregation(nn.Module):
    """Fuse three levels from coarse to fine and back (Lin et al. 2017, FPN; Liu et al. 2018, PANet)."""

    config: YoloConfig
    conv: Any

    @nn.compact
    def __call__(self, levels: list[Float[Array, "b _ _ _"]], *, train: bool) -> list[Float[Array, "b _ _ _"]]:
        """Three levels of the same resolutions."""
        config, conv = self.config, self.conv
        fine, middle, coarse = levels
        wide = lambda of_l: channels(config, of_l)

        def fuse(name: str, width: int, *parts: Array) -> Any:
            block = CSPBlock(
                wide(width), blocks(config, 3), shortcut=False, conv=conv, remat=config.remat, name=f"fuse_{name}"
            )
            return block(jnp.concatenate(parts, -1), train=train)

        coarse = conv(wide(512), name="lateral_5")(coarse, train=train)
        middle = fuse("up_4", 512, upsample_nearest(coarse), middle)
        middle = conv(wide(256), name="lateral_4")(middle, train=train)
        p3 = fuse("up_3", 256, upsample_nearest(middle), fine)
        down = conv(wide(256), size=3, stride=2, name="down_4")(p3, train=train)
        p4 = fuse("down_4_and_4", 512, down, middle)
        down = conv(wide(512), size=3, stride=2, name="down_5")(p4, train=train)
        p5 = fuse("down_5_and_5", 1024, down, coarse)
        return [p3, p4, p5]


def neck_levels(
    image: Float[Array, "b h w 3"],
    config: YoloConfig,
    *,
    norm: Norm,
    other_backbone: Callable[..., nn.Module] | None,
    train: bool,
) -> list[Float[Array, "b _ _ _"]]:
    """The neck's features of strides 8, 16 and 32, by submodules "backbone", "neck" and, of other backbones, "pool".

    To be called within the compact method of a network, whose arguments these are (see :class:`Yolo`).

    Raises:
      UserError: sides that are not multiples of 32.
    """
    height, width = image.shape[1:3]
    if height % STRIDES[-1] or width % STRIDES[-1]:
        raise UserError(f"a detector takes images whose sides are multiples of 32, not {height}x{width}")
    image = scaled(image, config.pixels)
    conv = partial(yolo_conv, norm=norm, dtype=jnp.dtype(config.dtype))
    if other_backbone is None:
        levels: Any = CSPDarknet(config, conv, name="backbone")(image, train=train)
    else:
        backbone: Any = other_backbone(name="backbone")
        found = backbone.levels(image, train=train)
        pooled = PyramidPool(channels(config, 1024), conv=conv, name="pool")(found["c5"], train=train)
        levels = [found["c3"], found["c4"], pooled]
    neck: Any = PathAggregation(config, conv, name="neck")
    return neck(levels, train=train)


def anchor_outputs(
    levels: list[Float[Array, "b _ _ _"]], config: YoloConfig, *, extra: int = 0
) -> list[Float[Array, "b _ _ a _"]]:
    """What a 1x1 convolution on each level predicts, float32 [b h/stride w/stride anchors (4 + 1 + classes + extra)].

    By submodules "detect_3" to "detect_5" of the network in whose compact method it is called. Objectness and classes
    begin with the probability ``config.prior``, the ``extra`` outputs of each anchor, the last ones, about 0.
    """
    size = 5 + config.classes + extra
    # Lin et al. 2017, section 4.1: b = -log((1 - pi) / pi)
    bias = np.zeros((config.anchors_per_cell, size), np.float32)
    bias[:, 4 : 5 + config.classes] = -math.log((1 - config.prior) / config.prior)
    outputs = []
    for level, features in zip((3, 4, 5), levels, strict=True):
        head = PointwiseConv(
            config.anchors_per_cell * size,
            use_bias=True,
            bias_init=lambda key, shape, dtype=jnp.float32: jnp.asarray(bias.reshape(shape), dtype),
            dtype=jnp.dtype(config.dtype),
            name=f"detect_{level}",
        )
        raw = head(features).astype(jnp.float32)
        outputs.append(raw.reshape(*raw.shape[:3], config.anchors_per_cell, size))
    return outputs


class Yolo(nn.Module):
    """Predict a box, an objectness and classes for each anchor of each cell, at three strides.

    ``norm`` is called with train, dtype and name (see ``nn/batch_norm.py``). ``other_backbone`` is called with name and
    returns a module in place of the CSP-Darknet, whose method ``levels`` gives the features "c3", "c4" and "c5" of
    strides 8, 16 and 32; it is given images as ``config.pixels`` says.
    """

    config: YoloConfig = YoloConfig()
    norm: Norm = yolo_norm
    other_backbone: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> list[Float[Array, "b _ _ a _"]]:
        """Raw predictions of each level, float32 [b h/stride w/stride anchors (4 + 1 + classes)].

        The last axis is x, y, width, height, objectness, classes, all before their sigmoid; see
        ``tasks/detection.py`` for what they mean.

        Args:
          image: images in [-1, 1], whatever ``config.pixels`` is.
          train: whether to use the statistics of the batch (``mutable=["batch_stats"]``).

        Raises:
          UserError: sides that are not multiples of 32.
        """
        levels = neck_levels(image, self.config, norm=self.norm, other_backbone=self.other_backbone, train=train)
        return anchor_outputs(levels, self.config)
