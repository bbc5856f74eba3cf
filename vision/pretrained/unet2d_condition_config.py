"""The entries of the config.json of diffusers' UNet2DConditionModel as a `ConditionUNetConfig`, and back.

``attention_head_dim`` has two meanings there: in blocks with transformers it is a number of heads, in those of unCLIP
(``SimpleCrossAttnDownBlock2D``) the channels of one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vision.errors import UserError
from vision.models.unet_condition.unet import Activation, ConditionUNetConfig, EmbeddingKind, check_levels
from vision.pretrained.diffusers_config import Entries
from vision.pretrained.diffusers_folder import CONFIG

CLASS = "UNet2DConditionModel"
_TRANSFORMER = ("CrossAttnDownBlock2D", "UNetMidBlock2DCrossAttn", "CrossAttnUpBlock2D")
_JOINT = ("SimpleCrossAttnDownBlock2D", "UNetMidBlock2DSimpleCrossAttn", "SimpleCrossAttnUpBlock2D")
_PLAIN = {"strided": ("DownBlock2D", "UpBlock2D"), "residual": ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")}
_EMBEDDINGS: Mapping[str | None, EmbeddingKind] = {
    **{None: "none", "timestep": "time", "identity": "vector"},
    **{"projection": "network", "simple_projection": "linear"},
}
_FIXED: Mapping[str, tuple[Any, ...]] = {
    **{"addition_embed_type": (None,), "encoder_hid_dim": (None,), "encoder_hid_dim_type": (None,)},
    **{"time_cond_proj_dim": (None,), "timestep_post_act": (None,), "cross_attention_norm": (None,)},
    **{"reverse_transformer_layers_per_block": (None,), "num_attention_heads": (None,)},
    **{"class_embeddings_concat": (False,), "dual_cross_attention": (False,), "resnet_skip_time_act": (False,)},
    **{"attention_type": ("default",), "time_embedding_type": ("positional",)},
    **{"conv_in_kernel": (3,), "conv_out_kernel": (3,), "mid_block_scale_factor": (1,)},
    **{"resnet_out_scale_factor": (1,), "downsample_padding": (1,), "act_fn": ("silu", "swish")},
}
"""Entries that can have these values only, the first of which is the default."""
_MEANINGLESS = ("sample_size", "upcast_attention", "addition_embed_type_num_heads", "addition_time_embed_dim")
"""Entries that change nothing in the networks that are supported; the softmax here is float32."""
_ACTIVATIONS: Mapping[str | None, Activation] = {None: "none", "silu": "silu", "swish": "silu", "gelu": "gelu"}


def unet2d_condition_config(values: Mapping[str, Any], *, origin: str = CONFIG) -> ConditionUNetConfig:
    """The configuration of a network, from the entries of its config.json; absent ones have diffusers' defaults.

    Raises ``UserError`` where an entry is unknown or malformed, contradicts another, or asks for what a
    `ConditionUNet` has not.
    """
    entries = Entries.of(values, origin=origin, networks=(CLASS,))
    widths = entries.counts("block_out_channels", (320, 640, 1280, 1280))
    levels = len(widths)
    for name, possible in _FIXED.items():
        entries.only(name, possible, default=possible[0])
    attention, attending, resampling = _levels(entries, levels)
    sizes = _numbers(entries, "attention_head_dim", levels, 8)
    heads = sizes if attention == "transformer" else tuple(w // s for w, s in zip(widths, sizes, strict=True))
    places = {*attending, levels - 1}
    if attention == "joint" and len(set(sizes)) > 1:
        raise entries.refuse("attention_head_dim", "and only one number is supported with such blocks: use that")
    if any(widths[level] % sizes[level] for level in places):
        raise entries.refuse(
            "attention_head_dim", f"which does not divide block_out_channels {list(widths)}: correct it"
        )
    context_only, middle_context_only = _context_only(entries, levels, attention)
    groups = entries.count("norm_num_groups", 32)
    if any(width % groups for width in widths):
        raise entries.refuse("norm_num_groups", f"which does not divide block_out_channels {list(widths)}: correct it")
    epsilon = entries.number("norm_eps", 1e-5, above=0.0)
    if attention == "joint" and epsilon != 1e-5:
        raise entries.refuse("norm_eps", "and only 1e-05 is supported with such blocks: use a network of that kind")
    shift = entries.number("freq_shift", 0)
    if not 0.0 <= shift <= 1.0:
        raise entries.refuse("freq_shift", "and only 0 to 1 is supported here: use another network")
    dropout = entries.number("dropout", 0.0)
    if not 0.0 <= dropout < 1.0:
        raise entries.refuse("dropout", "which is no probability below 1: correct it")
    entries.flag("flip_sin_to_cos", True)
    entries.flag("use_linear_projection", False)
    channels, condition_channels, outputs = _channels(entries)
    embedding, embedding_width = _embedding(entries)
    context = set(_numbers(entries, "cross_attention_dim", levels, 1280))
    if len(context) > 1:
        raise entries.refuse("cross_attention_dim", "and only one number for all blocks is supported: use that")
    activation = entries.only("time_embedding_act_fn", tuple(_ACTIVATIONS), default=None)
    conditioning = entries.only("resnet_time_scale_shift", ("default", "scale_shift"), default="default")
    made = ConditionUNetConfig(
        channels=channels,
        condition_channels=condition_channels,
        out_channels=None if outputs == channels else outputs,
        widths=widths,
        blocks=_numbers(entries, "layers_per_block", levels, 2),
        attention=attention,
        attending=attending,
        layers=_numbers(entries, "transformer_layers_per_block", levels, 1),
        heads=tuple(count if level in places else 1 for level, count in enumerate(heads)),
        context=context.pop(),
        context_only=context_only,
        middle_context_only=middle_context_only,
        embedding=embedding,
        embedding_width=embedding_width,
        embedding_activation=_ACTIVATIONS[activation],
        time_width=_time_width(entries, widths[0]),
        frequency_shift=shift,
        conditioning="scale_shift" if conditioning == "scale_shift" else "add",
        resampling=resampling,
        groups=groups,
        epsilon=epsilon,
        centred=entries.flag("center_input_sample", False),
        dropout=dropout,
    )
    entries.ignore(_MEANINGLESS)
    entries.finish(made)
    check_levels(made)
    return made


def unet2d_condition_values(
    config: ConditionUNetConfig, *, side: int | None = None, linear: bool = True
) -> dict[str, Any]:
    """The entries of a config.json for a network, the inverse of :func:`unet2d_condition_config`.

    Args:
      config: of the network.
      side: height and width of what it generates, which pipelines take where they are asked for no other.
      linear: whether transformers are written with linear layers around them, or with 1x1 convolutions.

    Raises ``UserError`` where diffusers has no such network.
    """
    joint = config.attention == "joint"
    down, mid, up = _JOINT if joint else _TRANSFORMER
    plain_down, plain_up = _PLAIN[config.resampling]
    levels = range(len(config.widths))
    attends = [level in config.attending for level in levels]
    _expressible("resampling", len(levels) == 1 or joint == (config.resampling == "residual"), config)
    kinds = {kind: name for name, kind in _EMBEDDINGS.items()}
    projected = config.embedding in ("linear", "network")
    only = [level in config.context_only for level in levels]
    heads: int | list[int] = list(config.heads)
    if joint:
        places = {*config.attending, levels[-1]}
        sizes = {config.widths[level] // config.heads[level] for level in places}
        _expressible("heads", len(sizes) == 1, config)
        heads = sizes.pop()
    return {
        "_class_name": CLASS,
        "sample_size": side,
        "in_channels": config.channels + config.condition_channels,
        "out_channels": config.channels if config.out_channels is None else config.out_channels,
        "center_input_sample": config.centred,
        "flip_sin_to_cos": False,
        "freq_shift": int(config.frequency_shift) if config.frequency_shift in (0, 1) else config.frequency_shift,
        "down_block_types": [down if each else plain_down for each in attends],
        "mid_block_type": mid,
        "up_block_types": [up if each else plain_up for each in reversed(attends)],
        "only_cross_attention": only if joint or any(only) else False,
        "mid_block_only_cross_attention": config.middle_context_only if joint else None,
        "block_out_channels": list(config.widths),
        "layers_per_block": list(config.blocks),
        "transformer_layers_per_block": list(config.layers),
        "downsample_padding": 1,
        "act_fn": "silu",
        "norm_num_groups": config.groups,
        "norm_eps": config.epsilon,
        "cross_attention_dim": config.context,
        "attention_head_dim": heads,
        "use_linear_projection": linear,
        "class_embed_type": None if config.embedding == "label" else kinds[config.embedding],
        "num_class_embeds": config.embedding_width if config.embedding == "label" else None,
        "projection_class_embeddings_input_dim": config.embedding_width if projected else None,
        "resnet_time_scale_shift": "scale_shift" if config.conditioning == "scale_shift" else "default",
        "time_embedding_dim": config.time_width or None,
        "time_embedding_act_fn": None if config.embedding_activation == "none" else config.embedding_activation,
        "dropout": config.dropout,
    }


def _levels(entries: Entries, levels: int) -> tuple[Any, tuple[int, ...], Any]:
    """What attends, at which levels, and how resolution changes, from the types of blocks."""
    of_transformer = (*(_TRANSFORMER[0],) * 3, "DownBlock2D"), _TRANSFORMER[1], ("UpBlock2D", *(_TRANSFORMER[2],) * 3)
    down = entries.words("down_block_types", of_transformer[0])
    middle = entries.only("mid_block_type", (_TRANSFORMER[1], _JOINT[1]), default=of_transformer[1])
    up = entries.words("up_block_types", of_transformer[2])
    attention = "transformer" if middle == _TRANSFORMER[1] else "joint"
    names = _TRANSFORMER if attention == "transformer" else _JOINT
    resampling = "strided" if attention == "transformer" else "residual"
    attending = []
    for entry, types, attentive, plain in (
        ("down_block_types", down, names[0], _PLAIN[resampling][0]),
        ("up_block_types", up, names[2], _PLAIN[resampling][1]),
    ):
        if len(types) != levels:
            raise entries.refuse(entry, f"which are not as many as block_out_channels, {levels}: correct it")
        if other := [name for name in types if name not in (attentive, plain)]:
            raise entries.refuse(
                entry,
                f"of which {other[0]!r} is not supported with {middle}, where {attentive} and {plain} are: use another "
                "network",
            )
        attending.append([level for level, name in enumerate(types) if name == attentive])
    if sorted(levels - 1 - level for level in attending[1]) != attending[0]:
        raise entries.refuse("up_block_types", "whose attention is not at the levels of down_block_types: correct it")
    return attention, tuple(attending[0]), resampling


def _numbers(entries: Entries, name: str, levels: int, default: int) -> tuple[int, ...]:
    """A number for each level, or one for all."""
    value = entries.values.get(name, default)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (entries.count(name, default),) * levels
    found = entries.counts(name)
    if len(found) != levels:
        raise entries.refuse(name, f"which are not as many as block_out_channels, {levels}: correct it")
    return found


def _context_only(entries: Entries, levels: int, attention: str) -> tuple[tuple[int, ...], bool]:
    """The levels that attend to the context alone, and whether the middle does."""
    value = entries.values.get("only_cross_attention", False)
    if isinstance(value, list) and len(value) == levels and all(isinstance(each, bool) for each in value):
        entries.ignore(("only_cross_attention",))
        each, middle = tuple(value), False
    else:
        one = entries.flag("only_cross_attention", False)
        each, middle = (one,) * levels, one
    stated = entries.only("mid_block_only_cross_attention", (None, False, True), default=None)
    # transformers in the middle always attend to places too
    middle = (middle if stated is None else bool(stated)) if attention == "joint" else False
    return tuple(level for level, only in enumerate(each) if only), middle


def _channels(entries: Entries) -> tuple[int, int, int]:
    """(channels that are generated, of the image that is a condition, of the prediction)."""
    inputs, outputs = entries.count("in_channels", 4), entries.count("out_channels", 4)
    if outputs in (inputs, 2 * inputs):
        return inputs, 0, outputs
    if outputs < inputs:
        return outputs, inputs - outputs, outputs
    raise entries.refuse(
        "out_channels", f"which are neither fewer than in_channels {inputs} nor twice as many: correct it"
    )


def _embedding(entries: Entries) -> tuple[EmbeddingKind, int]:
    """The condition other than the context, and its size."""
    named = entries.only("class_embed_type", tuple(_EMBEDDINGS), default=None)
    classes = entries.maybe_count("num_class_embeds")
    width = entries.maybe_count("projection_class_embeddings_input_dim")
    kind = _EMBEDDINGS[named]
    if kind == "none" and classes is not None:
        return "label", classes
    if kind in ("network", "linear"):
        if width is None:
            raise entries.refuse(
                "projection_class_embeddings_input_dim", f"which class_embed_type {named!r} needs: correct it"
            )
        return kind, width
    return kind, 0


def _time_width(entries: Entries, width: int) -> int:
    stated = entries.maybe_count("time_embedding_dim")
    return 0 if stated in (None, 4 * width) else stated


def _expressible(field: str, possible: bool, config: ConditionUNetConfig) -> None:
    if not possible:
        raise UserError(f"diffusers' {CLASS} has no network with model.{field} {getattr(config, field)}: change it")
