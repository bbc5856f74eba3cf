"""Published text encoders of pipelines: folders of transformers' CLIPTextModel and CLIPTextModelWithProjection.

    published = read_clip_text("stable-diffusion-v1-5/text_encoder")
    made = published.module.apply(published.variables, tokens, train=False)["tokens"]

Names and settings are those of the text tower of a CLIPModel (``vision/pretrained/clip.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vision.errors import UserError, on_one_line
from vision.models.clip.clip import VIT_B32
from vision.models.clip.text import Activation, TextConfig, TextTransformer
from vision.platform import shapes_of
from vision.pretrained.clip import IGNORED, clip_rules, of_transformers, to_transformers
from vision.pretrained.clip_config import clip_text_config, clip_text_values
from vision.pretrained.diffusers_config import Entries
from vision.pretrained.diffusers_folder import CONFIG, check_count, read_config, read_folder, write_folder
from vision.pretrained.rules import Rule, from_published, to_published
from vision.ranges import check_ranges

CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")
_PREFIX, _TOWER = "text_model.", "params/text/"

RULES: tuple[Rule, ...] = tuple(
    Rule(rule.published, rule.ours.replace(_TOWER, "params/"), rule.layout)
    for rule in clip_rules(VIT_B32)
    if rule.ours.startswith(_TOWER)
)
"""OpenAI's names of the text tower, which are also those of transformers after ``of_transformers``."""


@dataclass(frozen=True, kw_only=True)
class PublishedText:
    """A text encoder, or the description of one."""

    config: TextConfig
    embedding: int
    """Channels of the projection of a text; 0 for a tower without one."""
    activation: Activation
    variables: Any = None
    """{"params": ...} of numpy arrays, float32; None where only config.json was read."""

    @property
    def module(self) -> TextTransformer:
        """Tokens int32 [b n] -> "tokens" [b n d] and "embedding"."""
        return TextTransformer(self.config, self.embedding, self.activation)

    @property
    def shapes(self) -> Any:
        """The tree of variables, of ShapeDtypeStructs."""
        tokens = jax.ShapeDtypeStruct((1, self.config.length), jnp.int32)
        return shapes_of(lambda x: self.module.init({"params": jax.random.key(0)}, x, train=False), tokens)


def describe_clip_text(folder: str | Path) -> PublishedText:
    """What config.json of a folder says; reads no weights. Raises ``UserError`` for another or an unknown network."""
    return _described(read_config(folder), origin=str(Path(folder) / CONFIG))


def read_clip_text(folder: str | Path) -> PublishedText:
    """A published text encoder, from its folder with config.json and the weights.

    Raises ``UserError`` where a file is missing or damaged, the network is another, or weights and configuration do not
    fit each other.
    """
    values, tensors = read_folder(folder)
    found = _described(values, origin=str(Path(folder) / CONFIG))
    # transformers 5 leaves the prefix out of the names of a model, and writes it
    prefixed = lambda name: name if name.startswith((_PREFIX, "text_projection")) else f"{_PREFIX}{name}"
    tensors = {prefixed(name): array for name, array in tensors.items()}
    pattern = r"text_model\.encoder\.layers\.\d+\.layer_norm1\.weight"
    check_count(tensors, pattern, expected=found.config.depth, blocks="transformer blocks", folder=Path(folder))
    variables, _ = from_published(of_transformers(tensors), found.shapes, rules=RULES, ignored=IGNORED)
    return PublishedText(
        config=found.config, embedding=found.embedding, activation=found.activation, variables=variables
    )


def write_clip_text(folder: str | Path, text: PublishedText) -> None:
    """Write a folder that transformers reads. Raises ``UserError`` where there is something at ``folder``."""
    values = clip_text_values(text.config, activation=text.activation, embedding=text.embedding)
    kind = CLASSES[text.embedding > 0]
    tensors = to_transformers(to_published(text.variables, rules=RULES))
    write_folder(folder, {CONFIG: {"architectures": [kind], **values}}, tensors)


def _described(values: Mapping[str, Any], *, origin: str) -> PublishedText:
    named = values.get("architectures")
    kind = named[0] if isinstance(named, list) and named else None
    if values.get("model_type") != "clip_text_model" or kind not in CLASSES:
        said = on_one_line(repr(kind if kind is not None else values.get("_class_name")), 60)
        raise UserError(f"{origin} is of {said}, and a {' or '.join(CLASSES)} is expected here")
    entries = Entries(values, origin)
    config, activation = clip_text_config(entries)
    projected = kind == CLASSES[1]
    embedding = entries.count("projection_dim", 512) if projected else 0
    try:
        check_ranges(config)
    except UserError as error:
        raise UserError(f"{origin} describes a network that is not supported: {error}") from error
    return PublishedText(config=config, embedding=embedding, activation=activation)
