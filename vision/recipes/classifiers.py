"""Classifiers by name: what a recipe must know of each kind of network, and a table of configurations.

To add one: a model file, a case in :func:`network`, and its configurations in :data:`CLASSIFIERS`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
import jax

from vision.models import convnext, mobilenet, vgg, vit
from vision.models.convnext import ConvNeXt, ConvNeXtConfig
from vision.models.mobilenet import MobileNetV2, MobileNetV2Config
from vision.models.resnet import (
    CIFAR_RESNET18,
    RESNET18,
    RESNET34,
    RESNET50,
    RESNET101,
    RESNET152,
    RESNEXT50_32X4D,
    WIDE_RESNET50_2,
    ResNet,
    ResNetConfig,
    cifar_resnet,
)
from vision.models.resnet import SHARDING_RULES as RESNET_RULES
from vision.models.resnet import layer_of as resnet_layer_of
from vision.models.resnet import layers as resnet_layers
from vision.models.speedrun import SHARDING_RULES as SPEEDRUN_RULES
from vision.models.speedrun import SpeedrunConfig, SpeedrunNet, whitening_kernel
from vision.models.speedrun import layer_of as speedrun_layer_of
from vision.models.speedrun import layers as speedrun_layers
from vision.models.vgg import Vgg, VggConfig
from vision.models.vit import ViT, ViTConfig
from vision.parallel.sharding import ShardingRules
from vision.pretrained.adapted import Adapt, unchanged
from vision.pretrained.convnext import convnext_rules
from vision.pretrained.feature_classifier import FeatureNetwork, FeatureNetworkConfig, feature_layer_of
from vision.pretrained.mobilenet import mobilenet_rules
from vision.pretrained.resnet import HEAD, IGNORED, cifar_resnet_rules, resnet_rules
from vision.pretrained.rules import WeightRules
from vision.pretrained.vgg import vgg_rules
from vision.pretrained.vit import vit_rules, vit_weights

ClassifierConfig = (
    ResNetConfig | ConvNeXtConfig | MobileNetV2Config | VggConfig | ViTConfig | SpeedrunConfig | FeatureNetworkConfig
)
"""Configurations of classifiers: each has ``classes`` and ``channels``."""

CLASSIFIERS: Mapping[str, ClassifierConfig] = {
    "resnet18_cifar": CIFAR_RESNET18,
    **{f"resnet{depth}": cifar_resnet(depth) for depth in (20, 32, 44, 56, 110)},
    "resnet18": RESNET18,
    "resnet34": RESNET34,
    "resnet50": RESNET50,
    "resnet101": RESNET101,
    "resnet152": RESNET152,
    "resnext50_32x4d": RESNEXT50_32X4D,
    "wide_resnet50_2": WIDE_RESNET50_2,
    "convnext_tiny": convnext.CONVNEXT_TINY,
    "convnext_small": convnext.CONVNEXT_SMALL,
    "convnext_base": convnext.CONVNEXT_BASE,
    "convnext_large": convnext.CONVNEXT_LARGE,
    "convnext_xlarge": convnext.CONVNEXT_XLARGE,
    "mobilenet_v2": mobilenet.MOBILENET_V2,
    "vgg16": vgg.VGG16,
    "vgg19": vgg.VGG19,
    "vit_ti16": vit.VIT_TI16,
    "vit_s16": vit.VIT_S16,
    "vit_b16": vit.VIT_B16,
    "vit_b32": vit.VIT_B32,
    "vit_l16": vit.VIT_L16,
    "speedrun": SpeedrunConfig(),
    "feature_classifier": FeatureNetworkConfig(),
}
"""Classifiers by name, for the command line (``--model NAME``) and for :func:`network`."""


def quick(config: ClassifierConfig) -> ClassifierConfig:
    """A classifier's small relative for ``--quick``: images of 32 pixels or a little more, 36 classes, few channels."""
    match config:
        case ResNetConfig():
            return replace(config, depths=(1,) * len(config.depths), width=16, classes=36)
        case ConvNeXtConfig():
            # a layer scale of 1e-6 is for long training
            return replace(config, depths=(1, 1, 1, 1), widths=(16, 32, 64, 128), layer_scale=1.0, classes=36)
        case MobileNetV2Config():
            return replace(config, depths=(1,) * len(config.depths), width=0.25, last_width=128, classes=36)
        case VggConfig():
            return replace(config, depths=(1,) * len(config.depths), widths=(16, 32, 64, 64, 64), hidden=64, classes=36)
        case ViTConfig():
            return replace(config, patch=4, width=64, depth=4, heads=4, classes=36)
        case SpeedrunConfig():
            return replace(config, widths=(16, 32, 32), classes=36)
        case FeatureNetworkConfig():
            return replace(config, classes=36)


def chosen_by_name(default: ClassifierConfig) -> Any:
    """The field ``model`` of an experiment that takes any classifier: ``--model NAME``, then ``--model.FIELD``.

    With ``--quick``, NAME stands for the small relative.
    """
    small = {name: quick(config) for name, config in CLASSIFIERS.items()}
    return field(default=default, metadata={"choices": CLASSIFIERS, "quick_choices": small})


@dataclass(frozen=True)
class Classifier:
    """A network and what a recipe must know of it."""

    model: nn.Module
    """(image, train=...) -> logits; with the method ``features``, where the features are the entry "pooled"."""
    rules: ShardingRules
    """Sharding rules."""
    layer_of: Callable[[str], int]
    """Path of a parameter -> its layer, for learning rates by layer."""
    layers: int
    """Number of layers."""
    published: WeightRules = ()
    """How published weights are named; empty if there are none."""
    ignored: Sequence[str] = ()
    """Regular expressions of published names that may be left unused."""
    adapt: Adapt = unchanged
    """What is done with the arrays of a file before the rules apply."""
    replaced: Sequence[str] = HEAD
    """Regular expressions of the variables that depend on the classes."""
    statistics: Callable[[jax.Array], Mapping[str, jax.Array]] | None = None
    """Training images as the network gets them -> variables that are statistics of the data, by path."""


def network(config: ClassifierConfig) -> Classifier:
    """The classifier of a configuration."""
    match config:
        case ResNetConfig():
            published = cifar_resnet_rules(config) if config.stem == "cifar" else resnet_rules(config)
            layer_of = functools.partial(resnet_layer_of, config)
            return Classifier(ResNet(config), RESNET_RULES, layer_of, resnet_layers(config), published, IGNORED)
        case ConvNeXtConfig():
            layer_of, layers = functools.partial(convnext.layer_of, config), convnext.layers(config)
            return Classifier(ConvNeXt(config), convnext.SHARDING_RULES, layer_of, layers, convnext_rules(config))
        case MobileNetV2Config():
            layer_of, layers = functools.partial(mobilenet.layer_of, config), mobilenet.layers(config)
            published = mobilenet_rules(config)
            return Classifier(MobileNetV2(config), mobilenet.SHARDING_RULES, layer_of, layers, published, IGNORED)
        case VggConfig():
            layer_of, layers = functools.partial(vgg.layer_of, config), vgg.layers(config)
            return Classifier(Vgg(config), vgg.SHARDING_RULES, layer_of, layers, vgg_rules(config))
        case ViTConfig():
            layer_of, layers = functools.partial(vit.layer_of, config), vit.layers(config)
            return Classifier(ViT(config), vit.SHARDING_RULES, layer_of, layers, vit_rules(config), adapt=vit_weights)
        case SpeedrunConfig():
            whitening = lambda images: {"constants/whitening": whitening_kernel(images)}
            layer_of = functools.partial(speedrun_layer_of, config)
            layers = speedrun_layers(config)
            return Classifier(SpeedrunNet(config), SPEEDRUN_RULES, layer_of, layers, statistics=whitening)
        case FeatureNetworkConfig():
            layer_of = functools.partial(feature_layer_of, config)
            return Classifier(FeatureNetwork(config), (), layer_of, len(config.widths) + 1)
