"""Panoptic feature pyramid networks (Kirillov et al. 2019): Mask R-CNN with a semantic branch on the same pyramid.

The levels of strides 4 to 32 that regions take features from go to the branch too, whose logits are of all classes of
stuff and of one more that all things share (section 3.1). All parameters of Mask R-CNN have its own names, so that its
weights are those of this network but for "semantic".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.models.instances import mask_rcnn
from vision.models.instances.mask_rcnn import STRIDES, InstancePredictions, MaskRcnn, MaskRcnnConfig
from vision.models.instances.region_proposals import Regions
from vision.models.segmentation.feature_pyramid import SemanticBranch
from vision.nn.resample_bilinear import upsample_bilinear_to
from vision.ranges import Channels, Classes

SHARDING_RULES: tuple[tuple[str, P], ...] = mask_rcnn.SHARDING_RULES
"""Those of Mask R-CNN: the semantic branch is divided by data and fsdp only."""


@dataclass(frozen=True)
class PanopticRcnnConfig:
    """The architecture. The defaults are the published ones, for the 80 things and 53 classes of stuff of COCO."""

    instances: MaskRcnnConfig = MaskRcnnConfig()
    """The network for things; with masks."""
    stuff: Classes = 53
    """Number of classes of stuff; the semantic branch has one more, of all things."""
    branch_width: Channels = 128
    """Channels of the semantic branch."""


class PanopticPredictions(NamedTuple):
    """All that the network predicts; see the methods of :class:`PanopticRcnn`."""

    instances: InstancePredictions
    semantic: Float[Array, "b h w k"]


class PanopticRcnn(nn.Module):
    """The parts of :class:`vision.models.instances.mask_rcnn.MaskRcnn`, and "semantic"."""

    config: PanopticRcnnConfig = PanopticRcnnConfig()

    def setup(self):
        """Mask R-CNN in the scope of this module, and the semantic branch."""
        config = self.config
        self.things = MaskRcnn(config.instances)
        nn.share_scope(self, self.things)
        dtype = jnp.dtype(config.instances.backbone.dtype)
        self.semantic_branch = SemanticBranch(1 + config.stuff, config.branch_width, dtype, name="semantic")

    def __call__(
        self, image: Float[Array, "b h w 3"], boxes: Float[Array, "b n 4"] | None = None, *, train: bool
    ) -> PanopticPredictions:
        """Everything, for given boxes, as Mask R-CNN has it."""
        return PanopticPredictions(
            self.things(image, boxes, train=train), self.semantic(self.levels(image, train=train))
        )

    def levels(self, image: Float[Array, "b h w 3"], *, train: bool) -> tuple[Float[Array, "b _ _ c"], ...]:
        """See :class:`MaskRcnn`, as for the next three."""
        return self.things.levels(image, train=train)

    def regions(self, levels: Sequence[Float[Array, "b _ _ c"]]) -> Regions:
        """Objectness and boxes of all anchors."""
        return self.things.regions(levels)

    def boxes(
        self, levels: Sequence[Float[Array, "b _ _ c"]], boxes: Float[Array, "b n 4"]
    ) -> tuple[Float[Array, "b n k"], Float[Array, "b n k 4"]]:
        """Logits and offsets of boxes."""
        return self.things.boxes(levels, boxes)

    def masks(
        self, levels: Sequence[Float[Array, "b _ _ c"]], boxes: Float[Array, "b n 4"]
    ) -> Float[Array, "b n s s k"]:
        """Logits of masks."""
        return self.things.masks(levels, boxes)

    def semantic(self, levels: Sequence[Float[Array, "b _ _ c"]]) -> Float[Array, "b h w k"]:
        """Logits float32 of things, k = 0, and the classes of stuff, resized bilinearly to the size of the image."""
        height, width = levels[0].shape[1:3]
        named = {f"c{number}": each for number, each in enumerate(levels[: len(STRIDES)], start=2)}
        return upsample_bilinear_to(self.semantic_branch(named), (height * STRIDES[0], width * STRIDES[0]))
