"""The names of published ConvNeXts: torchvision's, timm's, and those of the authors' own files.

All expect images normalised by ``IMAGENET_MEAN`` and ``IMAGENET_STD`` (``vision.ops.resize.normalise``).
"""

from vision.models.convnext import ConvNeXtConfig
from vision.pretrained.rules import CONV, Layout, Rule, dense_rules

_SCALE = Layout(lambda x: x[:, 0, 0], lambda x: x[:, None, None])
"""Layer scales, which torchvision has as [c, 1, 1]."""


def _conv(published: str, ours: str) -> tuple[Rule, ...]:
    return dense_rules(published, ours, CONV)


def _norm(published: str, ours: str) -> tuple[Rule, ...]:
    return Rule(f"{published}.weight", f"params/{ours}/scale"), Rule(f"{published}.bias", f"params/{ours}/bias")


def convnext_rules(config: ConvNeXtConfig) -> tuple[Rule, ...]:
    """The names of torchvision, which are those that are written, of timm, and of the authors' files."""
    return (*torchvision_rules(config), *timm_rules(config), *facebook_rules(config))


def torchvision_rules(config: ConvNeXtConfig) -> tuple[Rule, ...]:
    """The names of torchvision."""
    stem = (*_conv("features.0.0", "stem_conv"), *_norm("features.0.1", "stem_norm"))
    stages = []
    for stage in range(1, len(config.depths) + 1):
        theirs, ours = f"features.{2 * stage - 1}.{{block}}", f"stage_{stage}_block_{{block}}"
        stages += [
            *_norm(f"features.{2 * stage - 2}.0", f"stage_{stage}_down_norm"),
            *_conv(f"features.{2 * stage - 2}.1", f"stage_{stage}_down_conv"),
            *_conv(f"{theirs}.block.0", f"{ours}/depthwise"),
            *_norm(f"{theirs}.block.2", f"{ours}/norm"),
            *dense_rules(f"{theirs}.block.3", f"{ours}/dense_in"),
            *dense_rules(f"{theirs}.block.5", f"{ours}/dense_out"),
            Rule(f"{theirs}.layer_scale", f"params/{ours}/layer_scale", _SCALE),
        ]
    return (*stem, *stages, *_norm("classifier.0", "norm"), *dense_rules("classifier.2", "head"))


def timm_rules(config: ConvNeXtConfig) -> tuple[Rule, ...]:
    """The names of timm."""
    stages = []
    for stage in range(1, len(config.depths) + 1):
        theirs, ours = f"stages.{stage - 1}.blocks.{{block}}", f"stage_{stage}_block_{{block}}"
        stages += [
            *_norm(f"stages.{stage - 1}.downsample.0", f"stage_{stage}_down_norm"),
            *_conv(f"stages.{stage - 1}.downsample.1", f"stage_{stage}_down_conv"),
            *_conv(f"{theirs}.conv_dw", f"{ours}/depthwise"),
            *_norm(f"{theirs}.norm", f"{ours}/norm"),
            *dense_rules(f"{theirs}.mlp.fc1", f"{ours}/dense_in"),
            *dense_rules(f"{theirs}.mlp.fc2", f"{ours}/dense_out"),
            Rule(f"{theirs}.gamma", f"params/{ours}/layer_scale"),
        ]
    stem = (*_conv("stem.0", "stem_conv"), *_norm("stem.1", "stem_norm"))
    return (*stem, *stages, *_norm("head.norm", "norm"), *dense_rules("head.fc", "head"))


def facebook_rules(config: ConvNeXtConfig) -> tuple[Rule, ...]:
    """The names of the files that Liu et al. published."""
    stages = []
    for stage in range(1, len(config.depths) + 1):
        theirs, ours = f"stages.{stage - 1}.{{block}}", f"stage_{stage}_block_{{block}}"
        stages += [
            *_norm(f"downsample_layers.{stage - 1}.0", f"stage_{stage}_down_norm"),
            *_conv(f"downsample_layers.{stage - 1}.1", f"stage_{stage}_down_conv"),
            *_conv(f"{theirs}.dwconv", f"{ours}/depthwise"),
            *_norm(f"{theirs}.norm", f"{ours}/norm"),
            *dense_rules(f"{theirs}.pwconv1", f"{ours}/dense_in"),
            *dense_rules(f"{theirs}.pwconv2", f"{ours}/dense_out"),
            Rule(f"{theirs}.gamma", f"params/{ours}/layer_scale"),
        ]
    stem = (*_conv("downsample_layers.0.0", "stem_conv"), *_norm("downsample_layers.0.1", "stem_norm"))
    return (*stem, *stages, *_norm("norm", "norm"), *dense_rules("head", "head"))
