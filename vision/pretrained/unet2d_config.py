"""The entries of the config.json of a published UNet (diffusers' UNet2DModel) as a `UNetConfig`, and back.

The two describe attention differently: there a level attends, here feature maps of a side do, so that each direction
needs the side of the images. A configuration is brought to its simplest form where two are compared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vision.errors import UserError
from vision.models.unet import UNetConfig
from vision.pretrained.diffusers_config import Entries, options
from vision.pretrained.diffusers_folder import CONFIG

_MEANINGLESS = ("sample_size", "num_train_timesteps")
"""Entries that change nothing in the networks that are supported."""


def unet2d_config(values: Mapping[str, Any], *, origin: str = CONFIG, side: int | None = None) -> UNetConfig:
    """The configuration of a network, from the entries of its config.json.

    Args:
      values: the entries; absent ones have diffusers' defaults.
      origin: the file, for messages.
      side: height of the images; None for "sample_size" of the entries.

    Raises:
      UserError: an entry is unknown or malformed, contradicts another, or asks for what a `UNet` has not.
    """
    entries = Entries.of(values, origin=origin, networks=("UNet2DModel",))
    channels = entries.counts("block_out_channels")
    levels, width = len(channels), channels[0]
    if any(each % width for each in channels):
        raise entries.refuse("block_out_channels", "which are not multiples of the first: use another network")
    attending, resampling = _levels(entries, levels)
    side = published_side(values, origin=origin) if side is None else side
    if side % 2 ** (levels - 1):
        raise UserError(
            f"{origin} describes {levels} levels, each of half the resolution of the one before, which images of "
            f"{side} pixels do not have: choose multiples of {2 ** (levels - 1)}"
        )
    groups = entries.count("norm_num_groups", 32)
    if any(each % groups for each in channels):
        raise entries.refuse(
            "norm_num_groups", f"which does not divide block_out_channels {list(channels)}: correct it"
        )
    entries.only("act_fn", ("silu", "swish"), default="silu")
    entries.only("class_embed_type", (None,), default=None)
    entries.only("mid_block_type", ("UNetMidBlock2D",), default="UNetMidBlock2D")
    inputs, outputs = entries.count("in_channels", 3), entries.count("out_channels", 3)
    fourier = entries.only("time_embedding_type", ("positional", "fourier"), default="positional") == "fourier"
    shift = entries.number("freq_shift", 0)
    if not 0.0 <= shift <= 1.0 and not fourier:
        raise entries.refuse("freq_shift", "and only 0 to 1 is supported here: use another network")
    entries.flag("flip_sin_to_cos", True)
    padding = entries.only("downsample_padding", (0, 1), default=1)
    conditioning = entries.only("resnet_time_scale_shift", ("default", "scale_shift"), default="default")
    dropout = entries.number("dropout", 0.0)
    if not 0.0 <= dropout < 1.0:
        raise entries.refuse("dropout", "which is no probability below 1: correct it")
    mid_factor = entries.number("mid_block_scale_factor", 1.0, above=0.0)
    width_of_time = entries.maybe_count("time_embedding_dim")
    mid_attention = _mid_attention(entries, groups, plain=conditioning == "scale_shift")
    classes = entries.maybe_count("num_class_embeds") or 0
    head_channels = entries.maybe_count("attention_head_dim", 8)
    made = UNetConfig(
        width=width,
        multipliers=tuple(each // width for each in channels),
        blocks=entries.count("layers_per_block", 2),
        attention=tuple(side >> level for level in attending),
        mid_attention=mid_attention,
        head_channels=head_channels or 0,
        dropout=dropout,
        classes=classes,
        null_label=classes == 0,
        conditioning="scale_shift" if conditioning == "scale_shift" else "add",
        time_embedding="fourier" if fourier else "sinusoidal",
        frequency_shift=1.0 if fourier else shift,
        time_width=width_of_time or 0,
        resampling="residual" if resampling == "resnet" else "strided" if padding else "strided_after",
        mid_scale=1.0 / mid_factor,
        groups=groups,
        group_channels=1,
        epsilon=entries.number("norm_eps", 1e-5, above=0.0),
        centred=entries.flag("center_input_sample", False),
        channels=inputs,
        out_channels=outputs,
    )
    entries.ignore(_MEANINGLESS)
    entries.finish(made)
    for level in (*attending, *([levels - 1] if mid_attention != "none" else ())):
        if head_channels and channels[level] % head_channels:
            raise entries.refuse("attention_head_dim", f"which does not divide {channels[level]} channels: correct it")
    return simplest(made, side)


def unet2d_values(config: UNetConfig, *, side: int) -> dict[str, Any]:
    """The entries of a config.json for a network, the inverse of :func:`unet2d_config`.

    Args:
      config: of the network. The label "none" is the last row of the published table, where the network has it.
      side: height of the images.

    Raises:
      UserError: diffusers' UNet2DModel has no such network.
    """
    config = simplest(config, side)
    levels = range(len(config.multipliers))
    attends = [side >> level in config.attention for level in levels]
    widths = [config.width * multiplier for multiplier in config.multipliers]
    counts = set(_group_counts(config))
    _expressible("multipliers", config.multipliers[0] == 1, config)
    _expressible("patch", config.patch == 1, config)
    _expressible("residual_scale", config.residual_scale == 1.0, config)
    _expressible("up_attention", config.up_attention == "every" or not any(attends), config)
    _expressible("resampling", config.resampling != "residual_projected" or len(levels) == 1, config)
    _expressible("groups", len(counts) == 1, config)
    for name in ("embedding", "tokens", "condition_channels", "durations", "time_code"):
        _expressible(name, not getattr(config, name), config)
    _expressible("mid_attention", config.mid_attention != "plain" or config.conditioning == "scale_shift", config)
    heads = config.head_channels or None
    if not heads and config.heads > 1:
        of_attention = {widths[level] for level in levels if attends[level]} | {widths[-1]}
        _expressible("heads", len(of_attention) == 1, config)
        heads = of_attention.pop() // config.heads
    residual = config.resampling == "residual"
    kind = lambda attend, plain, resnet: f"Attn{plain}" if attend else resnet if residual else plain
    resample = "resnet" if residual else "conv"
    return {
        "_class_name": "UNet2DModel",
        "sample_size": side,
        "in_channels": config.channels,
        "out_channels": outputs_of(config),
        "center_input_sample": config.centred,
        "time_embedding_type": "fourier" if config.time_embedding == "fourier" else "positional",
        "time_embedding_dim": config.time_width or None,
        "freq_shift": config.frequency_shift,
        "flip_sin_to_cos": False,
        "down_block_types": [kind(each, "DownBlock2D", "ResnetDownsampleBlock2D") for each in attends],
        "up_block_types": [kind(each, "UpBlock2D", "ResnetUpsampleBlock2D") for each in reversed(attends)],
        "block_out_channels": widths,
        "layers_per_block": config.blocks,
        "mid_block_scale_factor": 1.0 if config.mid_scale is None else 1.0 / config.mid_scale,
        "add_attention": config.mid_attention != "none",
        "downsample_padding": 0 if config.resampling == "strided_after" else 1,
        "downsample_type": resample,
        "upsample_type": resample,
        "dropout": config.dropout,
        "act_fn": "silu",
        "attention_head_dim": heads,
        "norm_num_groups": (groups := counts.pop()),
        "attn_norm_num_groups": None if config.mid_attention == "plain" else groups,
        "norm_eps": config.epsilon,
        "resnet_time_scale_shift": "scale_shift" if config.conditioning == "scale_shift" else "default",
        "class_embed_type": None,
        "num_class_embeds": config.classes + config.null_label if config.classes else None,
    }


def published_side(values: Mapping[str, Any], *, origin: str = CONFIG) -> int:
    """The height of the images that a network is for, from its config.json, which may state (height, width).

    Raises ``UserError`` where it is missing or malformed.
    """
    entries = Entries(values, origin)
    value = values.get("sample_size")
    if value is None:
        raise entries.refuse("sample_size", "which says at which sides the network attends: add the side of its images")
    return entries.count("sample_size") if isinstance(value, int) else entries.counts("sample_size")[0]


def simplest(config: UNetConfig, side: int) -> UNetConfig:
    """The simplest configuration of the same network for images of ``side`` pixels."""
    levels = range(len(config.multipliers))
    sides = tuple(side >> level for level in levels if side >> level in config.attention)
    widths = [config.width * multiplier for multiplier in config.multipliers]
    attending = {width for width, level in zip(widths, levels, strict=True) if side >> level in sides}
    attending |= {widths[-1]} if config.mid_attention != "none" else set()
    heads = {width // config.head_channels if config.head_channels else config.heads for width in attending}
    equal = {"heads": heads.pop() if heads else 1, "head_channels": 0} if len(heads) < 2 else {"heads": 1}
    wide = all(width % (4 * config.groups) == 0 for width in widths)
    return replace(
        config,
        **equal,
        attention=sides,
        time_code=0 if config.time_code == config.width else config.time_code,
        time_width=0 if config.time_width == 4 * config.width else config.time_width,
        frequency_shift=1.0 if config.time_embedding == "fourier" else config.frequency_shift,
        mid_scale=None if config.mid_scale in (None, config.residual_scale) else config.mid_scale,
        group_channels=4 if wide and config.group_channels < 4 else config.group_channels,
        out_channels=None if config.out_channels == config.channels else config.out_channels,
        resampling="strided" if len(levels) == 1 else config.resampling,
    )


def outputs_of(config: UNetConfig) -> int:
    """Channels of the prediction."""
    return config.channels if config.out_channels is None else config.out_channels


def missing_options(ours: UNetConfig, wanted: UNetConfig, *, side: int, ignored: Sequence[str] = ()) -> str:
    """The options that make a network of ``ours`` one of ``wanted``, "--model.width 64"; "" where they are the same.

    Args:
      ours: a configuration.
      wanted: another, in its :func:`simplest` form.
      side: height of the images.
      ignored: fields that may differ.
    """
    ours = simplest(ours, side)
    if _group_counts(ours) == _group_counts(wanted):
        ours = replace(ours, groups=wanted.groups, group_channels=wanted.group_channels)
    return options(ours, wanted, ignored=ignored)


def _levels(entries: Entries, levels: int) -> tuple[tuple[int, ...], str]:
    """The levels that attend, and how resolution changes, "conv" or "resnet", from the types of blocks."""
    kinds: set[str] = set()
    attending: list[list[int]] = []
    for way, resample, names in (
        ("down", "downsample_type", ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")),
        ("up", "upsample_type", ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")),
    ):
        entry = f"{way}_block_types"
        types = [name.removeprefix("UNetRes") for name in entries.words(entry)]
        if len(types) != levels:
            raise entries.refuse(entry, f"which are not as many as block_out_channels, {levels}: correct it")
        if other := [name for name in types if name not in names]:
            raise entries.refuse(
                entry, f"of which {other[0]!r} is not supported here, where {', '.join(names)} are: use another network"
            )
        attending.append([place for place, name in enumerate(types) if name == names[1]])
        attentive = entries.only(resample, ("conv", "resnet"), default="conv")
        # the last block of each way keeps the resolution
        kinds |= {dict(zip(names, ("conv", attentive, "resnet"), strict=True))[name] for name in types[:-1]}
    if sorted(levels - 1 - place for place in attending[1]) != attending[0]:
        raise entries.refuse("up_block_types", "whose attention is not at the levels of down_block_types: correct it")
    if len(kinds) > 1:
        raise entries.refuse(
            "down_block_types",
            "by which resolution changes in residual blocks in one place and by convolutions in another: use a network "
            "with one of them",
        )
    return tuple(attending[0]), kinds.pop() if kinds else "conv"


def _mid_attention(entries: Entries, groups: int, *, plain: bool) -> Any:
    own = entries.maybe_count("attn_norm_num_groups")
    if own not in (None, groups):
        raise entries.refuse("attn_norm_num_groups", f"and only norm_num_groups {groups} is supported: use that")
    if not entries.flag("add_attention", True):
        return "none"
    return "plain" if plain and own is None else "normalised"


def _group_counts(config: UNetConfig) -> tuple[int, ...]:
    """The number of groups of each normalisation, in order."""
    widths = [config.width * multiplier for multiplier in config.multipliers]
    seen = [config.width, *widths]
    skips = [config.width]
    for level, width in enumerate(widths):
        # the last level is not halved
        skips += [width] * (config.blocks + (level < len(widths) - 1))
    hidden = widths[-1]
    for width in reversed(widths):
        for _ in range(config.blocks + 1):
            seen.append(hidden + skips.pop())
            hidden = width
    return tuple(math.gcd(config.groups, each, max(each // config.group_channels, 1)) for each in seen)


def _expressible(field: str, possible: bool, config: UNetConfig) -> None:
    if not possible:
        raise UserError(
            f"diffusers' UNet2DModel has no network with model.{field} {getattr(config, field)}: write another format"
        )
