"""Faster and Mask R-CNN on a feature pyramid: regions that may be objects, and their classes, boxes and masks.

Ren et al. 2015; Lin et al. 2017 ("Feature Pyramid Networks"); He et al. 2017, with the sizes of the widely published
networks. The network is in parts, between which ``tasks/instances.py`` selects: levels of an image, regions of levels,
boxes and masks of regions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.models import resnet
from vision.models.instances.heads import BoxHead, MaskHead
from vision.models.instances.pyramid import FeaturePyramid
from vision.models.instances.region_proposals import RegionProposals, Regions
from vision.models.resnet import RESNET50, ResNet, ResNetConfig
from vision.nn.batch_norm import batch_norm
from vision.nn.frozen_batch_norm import frozen_batch_norm
from vision.ops.pixels import PixelScale, scaled
from vision.ops.roi_align import pyramid_roi_align
from vision.ranges import Channels, Classes, Depth, NonNegativeFloat, PositiveFloat

STRIDES = (4, 8, 16, 32)
"""Of the levels that regions take features from; regions are proposed on one more, of stride 64."""

MASK_SIDE = 28
"""Cells along each side of a mask."""

_BOX_CELLS, _MASK_CELLS = 7, MASK_SIDE // 2


@dataclass(frozen=True)
class MaskRcnnConfig:
    """The architecture of a region-based detector. The defaults are Mask R-CNN on ResNet-50 for the classes of COCO."""

    classes: Classes = 80
    """Number of classes, without the background, which is added. The published weights of torchvision are for 90: they
    leave a place for each of COCO's category numbers from 1 to 90, and with the background count 91."""
    mask: bool = True
    """Whether masks are predicted (Mask R-CNN); without, it is Faster R-CNN."""
    backbone: ResNetConfig = RESNET50
    """The network whose levels of strides 4, 8, 16 and 32 the pyramid is of; without its head. Its ``dtype`` is that of
    all activations and convolutions; parameters, statistics and predictions stay float32."""
    norm: Literal["frozen", "batch"] = "frozen"
    """Normalisation of the backbone: fixed, as the published detectors begin from a classifier's weights; or by the
    batch, for training from random weights."""
    norm_epsilon: NonNegativeFloat = 1e-5
    """Added to the variance; 0 for torchvision's published weights of fasterrcnn_resnet50_fpn and
    maskrcnn_resnet50_fpn."""
    channels: Channels = 256
    """Of the pyramid."""
    box_width: Channels = 1024
    """Of the two hidden layers for class and box."""
    mask_width: Channels = 256
    """Channels of the convolutions for masks."""
    mask_depth: Depth = 4
    """3x3 convolutions for masks."""
    anchor_sizes: Annotated[tuple[PositiveFloat, ...], MinLen(5)] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Side in pixels of the anchors of each level, of strides 4 to 64."""
    anchor_ratios: Annotated[tuple[PositiveFloat, ...], MinLen(1)] = (0.5, 1.0, 2.0)
    """Ratios of height and width of the anchors of each cell."""
    pixels: PixelScale = "imagenet"
    """How the network takes images: normalised by the mean and deviation of ImageNet, as published weights need it
    (imagenet), in [-1, 1] (symmetric), or in [0, 1] (unit)."""

    def __post_init__(self):
        if len(self.anchor_sizes) != len(STRIDES) + 1:
            raise UserError(f"anchor_sizes must have one side for each of 5 levels, not {self.anchor_sizes}")
        if self.backbone.stem == "cifar" or len(self.backbone.depths) != len(STRIDES):
            raise UserError(
                "a region-based detector needs a backbone with features of strides 4, 8, 16 and 32: choose a ResNet "
                "with the stem imagenet or deep and four stages"
            )


# Tensor parallelism: the backbone's rules; of two dense layers the first is sharded over its outputs, the second over
# its inputs. The pyramid and the other heads are divided by data and fsdp only.
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    *resnet.SHARDING_RULES[:-1],
    (r"box_head/dense_0/kernel$", P(None, "tensor")),
    (r"box_head/dense_0/bias$", P("tensor")),
    (r"box_head/dense_1/kernel$", P("tensor", None)),
)


class InstancePredictions(NamedTuple):
    """All that the network predicts, of given boxes; see the methods of :class:`MaskRcnn`."""

    regions: Regions
    logits: Float[Array, "b n k"]
    offsets: Float[Array, "b n k 4"]
    masks: Float[Array, "b n s s k"] | None


class MaskRcnn(nn.Module):
    """Levels, regions, boxes and masks: ``model.apply(variables, ..., method="levels")`` and so on."""

    config: MaskRcnnConfig = MaskRcnnConfig()

    def setup(self):
        """The backbone, the pyramid and three heads."""
        config = self.config
        dtype = jnp.dtype(config.backbone.dtype)
        norm: Callable[..., nn.Module] = frozen_batch_norm if config.norm == "frozen" else batch_norm
        self.backbone = ResNet(config.backbone, norm=partial(norm, epsilon=config.norm_epsilon))
        self.pyramid = FeaturePyramid(config.channels, dtype=dtype)
        self.proposals = RegionProposals(config.anchor_sizes, config.anchor_ratios, dtype=dtype)
        self.box_head = BoxHead(config.classes + 1, config.box_width, dtype=dtype)
        if config.mask:
            self.mask_head = MaskHead(config.classes + 1, config.mask_width, config.mask_depth, dtype=dtype)

    def __call__(
        self, image: Float[Array, "b h w 3"], boxes: Float[Array, "b n 4"] | None = None, *, train: bool
    ) -> InstancePredictions:
        """Everything, for given boxes; for the whole image where there are none, as for initialisation.

        Args:
          image: see :meth:`levels`.
          boxes: corners in pixels.
          train: see :meth:`levels`.
        """
        levels = self.levels(image, train=train)
        if boxes is None:
            height, width = image.shape[1:3]
            boxes = jnp.broadcast_to(jnp.array([0.0, 0.0, width, height]), (image.shape[0], 1, 4))
        logits, offsets = self.boxes(levels, boxes)
        masks = self.masks(levels, boxes) if self.config.mask else None
        return InstancePredictions(self.regions(levels), logits, offsets, masks)

    def levels(self, image: Float[Array, "b h w 3"], *, train: bool) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Features of strides 4, 8, 16, 32 and 64.

        Args:
          image: images in [-1, 1], whatever ``config.pixels`` is, in the upper left of the array; published networks
            have the mean of ImageNet where there is no image.
          train: whether to use the statistics of the batch (``mutable=["batch_stats"]``) where ``config.norm`` is
            "batch", and stochastic depth where the backbone has it (the "dropout" random stream).

        Raises:
          UserError: sides that are not multiples of 32.
        """
        height, width = image.shape[1:3]
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise UserError(f"a detector takes images whose sides are multiples of 32, not {height}x{width}")
        found = self.backbone.levels(scaled(image, self.config.pixels), train=train)
        return self.pyramid([found[f"c{k}"] for k in range(2, 6)])

    def regions(self, levels: Sequence[Float[Array, "b _ _ c"]]) -> Regions:
        """Objectness and boxes of all anchors, from the five levels."""
        height, width = levels[0].shape[1:3]
        return self.proposals(levels, (height * STRIDES[0], width * STRIDES[0]))

    def boxes(
        self, levels: Sequence[Float[Array, "b _ _ c"]], boxes: Float[Array, "b n 4"]
    ) -> tuple[Float[Array, "b n k"], Float[Array, "b n k 4"]]:
        """Logits of the background, k = 0, and the classes, and the offsets of the box that each would have."""
        logits, offsets = self.box_head(self._inside(levels, boxes, _BOX_CELLS))
        return logits.reshape(*boxes.shape[:2], -1), offsets.reshape(*boxes.shape[:2], -1, 4)

    def masks(
        self, levels: Sequence[Float[Array, "b _ _ c"]], boxes: Float[Array, "b n 4"]
    ) -> Float[Array, "b n s s k"]:
        """Logits of the mask that each class would have in the frame of the box, s = `MASK_SIDE`."""
        made: Any = self.mask_head(self._inside(levels, boxes, _MASK_CELLS))
        return made.reshape(*boxes.shape[:2], *made.shape[1:])

    def _inside(self, levels: Sequence[Array], boxes: Array, cells: int) -> Array:
        """Features in boxes as [b n s s c] with the first two axes as one."""
        made = pyramid_roi_align(levels[: len(STRIDES)], boxes, size=cells, strides=STRIDES)
        return made.reshape(-1, *made.shape[2:])
