"""The names of published ConvNeXts: torchvision's, timm's, and those of the authors' own files.

All expect images normalised by ``IMAGENET_MEAN`` and ``IMAGENET_STD`` (``vision.ops.resize.normalise``).
"""

from collections.abc import Callable

from vision.models.convnext import ConvNeXtConfig
from vision.pretrained.rules import CONV, SAME, Layout, Rule, dense_rules, norm_rules

_SCALE = Layout(lambda x: x[:, 0, 0], lambda x: x[:, None, None])
"""Layer scales, which torchvision has as [c, 1, 1]."""


def _conv(published: str, ours: str) -> tuple[Rule, ...]:
    return dense_rules(published, ours, CONV)


def convnext_rules(config: ConvNeXtConfig) -> tuple[Rule, ...]:
    """The names of torchvision, which are those that are written, of timm, and of the authors' files."""
    return (*torchvision_rules(config), *timm_rules(config), *facebook_rules(config))


def torchvision_rules(config: ConvNeXtConfig) -> tuple[Rule, ...]:
    """The names of torchvision."""
    return _rules(
        config,
        stem="features.0",
        down=lambda stage: f"features.{2 * stage - 2}",
        block=lambda stage: f"features.{2 * stage - 1}.{{block}}",
        parts=("block.0", "block.2", "block.3", "block.5"),
        scale=("layer_scale", _SCALE),
        end=("classifier.0", "classifier.2"),
    )


def timm_rules(config: ConvNeXtConfig) -> tuple[Rule, ...]:
    """The names of timm."""
    return _rules(
        config,
        stem="stem",
        down=lambda stage: f"stages.{stage - 1}.downsample",
        block=lambda stage: f"stages.{stage - 1}.blocks.{{block}}",
        parts=("conv_dw", "norm", "mlp.fc1", "mlp.fc2"),
        scale=("gamma", SAME),
        end=("head.norm", "head.fc"),
    )


def facebook_rules(config: ConvNeXtConfig) -> tuple[Rule, ...]:
    """The names of the files that Liu et al. published."""
    return _rules(
        config,
        stem="downsample_layers.0",
        down=lambda stage: f"downsample_layers.{stage - 1}",
        block=lambda stage: f"stages.{stage - 1}.{{block}}",
        parts=("dwconv", "norm", "pwconv1", "pwconv2"),
        scale=("gamma", SAME),
        end=("norm", "head"),
    )


def _rules(
    config: ConvNeXtConfig,
    *,
    stem: str,
    down: Callable[[int], str],
    block: Callable[[int], str],
    parts: tuple[str, str, str, str],
    scale: tuple[str, Layout],
    end: tuple[str, str],
) -> tuple[Rule, ...]:
    """The rules of one publisher's names.

    Args:
      config: of the network.
      stem: what precedes the convolution and normalisation of the stem.
      down: stage, from 1 -> what precedes those of the reduction before it.
      block: stage -> the name of a block.
      parts: in a block, the depthwise convolution, the normalisation and the two linear layers.
      scale: in a block, the layer scale, and its layout.
      end: the last normalisation and the head.
    """
    rules = [*_conv(f"{stem}.0", "stem_conv"), *norm_rules(f"{stem}.1", "stem_norm")]
    for stage in range(1, len(config.depths) + 1):
        theirs, ours = block(stage), f"stage_{stage}_block_{{block}}"
        depthwise, norm, dense_in, dense_out = (f"{theirs}.{part}" for part in parts)
        rules += [
            *norm_rules(f"{down(stage)}.0", f"stage_{stage}_down_norm"),
            *_conv(f"{down(stage)}.1", f"stage_{stage}_down_conv"),
            *_conv(depthwise, f"{ours}/depthwise"),
            *norm_rules(norm, f"{ours}/norm"),
            *dense_rules(dense_in, f"{ours}/dense_in"),
            *dense_rules(dense_out, f"{ours}/dense_out"),
            Rule(f"{theirs}.{scale[0]}", f"params/{ours}/layer_scale", scale[1]),
        ]
    return (*rules, *norm_rules(end[0], "norm"), *dense_rules(end[1], "head"))
