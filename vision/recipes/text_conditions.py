"""What a frozen CLIP says of images and texts, as the conditions of a generator (Ramesh et al. 2022, section 2.1).

A text is "text", its tokens after the last block of the text tower, and "text_embedding"; an image is "embedding", its
embedding. Embeddings are scaled so that their numbers have a mean square of 1, since their length says nothing. What is
not there is zero: a text without its end token, an embedding of zeros.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vision.diffusion.conditions import TEXT, Conditioning, Probabilities
from vision.errors import UserError
from vision.models.unet import UNetConfig
from vision.ops.pixels import to_float
from vision.ops.spherical import normalised
from vision.recipes.clip_encoder import SHAPES, ClipEncoder
from vision.types import Batch, Condition

Conditions = Literal["text", "embedding", "both"]
"""The text, the embedding of the image, or both."""
EMBEDDING = "embedding"
REFERENCE = "image"
"""Of what a sampler is asked for: images uint8 whose embeddings are the condition, in place of "embedding"."""
DESCRIBED = "described"
"""The same: tokens of texts whose embeddings stand for those of images."""


@dataclass(frozen=True)
class ClipPartConfig:
    """Which CLIP embeds texts and images."""

    weights: Path | None = None
    """The folder of a run of ``experiments.clip_shapes``, or of a published CLIPModel with its tokenizer."""


def of_other_images(config: ClipPartConfig, data: str) -> tuple[str, ...]:
    """A notice where the CLIP of the shapes world is to read other images."""
    if config.weights != SHAPES or data == "shapes":
        return ()
    return (
        f"the CLIP is that of the shapes world, and the images are of {data}: train one on them with "
        "experiments.clip_shapes and name its run with --clip.weights",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipConditions:
    """The conditions of a network by a CLIP."""

    clip: ClipEncoder
    kind: Conditions
    embedding_tokens: int = 4
    """Tokens that the embedding of an image is projected to."""
    attended: bool = True
    """Whether the network attends to tokens; one without attention is given embeddings alone."""

    @property
    def has_text(self) -> bool:
        """Whether the network is conditioned on texts."""
        return self.kind != "embedding"

    @property
    def has_embedding(self) -> bool:
        """Whether the network is conditioned on embeddings of images."""
        return self.kind != "text"

    def network(self, config: UNetConfig) -> UNetConfig:
        """The network with these conditions. Raises ``UserError`` where it has some already."""
        fields = ("classes", "embedding", "embedding_tokens", "vocabulary", "tokens", "text", "text_length")
        for name in (*fields, "text_embedding"):
            if getattr(config, name):
                raise UserError(f"model.{name} follows from conditions and from the CLIP: leave it 0")
        text = self.clip.config.text
        found: dict[str, int] = {}
        if self.has_text:
            found["text_embedding"] = self.clip.embedding
        if self.has_text and self.attended:
            found |= {"text": text.width, "text_length": text.length}
        if self.has_embedding:
            found |= {"embedding": self.clip.embedding, "embedding_tokens": self.embedding_tokens * self.attended}
        return replace(config, **found)

    def conditioning(self, always: Mapping[str, float] | None = None) -> Conditioning:
        """Names and nulls, with those of further conditions that every sample has."""
        texts = TEXT if self.attended else TEXT[1:]
        names = (*(texts if self.has_text else ()), *((EMBEDDING,) if self.has_embedding else ()))
        return Conditioning({**dict.fromkeys(names, 0.0), **(always or {})}, frozenset(always or ()))

    def dropout(self, *, condition: float, text: float) -> Probabilities:
        """Of the groups: ``condition`` of the only one, or of the embedding, and then ``text`` of the text."""
        if self.kind == "text":
            return {TEXT: condition}
        return {(EMBEDDING,): condition, **({TEXT: text} if self.has_text else {})}

    def of_tokens(self, variables: Any, tokens: Int[Array, "b n"]) -> dict[str, Array]:
        """Of texts: "text" float32 [b n d] and "text_embedding" [b e]; zeros where a row has no end token."""
        said = self.clip.encode_text(variables, tokens)
        known = jnp.any(tokens == self.clip.config.text.end, axis=1)
        whole = jnp.where(known[:, None], unit_scale(said["embedding"]), 0.0)
        tokens = jnp.where(known[:, None, None], said["tokens"].astype(jnp.float32), 0.0)
        return {TEXT[0]: tokens, TEXT[1]: whole} if self.attended else {TEXT[1]: whole}

    def of_batch(self, variables: Any, batch: Batch) -> Batch:
        """A training batch, of "image" float32 in [-1, 1] and "tokens", with the conditions."""
        found = self.of_tokens(variables, batch["tokens"]) if self.has_text else {}
        if self.has_embedding:
            found[EMBEDDING] = unit_scale(self.clip.encode_image(variables, batch["image"]))
        return {**batch, **found}

    def of_request(self, variables: Any, request: Condition) -> dict[str, Array]:
        """The conditions of samples.

        Args:
          variables: of the CLIP.
          request: "tokens" int32 [n length] for texts; for images one of "embedding" [n e] of any length, "image" uint8
            [n h w c], and "described" int32 [n length], tokens of texts whose embeddings are taken in place of theirs.
        """
        found = self.of_tokens(variables, request["tokens"]) if self.has_text else {}
        if self.has_embedding:
            if EMBEDDING in request:
                made = request[EMBEDDING]
            elif REFERENCE in request:
                made = self.clip.encode_image(variables, to_float(request[REFERENCE]))
            else:
                made = self.clip.encode_text(variables, request[DESCRIBED])["embedding"]
            found[EMBEDDING] = unit_scale(made)
        return found

    def no_text(self, count: int) -> Int[np.ndarray, "n length"]:
        """Tokens that stand for no text: they never end."""
        tokenizer = self.clip.tokenizer
        return np.full((count, tokenizer.length), tokenizer.start, np.int32)


def attends(config: UNetConfig) -> bool:
    """Whether a network has attention, at some resolution or at its narrowest point."""
    return bool(config.attention) or config.mid_attention != "none"


def unit_scale(embedding: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
    """Embeddings whose numbers have a mean square of 1; zeros stay zeros."""
    return normalised(embedding) * embedding.shape[-1] ** 0.5
