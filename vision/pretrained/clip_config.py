"""config.json of transformers' CLIPModel: what it says of the network, and what is written for this network.

Published files have dozens of entries that belong to text generation. Those that change the network are read and
checked; all others are left alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vision.errors import UserError, on_one_line
from vision.models.clip.clip import AnyClipConfig, TransformerClipConfig
from vision.models.clip.text import EPSILON, Activation, TextConfig
from vision.models.clip.vit import ImageTransformerConfig
from vision.pretrained.diffusers_config import Entries
from vision.ranges import check_ranges

_OLD_END = 2
"""Of files before transformers 4.31, with which the text's largest token ended it."""


@dataclass(frozen=True)
class PublishedSize:
    """What network published weights are of."""

    config: AnyClipConfig
    resolution: int
    """Side of its images."""


def clip_config(values: Mapping[str, Any], *, origin: str) -> PublishedSize:
    """The network that the entries of a config.json describe.

    Raises:
      UserError: an entry has a value that a `Clip` cannot follow, or the file is of another network.
    """
    if values.get("model_type") != "clip":
        said = values.get("model_type", values.get("_class_name"))
        raise UserError(f"{origin} is of {on_one_line(repr(said), 60)}, and a CLIPModel is expected here")
    entries = Entries(values, origin)
    names = ("text_config", "vision_config")
    text, image = (Entries(_table(values, name, origin), f"{name} of {origin}") for name in names)
    of_text, activation = clip_text_config(text)
    image.only("hidden_act", (activation,), default="quick_gelu")
    _check_tower(image, width := image.count("hidden_size", 768), 3072)
    config = TransformerClipConfig(
        text=of_text,
        image=ImageTransformerConfig(
            patch=image.count("patch_size", 32),
            width=width,
            depth=image.count("num_hidden_layers", 12),
            heads=image.count("num_attention_heads", 12),
        ),
        embedding=entries.count("projection_dim", 512),
        activation=activation,
        channels=image.count("num_channels", 3),
    )
    try:
        check_ranges(config)
    except UserError as error:
        raise UserError(f"{origin} describes a network that is not supported: {error}") from error
    side = image.count("image_size", 224)
    if side % config.image.patch:
        raise UserError(f"{origin} has images of {side} pixels, which patches of {config.image.patch} do not divide")
    if width % config.image.heads:
        raise UserError(f"{origin} has a hidden_size that is no multiple of its num_attention_heads: correct it")
    return PublishedSize(config, side)


def clip_text_config(text: Entries) -> tuple[TextConfig, Activation]:
    """The text tower that entries describe, and its activation. Raises ``UserError`` as :func:`clip_config`."""
    activation = text.only("hidden_act", ("quick_gelu", "gelu"), default="quick_gelu")
    width = text.count("hidden_size", 512)
    _check_tower(text, width, 2048)
    vocabulary = text.count("vocab_size", 49_408)
    end = text.count("eos_token_id", 49_407, least=0)
    config = TextConfig(
        vocabulary=vocabulary,
        length=text.count("max_position_embeddings", 77),
        end=vocabulary - 1 if end == _OLD_END else end,
        width=width,
        depth=text.count("num_hidden_layers", 12),
        heads=text.count("num_attention_heads", 8),
    )
    if config.end >= vocabulary:
        raise text.refuse("eos_token_id", f"which is none of {vocabulary:,} tokens: correct it")
    if width % config.heads:
        raise UserError(f"{text.origin} has a hidden_size that is no multiple of its num_attention_heads: correct it")
    return config, "gelu" if activation == "gelu" else "quick_gelu"


def clip_text_values(config: TextConfig, *, activation: Activation, embedding: int) -> dict[str, Any]:
    """The entries of a text tower. Raises ``UserError`` where transformers has no such tower."""
    if config.end == _OLD_END:
        raise UserError(f"transformers takes the end token {_OLD_END} for that of an old file: choose another")
    return {
        "model_type": "clip_text_model",
        "hidden_act": activation,
        "layer_norm_eps": EPSILON,
        # without a projection the number stands for nothing
        "projection_dim": embedding or config.width,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.length,
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "eos_token_id": config.end,
    }


def clip_values(config: AnyClipConfig, *, resolution: int) -> dict[str, Any]:
    """config.json of a network. Raises ``UserError`` where CLIPModel has no such network."""
    if not isinstance(config, TransformerClipConfig):
        raise UserError("transformers' CLIPModel has no ResNets: export to a file in .safetensors")
    if config.logits != "softmax":
        raise UserError("transformers' CLIPModel has no bias of logits: export to a file in .safetensors")
    shared = {"hidden_act": config.activation, "layer_norm_eps": EPSILON, "projection_dim": config.embedding}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embedding,
        "logit_scale_init_value": 2.6592,
        "text_config": clip_text_values(config.text, activation=config.activation, embedding=config.embedding),
        "vision_config": {
            "model_type": "clip_vision_model",
            **shared,
            "image_size": resolution,
            "patch_size": config.image.patch,
            "num_channels": config.channels,
            "hidden_size": config.image.width,
            "intermediate_size": 4 * config.image.width,
            "num_hidden_layers": config.image.depth,
            "num_attention_heads": config.image.heads,
        },
    }


def _table(values: Mapping[str, Any], name: str, origin: str) -> Mapping[str, Any]:
    # older files have null here, and the table under another name, which says the same
    found = values.get(name) or values.get(f"{name}_dict") or {}
    if not isinstance(found, Mapping):
        raise UserError(f"{origin} has a {name} that is no table of entries: fetch it again")
    return found


def _check_tower(tower: Entries, width: int, default: int) -> None:
    """What both towers have in common; ``default`` is the published width of the dense network."""
    if tower.number("layer_norm_eps", EPSILON, above=0) != EPSILON:
        raise tower.refuse("layer_norm_eps", f"and only {EPSILON:g} is supported here: use a network of that kind")
    if tower.count("intermediate_size", default) != 4 * width:
        raise tower.refuse("intermediate_size", f"and only 4 times {width} is supported here")
