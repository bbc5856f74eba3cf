"""Panoptic feature pyramid networks: from a network to a loss, and to objects with logits of the stuff around them.

Kirillov et al. 2019, "Panoptic Feature Pyramid Networks", section 3.1: the losses of Mask R-CNN and the cross-entropy
of the semantic branch, each with a weight. A batch is as of ``tasks/instances.py``, with

- "semantic" int [b h w]: 0 at the pixels of things, 1 + k at those of the k-th class of stuff, or void.

What is found becomes segments in ``evaluation/panoptic_merging.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vision.models.instances.panoptic import PanopticRcnn
from vision.ranges import NonNegativeFloat
from vision.tasks.instances import (
    InstanceDetectorConfig,
    InstanceLossConfig,
    Instances,
    instances_in_levels,
    losses_of_levels,
    split_key,
    whole_size,
)
from vision.tasks.segmentation import SegmentationLossConfig, segmentation_losses
from vision.types import LossFn


@dataclass(frozen=True)
class PanopticLossConfig:
    """What is learned from; the defaults are the published ones."""

    instances: InstanceLossConfig = InstanceLossConfig()
    """Of things."""
    instance_weight: NonNegativeFloat = 1.0
    """Weight of the sum of the losses of Mask R-CNN, the publication's lambda_i."""
    semantic_weight: NonNegativeFloat = 0.5
    """Weight of the cross-entropy of the semantic branch, lambda_s."""


def panoptic_loss(model: PanopticRcnn, config: PanopticLossConfig, *, ignore: int) -> LossFn:
    """The LossFn of a panoptic network on batches as the module says.

    Logs what :func:`vision.tasks.instances.losses_of_levels` says, and "semantic", the cross-entropy in nats: a mean
    over the pixels of an image that are not void, then over images.

    Args:
      model: the network.
      config: weights, and what Mask R-CNN learns from.
      ignore: the value of void pixels.
    """

    def loss(params, model_state, batch, *, key, step):
        del step
        for_losses, for_network = split_key(key)
        variables = {"params": params, **model_state}
        call: Any = lambda method, *arguments: model.apply(variables, *arguments, method=method)
        how: Any = {"rngs": {"dropout": for_network}, "mutable": ["batch_stats"]}
        levels, new = model.apply(variables, batch["image"], train=True, method="levels", **how)
        masks = model.config.instances.mask
        things, scalars = losses_of_levels(call, levels, batch, config.instances, masks=masks, keys=for_losses)
        truth = batch["semantic"].astype(jnp.int32)
        terms = segmentation_losses(call("semantic", levels), truth, SegmentationLossConfig(), ignore=ignore)
        semantic = jnp.mean(terms["cross_entropy"])
        total = config.instance_weight * things + config.semantic_weight * semantic
        return total, ({**model_state, **new}, {**scalars, "semantic": semantic})

    return loss


class PanopticOutput(NamedTuple):
    """What is found in images, before it is merged."""

    instances: Instances
    """Things, with masks."""
    semantic: Float[Array, "b h w k"]
    """Logits of things, k = 0, and of the classes of stuff."""


def panoptic_detector(model: PanopticRcnn, config: InstanceDetectorConfig) -> Callable[..., PanopticOutput]:
    """(variables, images [b h w 3] in [-1, 1], size int32 [b 2] or None for whole arrays) -> what is found."""

    def detect(
        variables: Mapping[str, Any], images: Float[Array, "b h w 3"], size: Int[Array, "b 2"] | None = None
    ) -> PanopticOutput:
        size = whole_size(images) if size is None else size
        call: Any = lambda method, *arguments, **how: model.apply(variables, *arguments, method=method, **how)
        levels = call("levels", images, train=False)
        masks = model.config.instances.mask
        return PanopticOutput(instances_in_levels(call, levels, size, config, masks=masks), call("semantic", levels))

    return detect
