"""The names of published MobileNetV2s: torchvision's and timm's.

All expect images normalised by ``IMAGENET_MEAN`` and ``IMAGENET_STD`` (``vision.ops.resize.normalise``).
"""

from vision.models.mobilenet import MobileNetV2Config, stages
from vision.pretrained.rules import Rule, batch_norm_rules, conv_rules, dense_rules


def mobilenet_rules(config: MobileNetV2Config) -> tuple[Rule, ...]:
    """The names of torchvision, which are those that are written, and of timm."""
    return (*torchvision_rules(config), *timm_rules(config))


def torchvision_rules(config: MobileNetV2Config) -> tuple[Rule, ...]:
    """The names of torchvision, which numbers the stem, all blocks and the last convolution in one list."""
    rules = _conv_norm("features.0.0", "features.0.1", "stem_conv")
    number = 1
    for stage, (expansion, _, depth, _) in enumerate(stages(config), start=1):
        for index in range(depth):
            theirs, ours = f"features.{number}.conv", f"stage_{stage}_block_{index}"
            # each convolution is in a list with its normalisation, except for the last
            listed = ("conv_in", "conv_mid") if expansion > 1 else ("conv_mid",)
            for position, conv in enumerate(listed):
                rules += _conv_norm(f"{theirs}.{position}.0", f"{theirs}.{position}.1", f"{ours}/{conv}")
            rules += _conv_norm(f"{theirs}.{len(listed)}", f"{theirs}.{len(listed) + 1}", f"{ours}/conv_out")
            number += 1
    rules += _conv_norm(f"features.{number}.0", f"features.{number}.1", "last_conv")
    return (*rules, *dense_rules("classifier.1", "head"))


def timm_rules(config: MobileNetV2Config) -> tuple[Rule, ...]:
    """The names of timm."""
    rules = _conv_norm("conv_stem", "bn1", "stem_conv")
    for stage, (expansion, *_) in enumerate(stages(config), start=1):
        theirs, ours = f"blocks.{stage - 1}.{{block}}", f"stage_{stage}_block_{{block}}"
        whole = {"conv_pw": "conv_in", "conv_dw": "conv_mid", "conv_pwl": "conv_out"}
        names = whole if expansion > 1 else {"conv_dw": "conv_mid", "conv_pw": "conv_out"}
        for number, (conv, own) in enumerate(names.items(), start=1):
            rules += _conv_norm(f"{theirs}.{conv}", f"{theirs}.bn{number}", f"{ours}/{own}")
    rules += _conv_norm("conv_head", "bn2", "last_conv")
    return (*rules, *dense_rules("classifier", "head"))


def _conv_norm(conv: str, norm: str, ours: str) -> list[Rule]:
    """A convolution and its normalisation, which has "norm" in its name where the convolution, ``ours``, has "conv"."""
    return [*conv_rules(conv, ours), *batch_norm_rules(norm, ours.replace("conv", "norm"))]
