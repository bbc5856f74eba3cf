"""Backbones by name: features of strides up to 32 from any classifier that has them, with its published weights.

Recipes have the field ``backbone`` and give their network the result: detection :func:`backbone_by_name` and
:func:`backbone`, which know the detector's own backbone too; dense prediction :func:`classifier_by_name` and
:func:`classifier_backbone`, for networks that begin with a classifier.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import flax.linen as nn

from vision.errors import UserError
from vision.models import convnext, mobilenet, resnet, vgg
from vision.models.convnext import ConvNeXt, ConvNeXtConfig
from vision.models.mobilenet import MobileNetV2, MobileNetV2Config
from vision.models.resnet import ResNet, ResNetConfig
from vision.models.vgg import Vgg, VggConfig
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

OutputStride = Literal[8, 16, 32]
"""Strides of the last features that a ResNet may have."""


def backbone_by_name() -> Any:
    """The field ``backbone`` of a detection recipe: ``--backbone NAME``, then ``--backbone.FIELD``.

    With ``--quick``, NAME stands for the classifier's small relative.
    """
    own = {"csp_darknet": OwnBackbone()}
    small = {name: quick(config) for name, config in CLASSIFIERS.items()}
    return field(default=OwnBackbone(), metadata={"choices": BACKBONES, "quick_choices": {**own, **small}})


def classifier_by_name(default: ClassifierConfig, *, output_stride: OutputStride = 32) -> Any:
    """The same field of a recipe without a backbone of its own, for dense prediction.

    Args:
      default: the classifier that is used where none is named.
      output_stride: of the ResNets that are named; their field ``output_stride`` changes it. Others have no dilation.
    """
    table = {name: _dilated(config, output_stride) for name, config in CLASSIFIERS.items()}
    small = {name: quick(config) for name, config in table.items()}
    return field(default=default, metadata={"choices": table, "quick_choices": small})


def _dilated(config: ClassifierConfig, output_stride: OutputStride) -> ClassifierConfig:
    suits = isinstance(config, ResNetConfig) and config.stem != "cifar"
    return replace(config, output_stride=output_stride) if suits else config


@dataclass(frozen=True)
class Backbone:
    """A classifier whose features another network begins with, and what a recipe must know of it."""

    make: Callable[[Callable[..., nn.Module]], Make]
    """Normalisation (see ``nn/batch_norm.py``) -> (name=...) -> a module with the method ``levels`` and the property
    ``output_stride``."""
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
    """The backbone of a detector, with features of strides 8, 16 and 32; None for the detector's own.

    Arguments and errors are those of :func:`classifier_backbone`; a dilated ResNet is refused too.
    """
    if isinstance(config, OwnBackbone):
        return None
    if isinstance(config, ResNetConfig) and config.output_stride != 32:
        raise UserError(
            f"a ResNet with output_stride={config.output_stride} has no features of stride 32, which a detector needs: "
            "set --backbone.output-stride 32"
        )
    return classifier_backbone(config, pixels=pixels, dtype=dtype)


def classifier_backbone(
    config: ClassifierConfig, *, pixels: PixelScale, dtype: str, any_strides: bool = False
) -> Backbone:
    """A classifier as the backbone of another network.

    Args:
      config: of the classifier.
      pixels: how the network takes images.
      dtype: in which the rest of the network computes.
      any_strides: whether the rest of the network takes features of any strides, as those of a CIFAR stem.

    Raises:
      UserError: a classifier without features of strides 8, 16 and 32 (before dilation) where these are needed, or
        without features of several resolutions, or one that computes in another dtype.
    """
    match config:
        case ResNetConfig() if any_strides or (config.stem != "cifar" and len(config.depths) == 4):
            make, rules = functools.partial(ResNet, config), resnet.SHARDING_RULES
            chosen: Any = lambda norm: functools.partial(make, norm=norm)
        case ConvNeXtConfig() if any_strides or len(config.depths) == 4:
            make, rules = functools.partial(ConvNeXt, config), convnext.SHARDING_RULES
            chosen = lambda norm: make
        case MobileNetV2Config() if any_strides or mobilenet.total_stride(config) == 32:
            make, rules = functools.partial(MobileNetV2, config), mobilenet.SHARDING_RULES
            chosen = lambda norm: functools.partial(make, norm=norm)
        case VggConfig() if any_strides or len(config.depths) == 5:
            make, rules = functools.partial(Vgg, config), vgg.SHARDING_RULES
            chosen = lambda norm: make
        case _ if any_strides:
            raise UserError(
                f"{_what(config)} has no features of several resolutions, which a backbone needs: choose a ResNet, a "
                "ConvNeXt, a MobileNetV2 or a VGG"
            )
        case _:
            raise UserError(
                f"{_what(config)} has no features of strides 8, 16 and 32, which a backbone needs: choose a ResNet "
                "with the stem imagenet or deep and four stages, a ConvNeXt with four stages, a MobileNetV2 four of "
                "whose strides are 2, or a VGG with five stages"
            )
    if config.dtype != dtype:
        raise UserError(
            f"the backbone computes in {config.dtype} and the rest of the network in {dtype}: give --backbone.dtype "
            "and --model.dtype the same"
        )
    classifier = network(config)
    return Backbone(
        make=chosen,
        rules=rules,
        published=backbone_rules(classifier.published),
        ignored=classifier.ignored,
        adapt=backbone_weights(classifier.published, pixels),
    )


def _what(config: ClassifierConfig) -> str:
    """The kind of network, for messages: "a ViT"."""
    return f"a {type(config).__name__.removesuffix('Config')}"
