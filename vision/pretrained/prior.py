"""Published priors of unCLIP in diffusers' layout, PriorTransformer, and their scheduler.

    config, variables = read_prior("karlo-v1-alpha/prior")
    estimate = PriorTransformer(config).apply({"params": variables["params"]}, noisy, time, condition, train=False)
    embedding = estimate[:, 0, 0] * variables["embeddings"]["deviation"] + variables["embeddings"]["mean"]

Queries, keys and values are three arrays there and one here, and the code of the time begins with cosines there and
with sines here; neither changes what the network computes. Mean and deviation of embeddings, by which what is diffused
is scaled, are among the arrays, and count among the 1,022,030,080 parameters of the default size.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vision.errors import UserError
from vision.models.prior import SCALE, PriorConfig, initial_variables
from vision.platform import shapes_of
from vision.pretrained.adapted import Adapted
from vision.pretrained.diffusers_config import Entries, options
from vision.pretrained.diffusers_folder import CONFIG, FolderSource, check_count, read_folder
from vision.pretrained.rules import (
    QKV,
    QKV_BIAS,
    Layout,
    Rule,
    alike,
    dense_rules,
    from_published,
    norm_rules,
    to_published,
)
from vision.pretrained.scheduler_config import clip_range, find_scheduler_config
from vision.pretrained.state_dict import StateDict

_KIND = "PriorTransformer"
_OF_TRAINING = ("remat", "dtype", "dropout")
"""Fields that a run may choose for itself."""
_OF_CLIP = ("embedding", "text_embedding", "text_width", "text_length")
_HEADS = re.compile(r"(transformer_blocks\.\d+\.attn1)\.to_([qkv])\.(weight|bias)")
_JOINED = re.compile(r"(transformer_blocks\.\d+\.attn1)\.to_qkv\.(weight|bias)")


def prior_config(values: Mapping[str, Any], *, origin: str = CONFIG) -> PriorConfig:
    """The configuration of a network, from the entries of its config.json.

    Args:
      values: the entries; absent ones have diffusers' defaults.
      origin: the file, for messages.

    Raises:
      UserError: an entry is unknown or malformed, or asks for what a `PriorTransformer` has not.
    """
    entries = Entries.of(values, origin=origin, networks=(_KIND,))
    heads, channels = entries.count("num_attention_heads", 32), entries.count("attention_head_dim", 64)
    embedding = entries.count("embedding_dim", 768)
    outputs = entries.maybe_count("clip_embed_dim")
    if outputs not in (None, embedding):
        raise entries.refuse("clip_embed_dim", f"of a network whose input has {embedding}: use one that denoises it")
    states = entries.only("encoder_hid_proj_type", ("linear", None), default="linear") == "linear"
    length = entries.count("num_embeddings", 77, least=0)
    if (length > 0) != states:
        raise entries.refuse("num_embeddings", "which are those of the hidden states that encoder_hid_proj_type is for")
    query = entries.only("added_emb_type", ("prd", None), default="prd") == "prd"
    entries.only("additional_embeddings", (4 if query else 3,), default=4)
    width = heads * channels
    time_width = entries.maybe_count("time_embed_dim")
    made = PriorConfig(
        width=width,
        depth=entries.count("num_layers", 20),
        heads=heads,
        query=query,
        norm_in=entries.only("norm_in_type", ("layer", None), default=None) == "layer",
        text_norm=entries.only("embedding_proj_norm_type", ("layer", None), default=None) == "layer",
        time_width=0 if time_width in (None, width) else time_width,
        time_activation="gelu"
        if entries.only("time_embed_act_fn", ("silu", "gelu"), default="silu") == "gelu"
        else "silu",
        dropout=entries.number("dropout", 0.0),
        embedding=embedding,
        text_embedding=entries.maybe_count("embedding_proj_dim") or embedding,
        text_width=embedding if states else 0,
        text_length=max(length, 1),
    )
    entries.finish(made)
    if width % 2:
        raise entries.refuse("attention_head_dim", f"of which {heads} are an odd number: use another network")
    return made


def prior_values(config: PriorConfig) -> dict[str, Any]:
    """The entries of a config.json for a network, the inverse of :func:`prior_config`.

    Raises:
      UserError: diffusers' PriorTransformer has no such network.
    """
    if config.text_width not in (0, config.embedding):
        raise UserError(
            f"diffusers' PriorTransformer has one width for hidden states of texts, here {config.text_width}, and for "
            f"embeddings of images, here {config.embedding}: choose a CLIP where they are equal, or keep the run"
        )
    if not config.text_embedding:
        raise UserError("diffusers' PriorTransformer has no network without the embedding of the text: keep the run")
    return {
        "_class_name": _KIND,
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "num_layers": config.depth,
        "embedding_dim": config.embedding,
        "num_embeddings": config.text_length if config.text_width else 0,
        "additional_embeddings": 4 if config.query else 3,
        "dropout": config.dropout,
        "time_embed_act_fn": config.time_activation,
        "norm_in_type": "layer" if config.norm_in else None,
        "embedding_proj_norm_type": "layer" if config.text_norm else None,
        "encoder_hid_proj_type": "linear" if config.text_width else None,
        "added_emb_type": "prd" if config.query else None,
        "time_embed_dim": config.time_width or None,
        "embedding_proj_dim": config.text_embedding,
        "clip_embed_dim": config.embedding,
    }


def prior_rules() -> tuple[Rule, ...]:
    """The published names, of queries, keys and values as one array."""
    theirs, ours = "transformer_blocks.{block}", "block_{block}"
    lead = lambda axes: Layout(lambda x: x.reshape(x.shape[axes:]), lambda x: x.reshape(*(1,) * axes, *x.shape))
    return (
        Rule(
            "time_embedding.linear_1.weight",
            "params/time_in/kernel",
            Layout(lambda x: _swapped(x.T), lambda x: _swapped(x).T),
        ),
        Rule("time_embedding.linear_1.bias", "params/time_in/bias"),
        *dense_rules("time_embedding.linear_2", "time_out"),
        *dense_rules("proj_in", "stem"),
        *norm_rules("embedding_proj_norm", "text_norm"),
        *dense_rules("embedding_proj", "text_projection"),
        *dense_rules("encoder_hidden_states_proj", "states_projection"),
        Rule("positional_embedding", "params/position", lead(1)),
        Rule("prd_embedding", "params/query", lead(2)),
        *norm_rules("norm_in", "norm_in"),
        *norm_rules(f"{theirs}.norm1", f"{ours}/norm_attention"),
        Rule(f"{theirs}.attn1.to_qkv.weight", f"params/{ours}/qkv/kernel", QKV),
        Rule(f"{theirs}.attn1.to_qkv.bias", f"params/{ours}/qkv/bias", QKV_BIAS),
        *dense_rules(f"{theirs}.attn1.to_out.0", f"{ours}/out"),
        *norm_rules(f"{theirs}.norm3", f"{ours}/norm_dense"),
        *dense_rules(f"{theirs}.ff.net.0.proj", f"{ours}/dense_in"),
        *dense_rules(f"{theirs}.ff.net.2", f"{ours}/dense_out"),
        *norm_rules("norm_out", "norm"),
        *dense_rules("proj_to_clip_embeddings", "head"),
        Rule("clip_mean", f"{SCALE}/mean", lead(1)),
        Rule("clip_std", f"{SCALE}/deviation", lead(1)),
    )


def prior_shapes(config: PriorConfig) -> Any:
    """Shapes of the variables, {"params": ..., "embeddings": ...} of ShapeDtypeStructs; touches no devices."""
    return shapes_of(lambda: initial_variables(config, jax.random.key(0)))


def read_prior(folder: str | Path) -> tuple[PriorConfig, dict[str, Any]]:
    """A published network.

    Args:
      folder: with config.json and the weights (``vision/pretrained/diffusers_folder.py``).

    Returns:
      Its configuration, and its variables {"params": ..., "embeddings": {"mean", "deviation"}} as float32 numpy arrays.

    Raises:
      UserError: a file is missing or damaged, config.json has an entry that a `PriorTransformer` cannot follow, or the
        arrays are not those of the network it describes.
    """
    config, tensors = _read(Path(folder))
    return config, from_published(tensors, prior_shapes(config), rules=prior_rules())[0]


def prior_source(config: PriorConfig, *, limit: float | None) -> FolderSource:
    """How ``--init-from FOLDER`` starts a run's prior from a published one, and how priors become folders.

    Args:
      config: of the run's network.
      limit: of the run's static threshold; None for none.
    """

    def read(folder: Path) -> Adapted:
        wanted, tensors = _read(folder)
        text = "both" if wanted.text_width else "embedding"
        for name in _OF_CLIP:
            if getattr(config, name) != getattr(wanted, name):
                raise UserError(
                    f"{folder / CONFIG} is of a CLIP with {name} {getattr(wanted, name)}, and the run's has "
                    f"{getattr(config, name)}: name its CLIP with --clip.weights, and set --text {text}"
                )
        missing = options(config, wanted, ignored=_OF_TRAINING)
        if missing:
            raise UserError(f"{folder / CONFIG} describes another network than this run has: add {missing}")
        file = find_scheduler_config(folder)
        published = None if file is None else clip_range(file)
        notes = []
        if published not in (None, limit):
            option = f"--sampling.threshold static --sampling.limit {published:g}"
            notes.append(f"its scheduler keeps estimates within {published:g} deviations, as {option} does")
        return Adapted(tensors, notes=tuple(notes))

    def written(variables: Mapping[str, Any]) -> tuple[dict[str, Any], StateDict]:
        chosen = {name: variables[name] for name in ("params", SCALE)}
        return prior_values(config), _split(to_published(chosen, rules=prior_rules()))

    return FolderSource(rules=prior_rules(), read=read, written=written)


def _read(folder: Path) -> tuple[PriorConfig, StateDict]:
    """The configuration, and the arrays that the rules expect."""
    values, tensors = read_folder(folder)
    config = prior_config(values, origin=str(folder / CONFIG))
    block = r"transformer_blocks\.\d+\.norm1\.weight"
    check_count(tensors, block, expected=config.depth, blocks="blocks", folder=folder)
    return config, _joined(tensors, folder)


def _joined(tensors: Mapping[str, np.ndarray], folder: Path) -> StateDict:
    """With queries, keys and values, one after the other, as one array.

    Raises ``UserError`` where one is missing or has another shape than the others.
    """
    made: StateDict = {}
    heads: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        if match := _HEADS.fullmatch(name):
            heads.setdefault(f"{match[1]}.to_qkv.{match[3]}", {})[match[2]] = array
        else:
            made[name] = array
    for name, parts in heads.items():
        if parts.keys() != {"q", "k", "v"} or not alike(parts.values()):
            raise UserError(
                f"{folder} lacks queries, keys or values of {name}, or they have different shapes: fetch its weights "
                "again"
            )
        made[name] = np.concatenate([parts[part] for part in "qkv"])
    return made


def _split(tensors: StateDict) -> StateDict:
    """The inverse of :func:`_joined`."""
    made: StateDict = {}
    for name, array in tensors.items():
        match = _JOINED.fullmatch(name)
        if match is None:
            made[name] = array
            continue
        for part, each in zip("qkv", np.split(array, 3), strict=True):
            made[f"{match[1]}.to_{part}.{match[2]}"] = each
    return made


def _swapped(kernel: np.ndarray) -> np.ndarray:
    """The two halves of the rows, the other way round; its own inverse."""
    return np.concatenate(np.split(kernel, 2)[::-1])
