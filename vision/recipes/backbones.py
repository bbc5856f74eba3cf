"""Backbones by name: features of strides 8, 16 and 32 from any classifier that has them, with its published weights.

Detection recipes have the field ``backbone`` (`backbone_by_name`) and give their network what :func:`backbone` makes.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn

from vision.errors import UserError
from vision.models import convnext, mobilenet, resnet
from vision.models.convnext import ConvNeXt, ConvNeXtConfig
from vision.models.mobilenet import MobileNetV2, MobileNetV2Config
from vision.models.resnet import ResNet, ResNetConfig
from vision.nn.batch_norm import batch_norm
from vision.ops.pixels import PixelScale
from vision.parallel.sharding import ShardingRules
from vision.pretrained.adapted import Adapt
from vision.pretrained.backbone import backbone_rules, backbone_weights
from vision.pretrained.rules import WeightRules
from vision.recipes.classifiers import CLASSIFIERS, ClassifierConfig, network, quick


@dataclass(frozen=True)
class OwnBackbone:
    """The backbone that the detector was published with, whose size is the detector's."""


BackboneConfig = OwnBackbone | ClassifierConfig

BACKBONES: Mapping[str, BackboneConfig] = {"csp_darknet": OwnBackbone(), **CLASSIFIERS}
"""Backbones by name, for the command line (``--backbone NAME``)."""

Make = Callable[..., nn.Module]


def backbone_by_name() -> Any:
    """The field ``backbone`` of a recipe: ``--backbone NAME``, then ``--backbone.FIELD``.

    With ``--quick``, NAME stands for the classifier's small relative.
    """
    small = {name: quick(config) for name, config in CLASSIFIERS.items()}
    table = {"csp_darknet": OwnBackbone(), **small}
    return field(default=OwnBackbone(), metadata={"choices": BACKBONES, "quick_choices": table})


@dataclass(frozen=True)
class Backbone:
    """A classifier in place of a detector's own backbone, and what a recipe must know of it."""

    make: Callable[[Callable[..., nn.Module]], Make]
    """Normalisation (see ``nn/batch_norm.py``) -> (name=...) -> a module with the method ``levels``."""
    rules: ShardingRules
    """Sharding rules."""
    published: WeightRules
    """How published weights of the classifier are named, for variables below ``backbone/``."""
    ignored: Sequence[str]
    """Regular expressions of published names that may be left unused."""
    adapt: Adapt
    """What is done with a classifier's arrays before the rules apply."""
    norm: Callable[..., nn.Module] = batch_norm
    """The normalisation that the published weights were trained with."""


def backbone(config: BackboneConfig, *, pixels: PixelScale, dtype: str) -> Backbone | None:
    """The backbone of a configuration, None for the detector's own.

    Args:
      config: of the backbone.
      pixels: how the detector takes images.
      dtype: in which the rest of the detector computes.

    Raises:
      UserError: a network without features of strides 8, 16 and 32, or one that computes in another dtype.
    """
    match config:
        case OwnBackbone():
            return None
        case ResNetConfig() if config.stem != "cifar" and len(config.depths) == 4:
            make, rules = functools.partial(ResNet, config), resnet.SHARDING_RULES
            chosen: Any = lambda norm: functools.partial(make, norm=norm)
        case ConvNeXtConfig() if len(config.depths) == 4:
            make, rules = functools.partial(ConvNeXt, config), convnext.SHARDING_RULES
            chosen = lambda norm: make
        case MobileNetV2Config() if mobilenet.total_stride(config) == 32:
            make, rules = functools.partial(MobileNetV2, config), mobilenet.SHARDING_RULES
            chosen = lambda norm: functools.partial(make, norm=norm)
        case _:
            raise UserError(
                f"{_what(config)} has no features of strides 8, 16 and 32, which a backbone needs: choose a ResNet "
                "with the stem imagenet or deep and four stages, a ConvNeXt with four stages, or a MobileNetV2 four of "
                "whose strides are 2"
            )
    if config.dtype != dtype:
        raise UserError(
            f"the backbone computes in {config.dtype} and the detector in {dtype}: give --backbone.dtype and "
            "--model.dtype the same"
        )
    classifier = network(config)
    return Backbone(
        make=chosen,
        rules=rules,
        published=backbone_rules(classifier.published),
        ignored=classifier.ignored,
        adapt=backbone_weights(classifier.published, pixels),
    )


def _what(config: BackboneConfig) -> str:
    """The kind of network, for messages: "a ViT"."""
    return f"a {type(config).__name__.removesuffix('Config')}"
