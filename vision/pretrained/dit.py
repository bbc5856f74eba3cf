"""Published diffusion transformers in diffusers' layout: DiTTransformer2DModel, and Transformer2DModel of that kind.

    model, variables = read_dit("DiT-XL-2-256/transformer")
    outputs = DiT(model).apply(variables, noisy, time, {"label": label}, train=False)
    noise = outputs[..., : model.channels]  # the other half is for the variance

Three things are stored differently there, and none changes what the network computes. The code of a position begins
with its column, here with its row: the halves of all channels of a token change places. The code of the time begins
with cosines. Every block holds a copy of the embeddings of time and label; where the copies differ, as after training
with diffusers, so do the embeddings here (``DiTConfig.embeddings``).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from vision.errors import UserError
from vision.models.dit import DiT, DiTConfig, position_embedding
from vision.pretrained.adapted import Adapted
from vision.pretrained.diffusers_config import Entries, options
from vision.pretrained.diffusers_folder import CONFIG, FolderSource, check_count, read_folder
from vision.pretrained.learned_variance import variance_is_surplus, without_variance
from vision.pretrained.rules import DENSE, SAME, Layout, Rule, dense_rules, from_published, to_published
from vision.pretrained.state_dict import StateDict

_KINDS = ("DiTTransformer2DModel", "Transformer2DModel")
_EXPANSION = 4
_EMBEDDINGS = re.compile(r"transformer_blocks\.(\d+)\.norm1\.emb\.(.*)")
_TABLE = "pos_embed.pos_embed"
_OF_TRAINING = ("classes", "remat", "dtype")
"""Fields that a run may choose for itself."""
_MEANINGLESS = ("norm_num_groups", "upcast_attention", "use_linear_projection", "only_cross_attention", "sample_size")
"""Entries that change nothing in networks of this kind, where there is no text; the softmax here is float32."""


def dit_config(values: Mapping[str, Any], *, origin: str = CONFIG) -> DiTConfig:
    """The configuration of a network, from the entries of its config.json, with embeddings that all blocks share.

    Args:
      values: the entries; absent ones have diffusers' defaults.
      origin: the file, for messages.

    Raises:
      UserError: an entry is unknown or malformed, or asks for what a `DiT` has not.
    """
    entries = Entries.of(values, origin=origin, networks=_KINDS)
    own = values["_class_name"] == _KINDS[0]
    side = entries.count("sample_size", 32 if own else None)
    patch = entries.count("patch_size", 2 if own else None)
    heads, channels_of_head = (
        entries.count("num_attention_heads", 16),
        entries.count("attention_head_dim", 72 if own else 88),
    )
    if heads * channels_of_head % 4:
        raise entries.refuse("attention_head_dim", f"of which {heads} are no multiple of 4: use another network")
    entries.only("norm_type", ("ada_norm_zero",), default="ada_norm_zero" if own else "layer_norm")
    entries.only("activation_fn", ("gelu-approximate",), default="gelu-approximate" if own else "geglu")
    entries.only("attention_bias", (True,), default=own)
    entries.only("norm_elementwise_affine", (False,), default=not own)
    entries.only("dropout", (0.0,), default=0.0)
    for name in ("cross_attention_dim", "num_vector_embeds", "caption_channels", "use_additional_conditions"):
        entries.only(name, (None,), default=None)
    entries.only("double_self_attention", (False,), default=False)
    entries.only("attention_type", ("default",), default="default")
    # diffusers compresses positions of transformers for large images
    compressed = not own and side >= 128
    entries.only("interpolation_scale", (1,) if compressed else (1, None), default=None)
    channels = entries.count("in_channels", 4 if own else None)
    outputs = entries.maybe_count("out_channels")
    made = DiTConfig(
        patch=patch,
        width=heads * channels_of_head,
        depth=entries.count("num_layers", 28 if own else 1),
        heads=heads,
        expansion=_EXPANSION,
        dense_epsilon=entries.number("norm_eps", 1e-5, above=0.0),
        classes=entries.count("num_embeds_ada_norm", 1000 if own else None),
        channels=channels,
        out_channels=None if outputs == channels else outputs,
    )
    entries.ignore(_MEANINGLESS)
    entries.finish(made)
    return made


def dit_values(config: DiTConfig, *, side: int) -> dict[str, Any]:
    """The entries of a config.json for a network, the inverse of :func:`dit_config`.

    Args:
      config: of the network.
      side: height and width of the images.

    Raises:
      UserError: diffusers' DiTTransformer2DModel has no such network.
    """
    impossible = [name for name in ("embedding", "tokens", "condition_channels", "durations") if getattr(config, name)]
    impossible += ["expansion"] if config.expansion != _EXPANSION else []
    impossible += ["classes"] if not config.classes else []
    if impossible:
        name = impossible[0]
        raise UserError(
            f"diffusers' DiTTransformer2DModel has no network with model.{name} {getattr(config, name)}: write another "
            "format"
        )
    return {
        "_class_name": _KINDS[0],
        "sample_size": side,
        "patch_size": config.patch,
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "in_channels": config.channels,
        "out_channels": _outputs(config),
        "num_layers": config.depth,
        "dropout": 0.0,
        "norm_num_groups": 32,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": config.classes,
        "upcast_attention": False,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": config.dense_epsilon,
    }


def dit_rules(config: DiTConfig) -> tuple[Rule, ...]:
    """The published names of a network; of embeddings that blocks share, those in the first block."""
    theirs, ours = "transformer_blocks.{index}", "block_{index}"
    embeddings = f"{theirs if config.embeddings == 'each' else 'transformer_blocks.0'}.norm1.emb"
    suffix = "_{index}" if config.embeddings == "each" else ""
    stem = Layout(
        lambda x: _swapped(x.transpose(2, 3, 1, 0).reshape(-1, len(x)), 1),
        lambda x: _swapped(x, 1).reshape(config.patch, config.patch, -1, x.shape[1]).transpose(3, 2, 0, 1),
    )
    read, write = _dense(axis=0), _dense(axis=1)
    mixed = (("attn1.to_out.0", "out"), ("ff.net.2", "dense_out"))
    return (
        Rule("pos_embed.proj.weight", "params/stem/kernel", stem),
        Rule("pos_embed.proj.bias", "params/stem/bias", _vector()),
        Rule(f"{embeddings}.timestep_embedder.linear_1.weight", f"params/time_in{suffix}/kernel", read),
        Rule(f"{embeddings}.timestep_embedder.linear_1.bias", f"params/time_in{suffix}/bias"),
        *dense_rules(f"{embeddings}.timestep_embedder.linear_2", f"time_out{suffix}"),
        Rule(f"{embeddings}.class_embedder.embedding_table.weight", f"params/label_embedding{suffix}/embedding"),
        *_rules(f"{theirs}.norm1.linear", f"{ours}/modulation", _dense(axis=1, chunks=6), _vector(6)),
        *_rules(f"{theirs}.attn1.to_q", f"{ours}/query", read),
        *_rules(f"{theirs}.attn1.to_k", f"{ours}/key", read),
        *_rules(f"{theirs}.attn1.to_v", f"{ours}/value", read),
        *_rules(f"{theirs}.ff.net.0.proj", f"{ours}/dense_in", read),
        *(rule for name, layer in mixed for rule in _rules(f"{theirs}.{name}", f"{ours}/{layer}", write, _vector())),
        *_rules("proj_out_1", "modulation", _dense(axis=1, chunks=2), _vector(2)),
        *_rules("proj_out_2", "head", read),
    )


def read_dit(folder: str | Path) -> tuple[DiTConfig, dict[str, Any]]:
    """A published network.

    Args:
      folder: with config.json and the weights (``vision/pretrained/diffusers_folder.py``).

    Returns:
      Its configuration, and its variables {"params": ...} as float32 numpy arrays.

    Raises:
      UserError: a file is missing or damaged, config.json has an entry that a `DiT` cannot follow, or the arrays are
        not those of the network it describes.
    """
    config, tensors = _read(Path(folder))
    image = jax.ShapeDtypeStruct((1, config.patch, config.patch, config.channels), jnp.float32)
    one = jax.ShapeDtypeStruct((1,), jnp.int32)
    init = lambda *of: DiT(config).init(jax.random.key(0), *of, train=False)
    target = jax.eval_shape(init, image, one, {"label": one})
    return config, from_published(tensors, target, rules=dit_rules(config))[0]


def dit_source(config: DiTConfig, *, side: int) -> FolderSource:
    """How ``--init-from FOLDER`` starts a run's network from a published one, and how networks become folders.

    Args:
      config: of the run's network.
      side: height and width of the run's images.

    Labels other than the published ones begin with random embeddings. Where the published network predicts a variance
    too, and the run's does not, those outputs are left out.
    """

    def read(folder: Path) -> Adapted:
        wanted, tensors = _read(folder)
        counts = lambda config: (config.channels, _outputs(config))
        variance = variance_is_surplus(counts(config), counts(wanted), origin=str(folder / CONFIG))
        ignored = (*_OF_TRAINING, *(("out_channels",) if variance else ()))
        ours = replace(config, out_channels=None if _outputs(config) == config.channels else config.out_channels)
        missing = options(ours, wanted, ignored=ignored)
        if not config.classes:
            missing = f"{missing} --model.classes {wanted.classes}".strip()
        if missing:
            raise UserError(f"{folder / CONFIG} describes another network than this run has: add {missing}")
        notes = []
        if variance:
            tensors, note = without_variance(tensors, "proj_out_2", patch=config.patch)
            notes.append(note)
        return Adapted(tensors, notes=tuple(notes), replaced=(r"^params/label_embedding(_\d+)?/",))

    return FolderSource(
        rules=dit_rules(config), read=read, written=lambda variables: _published(config, variables, side)
    )


def _read(folder: Path) -> tuple[DiTConfig, StateDict]:
    """The configuration, and the arrays that its rules expect."""
    values, tensors = read_folder(folder)
    config = dit_config(values, origin=str(folder / CONFIG))
    tensors = dict(tensors)
    block = r"transformer_blocks\.\d+\.norm1\.linear\.weight"
    check_count(tensors, block, expected=config.depth, blocks="blocks", folder=folder)
    table = tensors.pop(_TABLE, None)
    if table is not None:
        grid = dit_side(values) // config.patch
        expected = _swapped(position_embedding(grid, grid, config.width), 1)
        if table.shape not in (expected.shape, (1, *expected.shape)) or not np.allclose(table, expected, atol=1e-3):
            raise UserError(f"{folder} has other positions ({_TABLE}) than sines and cosines: use another network")
    copies: dict[str, list[str]] = {}
    for name in tensors:
        if match := _EMBEDDINGS.fullmatch(name):
            copies.setdefault(match[2], []).append(name)
    first = {kind: f"transformer_blocks.0.norm1.emb.{kind}" for kind in copies}
    missing = [name for kind, name in first.items() if name not in tensors]
    if missing:
        raise UserError(f"{folder} has no {missing[0]}: fetch its weights again")
    if all(np.array_equal(tensors[first[kind]], tensors[name]) for kind, names in copies.items() for name in names):
        for kind, names in copies.items():
            if len(names) != config.depth:
                raise UserError(
                    f"{folder} has {len(names)} arrays norm1.emb.{kind} for {config.depth} blocks, where "
                    "each has one: fetch its weights again"
                )
        surplus = {name for names in copies.values() for name in names} - set(first.values())
        return config, {name: array for name, array in tensors.items() if name not in surplus}
    return replace(config, embeddings="each"), tensors


def dit_side(values: Mapping[str, Any]) -> int:
    """The height of the images that a network is for, from the entries that :func:`dit_config` has accepted."""
    return values.get("sample_size", 32)


def _published(config: DiTConfig, variables: Mapping[str, Any], side: int) -> tuple[dict[str, Any], StateDict]:
    values = dit_values(config, side=side)
    tensors = to_published({"params": variables["params"]}, rules=dit_rules(config))
    if config.embeddings == "shared":
        shared = {match[2]: name for name in tensors if (match := _EMBEDDINGS.fullmatch(name))}
        for index in range(config.depth):
            copies = {f"transformer_blocks.{index}.norm1.emb.{kind}": tensors[name] for kind, name in shared.items()}
            tensors |= copies
    return values, tensors


def _outputs(config: DiTConfig) -> int:
    return config.channels if config.out_channels is None else config.out_channels


def _rules(theirs: str, ours: str, kernel: Layout, bias: Layout = SAME) -> tuple[Rule, ...]:
    return Rule(f"{theirs}.weight", f"params/{ours}/kernel", kernel), Rule(
        f"{theirs}.bias", f"params/{ours}/bias", bias
    )


def _dense(*, axis: int, chunks: int = 1) -> Layout:
    """Kernels of linear layers whose inputs (axis 0 here) or outputs (axis 1) are channels of tokens."""
    return Layout(
        lambda x: _swapped(DENSE.to_ours(x), axis, chunks), lambda x: DENSE.to_published(_swapped(x, axis, chunks))
    )


def _vector(chunks: int = 1) -> Layout:
    swap = lambda x: _swapped(x, 0, chunks)
    return Layout(swap, swap)


def _swapped(x: np.ndarray, axis: int, chunks: int = 1) -> np.ndarray:
    """The two halves of each of equal parts of an axis, the other way round; its own inverse."""
    parts = rearrange(np.moveaxis(x, axis, -1), "... (c s h) -> ... c s h", c=chunks, s=2)
    return np.moveaxis(rearrange(parts[..., ::-1, :], "... c s h -> ... (c s h)"), -1, axis)
