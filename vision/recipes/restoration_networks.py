"""Networks of restoration by name, and what a recipe must know of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from vision.models.restoration import dncnn, edsr, rrdb, srcnn, swinir, vdsr
from vision.models.restoration.dncnn import DNCNN_TRAINING, DncnnConfig
from vision.models.restoration.edsr import EDSR_BASELINE, EDSR_LARGE, EdsrConfig
from vision.models.restoration.rrdb import RrdbConfig
from vision.models.restoration.srcnn import SRCNN_955, SrcnnConfig
from vision.models.restoration.swinir import SWINIR_DENOISING, SWINIR_LIGHT, SWINIR_MEDIUM, SwinIrConfig
from vision.models.restoration.unet import UNET_RESTORATION, RestorationUNet, unet_multiple
from vision.models.restoration.vdsr import VdsrConfig
from vision.models.unet import SHARDING_RULES as UNET_RULES
from vision.models.unet import UNetConfig
from vision.nn.conditioning import check_data_conditions
from vision.parallel.sharding import ShardingRules
from vision.pretrained.adapted import Adapt, unchanged
from vision.pretrained.restoration import RestorationConfig, restoration_network
from vision.pretrained.rules import WeightRules

NetworkConfig = RestorationConfig | UNetConfig

SUPER_RESOLUTION: Mapping[str, NetworkConfig] = {
    "srcnn": replace(SRCNN_955, scale=2),
    "vdsr": VdsrConfig(scale=2),
    "edsr": EDSR_BASELINE,
    "edsr_small": EdsrConfig(blocks=8, width=32),
    "edsr_large": EDSR_LARGE,
    "rrdb": RrdbConfig(scale=4),
    "swinir_light": SWINIR_LIGHT,
    "swinir_medium": SWINIR_MEDIUM,
}
"""Networks that enlarge, for the command line (``--model NAME``); ``--model.scale`` says how much."""
SMALL_SUPER_RESOLUTION: Mapping[str, NetworkConfig] = {
    "srcnn": replace(SRCNN_955, scale=2),
    "vdsr": VdsrConfig(scale=2, depth=6, width=32),
    "edsr": EdsrConfig(blocks=4, width=32),
    "edsr_small": EdsrConfig(blocks=4, width=24),
    "edsr_large": EdsrConfig(blocks=6, width=32, residual_scale=0.1),
    "rrdb": RrdbConfig(scale=2, blocks=1, width=32, growth=16),
    "swinir_light": replace(SWINIR_LIGHT, width=24, depths=(2, 2), heads=4),
    "swinir_medium": replace(SWINIR_MEDIUM, width=24, depths=(2, 2), heads=4, feature_width=24),
}
"""Their small relatives, for ``--quick``."""
DENOISING: Mapping[str, NetworkConfig] = {
    "dncnn": replace(DNCNN_TRAINING, channels=3),
    "dncnn_blind": replace(DNCNN_TRAINING, depth=20, channels=3),
    "unet": UNET_RESTORATION,
    "edsr": replace(EDSR_BASELINE, scale=1),
    "rrdb": RrdbConfig(scale=1),
    "swinir_light": replace(SWINIR_DENOISING, width=60, depths=(6, 6, 6, 6)),
    "swinir_medium": SWINIR_DENOISING,
}
"""Networks that keep the size."""
SMALL_DENOISING: Mapping[str, NetworkConfig] = {
    "dncnn": replace(DNCNN_TRAINING, depth=6, width=32, channels=3),
    "dncnn_blind": replace(DNCNN_TRAINING, depth=8, width=32, channels=3),
    "unet": replace(UNET_RESTORATION, width=32, multipliers=(1, 2)),
    "edsr": EdsrConfig(scale=1, blocks=4, width=32),
    "rrdb": RrdbConfig(scale=1, blocks=1, width=32, growth=16),
    "swinir_light": replace(SWINIR_DENOISING, width=24, depths=(2, 2), heads=4),
    "swinir_medium": replace(SWINIR_DENOISING, width=24, depths=(2, 2), heads=4),
}
"""Their small relatives, for ``--quick``."""


def enlarging_network(default: NetworkConfig) -> Any:
    """The field ``model`` of a recipe of super-resolution: ``--model NAME``, then ``--model.FIELD``."""
    return field(default=default, metadata={"choices": SUPER_RESOLUTION, "quick_choices": SMALL_SUPER_RESOLUTION})


def restoring_network(default: NetworkConfig) -> Any:
    """The field ``model`` of a recipe of restoration at the same size."""
    return field(default=default, metadata={"choices": DENOISING, "quick_choices": SMALL_DENOISING})


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network of the call (image in [0, 1], train=...) -> restored image."""

    module: nn.Module
    rules: ShardingRules
    """Sharding rules."""
    scale: int
    """How many times as long the sides become."""
    channels: int
    """Of its images, 1 or 3."""
    multiple: int = 1
    """What the sides of its images must be multiples of."""
    published: WeightRules = ()
    """How published weights are named; empty if there are none."""
    ignored: tuple[str, ...] = ()
    """Regular expressions of published names that may be left unused."""
    adapt: Adapt = unchanged
    """What is done with the arrays of a file before the rules apply."""

    def restored(self, variables: Any, images: Array) -> Array:
        """What the network makes of images in [0, 1], at inference."""
        made: Any = self.module.apply(variables, images, train=False)
        return jnp.asarray(made)


def network(config: NetworkConfig) -> Network:
    """The network of a configuration; raises ``UserError`` for one that has conditions."""
    if isinstance(config, UNetConfig):
        check_data_conditions(config, available=())
        return Network(
            module=RestorationUNet(config),
            rules=UNET_RULES,
            scale=1,
            channels=config.channels,
            multiple=unet_multiple(config),
        )
    found = restoration_network(config)
    rules, multiple = _rules(config), 4 // config.scale if isinstance(config, RrdbConfig) else 1
    return Network(
        module=found.module,
        rules=rules,
        scale=1 if isinstance(config, DncnnConfig) else config.scale,
        channels=config.channels,
        multiple=multiple,
        published=found.published,
        ignored=found.ignored,
        adapt=found.adapt,
    )


def _rules(config: RestorationConfig) -> ShardingRules:
    match config:
        case SrcnnConfig():
            return srcnn.SHARDING_RULES
        case VdsrConfig():
            return vdsr.SHARDING_RULES
        case DncnnConfig():
            return dncnn.SHARDING_RULES
        case EdsrConfig():
            return edsr.SHARDING_RULES
        case RrdbConfig():
            return rrdb.SHARDING_RULES
        case SwinIrConfig():
            return swinir.SHARDING_RULES
