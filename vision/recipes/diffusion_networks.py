"""The networks of diffusion models by name, and what a recipe must know of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Num

from vision.errors import UserError
from vision.models import dit, edm2, unet
from vision.models.dit import DIT_B, DIT_L, DIT_S, DIT_XL, DiT, DiTConfig
from vision.models.edm2 import EDM2_L, EDM2_M, EDM2_S, EDM2_XL, EDM2_XS, EDM2_XXL, EDM2Config, EDM2UNet
from vision.models.unet import ADM_64, ADM_128, ADM_256, ADM_512, DDPM_256, DDPM_PLUS_PLUS, UNet, UNetConfig
from vision.nn.magnitude_preserving import normalised_weights
from vision.parallel.sharding import ShardingRules
from vision.pretrained.diffusers_folder import FolderSource
from vision.pretrained.dit import dit_source
from vision.pretrained.unet2d import unet2d_source
from vision.types import Params

NetworkConfig = UNetConfig | DiTConfig | EDM2Config

NETWORKS: Mapping[str, NetworkConfig] = {
    "unet": UNetConfig(),
    "ddpm_256": DDPM_256,
    "ddpm_plus_plus": DDPM_PLUS_PLUS,
    "adm_64": ADM_64,
    "adm_128": ADM_128,
    "adm_256": ADM_256,
    "adm_512": ADM_512,
    "dit_s": DIT_S,
    "dit_b": DIT_B,
    "dit_l": DIT_L,
    "dit_xl": DIT_XL,
    "edm2": EDM2Config(),
    "edm2_xs": EDM2_XS,
    "edm2_s": EDM2_S,
    "edm2_m": EDM2_M,
    "edm2_l": EDM2_L,
    "edm2_xl": EDM2_XL,
    "edm2_xxl": EDM2_XXL,
}
"""Networks by name, for the command line (``--model NAME``)."""

SMALL_UNET = UNetConfig(
    width=64, multipliers=(1, 2), blocks=1, attention=(), dropout=0.0, classes=36, conditioning="scale_shift", patch=4
)
SMALL_DIT = DiTConfig(patch=4, width=128, depth=6, heads=4, classes=36)
SMALL_EDM2 = EDM2Config(width=32, multipliers=(1, 2), blocks=1, attention=(), head_channels=32, classes=36)
"""What ``--quick`` trains: one shape of 36 kinds in 32 x 32 pixels."""


def network_by_name(default: NetworkConfig) -> Any:
    """The field ``model`` of a recipe: ``--model NAME``, then ``--model.FIELD``.

    Conditions, channels and memory are those of ``default`` for every name. With ``--quick``, NAME stands for a small
    relative.
    """
    table = {name: _like(config, default) for name, config in NETWORKS.items()}
    small: dict[str, NetworkConfig] = {name: _small(config, default) for name, config in NETWORKS.items()}
    return field(default=default, metadata={"choices": table, "quick_choices": small})


def _like(config: NetworkConfig, default: NetworkConfig) -> NetworkConfig:
    shared = {"classes": default.classes, "channels": default.channels, "dtype": default.dtype, "remat": default.remat}
    if default.durations and not isinstance(config, EDM2Config):
        shared["durations"] = True
    return replace(config, **shared)


def _small(config: NetworkConfig, default: NetworkConfig) -> NetworkConfig:
    """The small network of the kind of ``config``; latents, of other channels than 3, are cut into smaller patches."""
    latent = default.channels != 3
    match config:
        case UNetConfig():
            small = replace(SMALL_UNET, patch=2 if latent else SMALL_UNET.patch)
        case DiTConfig():
            small = replace(SMALL_DIT, patch=2 if latent else SMALL_DIT.patch)
        case EDM2Config():
            return replace(SMALL_EDM2, channels=default.channels)
    return replace(small, channels=default.channels, durations=default.durations)


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionNetwork:
    """A network of the call (noisy image, time, condition, train=...) -> prediction."""

    module: nn.Module
    rules: ShardingRules
    """Sharding rules."""
    folder: FolderSource | None = None
    """How it starts from a published folder of diffusers, and becomes one."""
    onto: Callable[[Params], Params] | None = None
    """What parameters are projected onto after each step; None for nothing."""
    log_variance: Callable[[Params, Num[Array, " b"]], Float[Array, " b"]] | None = None
    """(parameters, c_noise) -> the logarithm of the loss that is expected there; None where the network learns none."""


def diffusion_network(config: NetworkConfig, shape: tuple[int, int, int]) -> DiffusionNetwork:
    """The network for samples of ``shape`` (h, w, c).

    Raises ``UserError`` for settings that contradict each other or the shape.
    """
    height, width, channels = shape
    if config.channels != channels:
        raise UserError(
            f"the network is for {config.channels} channels and samples have {channels}: set --model.channels "
            f"{channels}"
        )
    match config:
        case UNetConfig():
            if any(config.width * multiplier % config.heads for multiplier in config.multipliers):
                raise UserError(f"model.heads {config.heads} must divide the channels of every level")
            _check_divisible(shape, config.patch * 2 ** (len(config.multipliers) - 1), "model.patch, and one halving")
            return DiffusionNetwork(
                module=UNet(config), rules=unet.SHARDING_RULES, folder=unet2d_source(config, side=height)
            )
        case DiTConfig():
            if config.width % (4 * config.heads):
                raise UserError(
                    f"model.width {config.width} must be a multiple of 4 times model.heads, {4 * config.heads}"
                )
            if height % config.patch or width % config.patch:
                raise UserError(
                    f"images of {_size(shape)} pixels cannot be cut into patches of {config.patch}: choose "
                    f"--data.resolution as a multiple of {config.patch}, or another --model.patch"
                )
            return DiffusionNetwork(
                module=DiT(config), rules=dit.SHARDING_RULES, folder=dit_source(config, side=height)
            )
        case EDM2Config():
            _check_divisible(shape, 2 ** (len(config.multipliers) - 1), "one halving")
            return DiffusionNetwork(
                module=EDM2UNet(config),
                rules=edm2.SHARDING_RULES,
                onto=normalised_weights,
                log_variance=edm2.log_variance if config.uncertainty else None,
            )


def with_variance(config: NetworkConfig) -> NetworkConfig:
    """The network with the outputs of a learned variance, as many as those of the prediction.

    Raises ``UserError`` where ``out_channels`` are set to another number.
    """
    wanted = 2 * config.channels
    if config.out_channels not in (None, wanted):
        raise UserError(
            f"diffusion.variance learned needs {wanted} outputs of the network: leave --model.out-channels out"
        )
    return replace(config, out_channels=wanted)


def _check_divisible(shape: tuple[int, int, int], coarsest: int, why: str) -> None:
    height, width, _ = shape
    if height % coarsest or width % coarsest:
        raise UserError(
            f"images of {_size(shape)} pixels cannot be divided by {coarsest} ({why} a level): choose "
            f"--data.resolution as a multiple of {coarsest}, or fewer levels"
        )


def _size(shape: tuple[int, int, int]) -> str:
    """The sides of images, one number where they are equal."""
    height, width, _ = shape
    return str(height) if height == width else f"{height}x{width}"
