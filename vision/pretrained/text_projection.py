"""Published projections of texts and image embeddings for decoders of unCLIP: diffusers' UnCLIPTextProjModel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vision.models.unet_condition.text_projection import TextProjection, TextProjectionConfig
from vision.platform import shapes_of
from vision.pretrained.diffusers_config import Entries
from vision.pretrained.diffusers_folder import CONFIG, read_folder, write_folder
from vision.pretrained.rules import Rule, dense_rules, from_published, norm_rules, to_published

CLASS = "UnCLIPTextProjModel"

RULES: tuple[Rule, ...] = (
    Rule("learned_classifier_free_guidance_embeddings", "params/no_image"),
    *dense_rules("embedding_proj", "text_time"),
    *dense_rules("clip_image_embeddings_project_to_time_embeddings", "image_time"),
    *dense_rules("clip_extra_context_tokens_proj", "image_tokens"),
    *dense_rules("encoder_hidden_states_proj", "text_tokens"),
    *norm_rules("text_encoder_hidden_states_norm", "norm"),
)
"""The published names."""


def text_projection_config(values: Mapping[str, Any], *, origin: str = CONFIG) -> TextProjectionConfig:
    """The widths that the entries of a config.json state. Raises ``UserError`` for another or a malformed file."""
    entries = Entries.of(values, origin=origin, networks=(CLASS,))
    made = TextProjectionConfig(
        tokens=entries.count("clip_extra_context_tokens", 4),
        embedding=entries.count("clip_embeddings_dim", 768),
        time_width=entries.count("time_embed_dim"),
        context=entries.count("cross_attention_dim"),
    )
    entries.finish(made)
    return made


def text_projection_shapes(config: TextProjectionConfig) -> Any:
    """The tree of variables, of ShapeDtypeStructs."""
    vector = jnp.zeros((1, config.embedding))
    init = lambda: TextProjection(config).init(jax.random.key(0), vector, vector, vector[None])
    return shapes_of(init)


def read_text_projection(folder: str | Path) -> tuple[TextProjectionConfig, dict[str, Any]]:
    """Widths, and variables {"params": ...} as float32 numpy arrays, of a folder with config.json and weights.

    Raises ``UserError`` where a file is missing or damaged, or the arrays are not those of the network.
    """
    values, tensors = read_folder(folder)
    config = text_projection_config(values, origin=str(Path(folder) / CONFIG))
    return config, from_published(tensors, text_projection_shapes(config), rules=RULES)[0]


def write_text_projection(folder: str | Path, config: TextProjectionConfig, variables: Mapping[str, Any]) -> None:
    """Write a folder that diffusers reads. Raises ``UserError`` where there is something at ``folder``."""
    values = {
        "_class_name": CLASS,
        "clip_extra_context_tokens": config.tokens,
        "clip_embeddings_dim": config.embedding,
        "time_embed_dim": config.time_width,
        "cross_attention_dim": config.context,
    }
    write_folder(folder, {CONFIG: values}, to_published({"params": variables["params"]}, rules=RULES))
