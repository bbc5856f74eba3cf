"""The names of published ResNets: torchvision's and timm's, and those of the common CIFAR networks.

Published weights to variables:

    model = ResNet(RESNET50)
    target = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=False))
    tensors = read_state_dict("resnet50.safetensors")
    variables, left = from_published(tensors, target, rules=resnet_rules(RESNET50), ignored=IGNORED)

and back: ``write_state_dict(path, to_published(variables, rules=resnet_rules(RESNET50)))``, which PyTorch's
``load_state_dict(..., strict=True)`` takes. For other classes, ``replaced=HEAD`` and a ``target`` of arrays. Weights of
ImageNet expect images normalised by ``vision.ops.resize.normalise`` with ``IMAGENET_MEAN`` and ``IMAGENET_STD``.
"""

from vision.models.resnet import ResNetConfig
from vision.pretrained.rules import POINTWISE, Rule, batch_norm_rules, conv_rules, dense_rules

IGNORED = (r"num_batches_tracked$",)
"""Entries of published state dicts without counterpart: the number of batches that PyTorch has seen."""
HEAD = (r"^params/head/",)
"""The paths to replace for other classes."""


def resnet_rules(config: ResNetConfig) -> tuple[Rule, ...]:
    """The names of torchvision and timm; only timm has deep stems, pooled shortcuts and squeeze-and-excitation."""
    # ResNet-D's list of layers may have an average pool before the convolution
    conv, norm = ("1", "2") if config.shortcut == "average" else ("0", "1")
    return (
        *_stem_rules(config),
        *_block_rules(config, shortcut=(f"downsample.{conv}", f"downsample.{norm}")),
        *dense_rules("fc", "head"),
    )


def cifar_resnet_rules(config: ResNetConfig) -> tuple[Rule, ...]:
    """The names that most repositories of CIFAR ResNets in PyTorch share: ``linear`` for the head, ``shortcut``."""
    return (
        *_stem_rules(config),
        *_block_rules(config, shortcut=("shortcut.0", "shortcut.1")),
        *dense_rules("linear", "head"),
    )


def _stem_rules(config: ResNetConfig) -> tuple[Rule, ...]:
    if config.stem != "deep":
        return (*conv_rules("conv1", "stem_conv"), *batch_norm_rules("bn1", "stem_norm"))
    return (
        *conv_rules("conv1.0", "stem_0_conv"),
        *batch_norm_rules("conv1.1", "stem_0_norm"),
        *conv_rules("conv1.3", "stem_1_conv"),
        *batch_norm_rules("conv1.4", "stem_1_norm"),
        *conv_rules("conv1.6", "stem_conv"),
        *batch_norm_rules("bn1", "stem_norm"),
    )


def _block_rules(config: ResNetConfig, *, shortcut: tuple[str, str]) -> tuple[Rule, ...]:
    theirs, ours = "layer{stage}.{block}", "stage_{stage}_block_{block}"
    positions = ("in", "mid", "out") if config.block == "bottleneck" else ("in", "out")
    convolutions = [
        rule
        for number, position in enumerate(positions, start=1)
        for rule in (
            *conv_rules(f"{theirs}.conv{number}", f"{ours}/conv_{position}"),
            *batch_norm_rules(f"{theirs}.bn{number}", f"{ours}/norm_{position}"),
        )
    ]
    return (
        *convolutions,
        *conv_rules(f"{theirs}.{shortcut[0]}", f"{ours}/shortcut/conv"),
        *batch_norm_rules(f"{theirs}.{shortcut[1]}", f"{ours}/shortcut/norm"),
        *dense_rules(f"{theirs}.se.fc1", f"{ours}/excite/reduce", POINTWISE),
        *dense_rules(f"{theirs}.se.fc2", f"{ours}/excite/expand", POINTWISE),
    )
