"""Published autoencoders of latent diffusion (AutoencoderKL): their folders, read and written.

    published = read_autoencoder_kl("stable-diffusion/vae")
    model = AutoencoderKl(published.config)
    mean, log_variance = model.apply(published.variables, image, method="encode")
    latent = (mean - published.mean) / published.deviation

Attention has had two generations of names (``query``, ``key``, ``value``, ``proj_attn``; then ``to_q``, ``to_k``,
``to_v``, ``to_out.0``): both are read, the newer are written.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vision.errors import UserError, on_one_line
from vision.models.autoencoder_kl import AutoencoderKl, AutoencoderKlConfig
from vision.platform import shapes_of
from vision.pretrained.diffusers_folder import CONFIG, read_config, read_folder, write_folder
from vision.pretrained.rules import (
    CONV,
    POINTWISE,
    Rule,
    WeightRules,
    dense_rules,
    from_published,
    to_published,
)
from vision.ranges import check_ranges

CLASS = "AutoencoderKL"
_ENCODER, _DECODER = "DownEncoderBlock2D", "UpDecoderBlock2D"
_ENCODER_ATTENTION, _DECODER_ATTENTION = "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"
_DEFAULTS: Mapping[str, Any] = {
    **{"in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": [64], "layers_per_block": 1},
    **{"down_block_types": [_ENCODER], "up_block_types": [_DECODER], "act_fn": "silu", "norm_num_groups": 32},
    **{"mid_block_add_attention": True, "use_quant_conv": True, "use_post_quant_conv": True},
    **{"scaling_factor": 0.18215, "shift_factor": None, "latents_mean": None, "latents_std": None},
    **{"sample_size": 32, "force_upcast": True},
}
"""What config.json may say, and what it means where a setting is not there; older ones have few. The last two do not
change the network."""


@dataclass(frozen=True, kw_only=True)
class PublishedAutoencoder:
    """A published autoencoder, or the description of one."""

    config: AutoencoderKlConfig
    mean: Float[np.ndarray, " d"]
    """Of latents, by channel: what is subtracted from them for diffusion, float64."""
    deviation: Float[np.ndarray, " d"]
    """What they are then divided by, positive."""
    variables: Any = None
    """{"params": ...} of numpy arrays, float32; None where only config.json was read."""


def autoencoder_kl_rules(config: AutoencoderKlConfig) -> WeightRules:
    """The published names."""
    last = len(config.widths) - 1
    rules: list[Rule] = []
    for half in ("encoder", "decoder"):
        rules += dense_rules(f"{half}.conv_in", f"{half}/stem", CONV)
        for index, name in enumerate("ab"):
            rules += _block_rules(f"{half}.mid_block.resnets.{index}", f"{half}/mid_{name}")
        rules += _attention_rules(f"{half}.mid_block.attentions.0", f"{half}/mid_attention")
        rules += _norm_rules(f"{half}.conv_norm_out", f"{half}/norm")
        rules += dense_rules(f"{half}.conv_out", f"{half}/head", CONV)
    for level in range(last + 1):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{last - level}"
        for index in range(config.blocks):
            rules += _block_rules(f"{down}.resnets.{index}", f"encoder/down_{level}_block_{index}")
            if level in config.encoder_attention:
                rules += _attention_rules(f"{down}.attentions.{index}", f"encoder/down_{level}_attention_{index}")
        for index in range(config.blocks + 1):
            rules += _block_rules(f"{up}.resnets.{index}", f"decoder/up_{level}_block_{index}")
            if level in config.decoder_attention:
                rules += _attention_rules(f"{up}.attentions.{index}", f"decoder/up_{level}_attention_{index}")
        rules += dense_rules(f"{down}.downsamplers.0.conv", f"encoder/down_{level}_halve", CONV)
        rules += dense_rules(f"{up}.upsamplers.0.conv", f"decoder/up_{level}_double", CONV)
    rules += dense_rules("quant_conv", "to_moments", POINTWISE)
    rules += dense_rules("post_quant_conv", "from_latent", POINTWISE)
    return tuple(rules)


def autoencoder_shapes(config: AutoencoderKlConfig) -> Any:
    """The tree of variables, of ShapeDtypeStructs."""
    model = AutoencoderKl(config)
    image = jax.ShapeDtypeStruct((1, config.factor, config.factor, config.channels), jnp.float32)
    return shapes_of(lambda x: model.init(jax.random.key(0), x, key=jax.random.key(0)), image)


def describe_autoencoder_kl(path: str | Path) -> PublishedAutoencoder:
    """What config.json of a folder says; reads no weights. Raises ``UserError`` for another or an unknown network."""
    return _described(read_config(path), path)


def read_autoencoder_kl(path: str | Path) -> PublishedAutoencoder:
    """A folder with config.json and weights.

    Raises:
      UserError: a file is missing or damaged, the network is another, or weights and configuration do not fit.
    """
    content, tensors = read_folder(path)
    published = _described(content, path)
    rules = autoencoder_kl_rules(published.config)
    variables, _ = from_published(tensors, autoencoder_shapes(published.config), rules=rules)
    return PublishedAutoencoder(
        config=published.config, mean=published.mean, deviation=published.deviation, variables=variables
    )


def write_autoencoder_kl(path: str | Path, published: PublishedAutoencoder) -> None:
    """Write a folder that :func:`read_autoencoder_kl` and diffusers read."""
    config, mean, deviation = published.config, published.mean, published.deviation
    levels = range(len(config.widths))
    same = bool(np.all(mean == mean[0]) and np.all(deviation == deviation[0]))
    scale: dict[str, Any] = (
        {"scaling_factor": float(1.0 / deviation[0]), "shift_factor": float(mean[0]) or None}
        if same
        else {"scaling_factor": 1.0, "latents_mean": mean.tolist(), "latents_std": deviation.tolist()}
    )
    content = {
        "_class_name": CLASS,
        "in_channels": config.channels,
        "out_channels": config.channels,
        "latent_channels": config.latent,
        "block_out_channels": list(config.widths),
        "down_block_types": [_ENCODER_ATTENTION if level in config.encoder_attention else _ENCODER for level in levels],
        "up_block_types": [
            _DECODER_ATTENTION if level in config.decoder_attention else _DECODER for level in reversed(levels)
        ],
        "layers_per_block": config.blocks,
        "act_fn": "silu",
        "norm_num_groups": config.groups,
        "mid_block_add_attention": config.attention,
        "use_quant_conv": config.encoded_projection,
        "use_post_quant_conv": config.decoded_projection,
        **scale,
    }
    write_folder(path, {CONFIG: content}, to_published(published.variables, rules=autoencoder_kl_rules(config)))


def _block_rules(published: str, ours: str) -> tuple[Rule, ...]:
    return (
        *_norm_rules(f"{published}.norm1", f"{ours}/norm_in"),
        *dense_rules(f"{published}.conv1", f"{ours}/conv_in", CONV),
        *_norm_rules(f"{published}.norm2", f"{ours}/norm_out"),
        *dense_rules(f"{published}.conv2", f"{ours}/conv_out", CONV),
        *dense_rules(f"{published}.conv_shortcut", f"{ours}/skip", POINTWISE),
    )


def _attention_rules(published: str, ours: str) -> tuple[Rule, ...]:
    names = {"query": ("to_q", "query"), "key": ("to_k", "key"), "value": ("to_v", "value")}
    names["out"] = ("to_out.0", "proj_attn")
    return (
        *_norm_rules(f"{published}.group_norm", f"{ours}/norm"),
        *(
            rule
            for own, both in names.items()
            for name in both
            for rule in dense_rules(f"{published}.{name}", f"{ours}/{own}")
        ),
    )


def _norm_rules(published: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(f"{published}.weight", f"params/{ours}/scale"), Rule(f"{published}.bias", f"params/{ours}/bias"))


def _described(content: Mapping[str, Any], path: str | Path) -> PublishedAutoencoder:
    """What an object of config.json says."""

    def refuse(problem: str) -> UserError:
        return UserError(f"config.json in {path} {problem}: name the folder of an {CLASS}")

    kind = content.get("_class_name")
    if kind != CLASS:
        raise refuse(f"is of {on_one_line(str(kind), 60)!r}" if kind is not None else 'has no "_class_name"')
    said = {name: value for name, value in content.items() if not name.startswith("_")}
    if unknown := sorted(said.keys() - _DEFAULTS.keys()):
        raise refuse(f"has the setting {on_one_line(unknown[0], 60)!r}, which is not known here")
    said = {**_DEFAULTS, **said}

    def value(name: str, kind: type) -> Any:
        found = said[name]
        if kind is float and type(found) is int:
            found = float(found)
        if type(found) is not kind or (kind is float and not math.isfinite(found)):
            raise refuse(f"has {on_one_line(repr(found), 60)} for {name}, which is no {kind.__name__}")
        return found

    def values(name: str, kind: type) -> list[Any]:
        found = said[name]
        if not isinstance(found, list) or not all(type(each) in (kind, int) for each in found):
            raise refuse(f"has {on_one_line(repr(found), 60)} for {name}, which is no list of {kind.__name__}")
        return found

    widths = tuple(values("block_out_channels", int))
    if not widths:
        raise refuse("has [] for block_out_channels, which is no level at all")

    def attending(name: str, plain: str, attentive: str) -> list[bool]:
        kinds = values(name, str)
        if len(kinds) != len(widths) or not set(kinds) <= {plain, attentive}:
            wanted = f"{len(widths)} of {plain} or {attentive}"
            raise refuse(f"has {on_one_line(repr(kinds), 80)} for {name}, and only {wanted} are known here")
        return [kind == attentive for kind in kinds]

    down = attending("down_block_types", _ENCODER, _ENCODER_ATTENTION)
    up = attending("up_block_types", _DECODER, _DECODER_ATTENTION)[::-1]
    levels_of = lambda attend: tuple(level for level, each in enumerate(attend) if each)
    fixed = {"act_fn": "silu", "out_channels": said["in_channels"]}
    for name, wanted in fixed.items():
        if said[name] != wanted:
            raise refuse(f"has {on_one_line(repr(said[name]), 80)} for {name}, and only {wanted!r} is known here")
    config = AutoencoderKlConfig(
        channels=value("in_channels", int),
        latent=value("latent_channels", int),
        widths=widths,
        blocks=value("layers_per_block", int),
        groups=value("norm_num_groups", int),
        attention=value("mid_block_add_attention", bool),
        encoder_attention=levels_of(down),
        decoder_attention=levels_of(up),
        encoded_projection=value("use_quant_conv", bool),
        decoded_projection=value("use_post_quant_conv", bool),
    )
    try:
        check_ranges(config)
    except UserError as error:
        raise refuse(f"is of no possible network ({error})") from error
    if any(width % config.groups for width in widths):
        raise refuse(f"has {config.groups} groups, which do not divide {', '.join(map(str, widths))} channels")
    mean, deviation = _scale(said, config.latent, value, values)
    if mean.shape != (config.latent,) or deviation.shape != (config.latent,) or not (deviation > 0.0).all():
        raise refuse(f"has no mean and positive deviation for each of {config.latent} channels of latents")
    return PublishedAutoencoder(config=config, mean=mean, deviation=deviation)


def _scale(said: Mapping[str, Any], latent: int, value: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of latents: (latent - mean) / deviation is what published networks diffuse."""
    factor = value("scaling_factor", float)
    shift = 0.0 if said["shift_factor"] is None else value("shift_factor", float)
    mean = values("latents_mean", float) if said["latents_mean"] is not None else [shift] * latent
    spread = values("latents_std", float) if said["latents_std"] is not None else [1.0] * latent
    # a factor of 0 is refused with what is not positive
    deviation = np.asarray(spread, np.float64) / factor if factor else np.zeros(latent)
    made = np.asarray(mean, np.float64), deviation
    return made if all(np.isfinite(each).all() for each in made) else (np.zeros(0), np.zeros(0))
