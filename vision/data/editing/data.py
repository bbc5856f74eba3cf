"""Edits of the shapes world as training and test data: before, after, the edited place, and a sentence as tokens."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from vision.data.dataset import DataConfig, Split
from vision.data.editing.words import instruction_tokenizer
from vision.data.image_data import Data, HostBatch, process_share
from vision.data.on_demand import OnDemandSource
from vision.data.pipeline import batches, evaluation_batches
from vision.data.shapes.edits import EDIT_KINDS, EditKind, Edits, edits
from vision.data.shapes.instructions import HELD_OUT, contents, instructions
from vision.data.shapes.world import class_names
from vision.data.text.tokenizer import Tokenizer
from vision.errors import UserError
from vision.types import Content

TEST_EDITS = 2_000
Sentences = Literal["instruction", "content"]
"""What "tokens" say: what is asked for, or what the edited place shows afterwards."""
_AT_ONCE = 512


@dataclass(frozen=True)
class EditsConfig(DataConfig):
    """Which edits of the shapes world to use."""

    name: str = "shapes"
    """Only the shapes world has edits with an exact truth."""
    kinds: tuple[EditKind, ...] = EDIT_KINDS
    """Kinds of edits, equally often."""
    held_out: tuple[str, ...] = ()
    """Kinds of figures such as "red star" that no training scene has, before or after its edit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EditsData(Data):
    """Batches have "image" uint8 [h w 3] after the edit, "before" uint8 [h w 3], "region" uint8 [h w 1] and "tokens".

    The phrasing of an instruction is that of (index mod number of phrasings), which training has one less of.
    """

    edits: Callable[[Split, Int[np.ndarray, " n"]], Edits]
    """The edits themselves, with their truth."""
    sentences: Callable[[Split, Int[np.ndarray, " n"]], list[str]]
    """What was made into "tokens"."""
    tokenizer: Tokenizer
    held_out: tuple[str, ...]
    """As in the configuration."""


def edits_data(config: EditsConfig, *, sentences: Sentences) -> EditsData:
    """The data; nothing is rendered before it is asked for.

    Raises ``UserError`` for another data set than the shapes world, or a kind of figure that it has not.
    """
    if config.name != "shapes":
        raise UserError(f"edits are rendered by the shapes world alone, and data.name is {config.name}: leave it out")
    world = replace(config.shapes, resolution=config.resolution)
    for name in config.held_out:
        if name not in class_names(world):
            kind = class_names(world)[0]
            raise UserError(f'data.held_out has {name!r}, which is none of the kinds of figures, such as "{kind}"')
    tokenizer = instruction_tokenizer(world)
    size = {"train": config.shapes_count, "test": TEST_EDITS}

    def made(split: Split, numbers: np.ndarray, *, paint: bool) -> Edits:
        return edits(world, seed=0, indices=numbers, split=split, kinds=config.kinds, paint=paint)

    @functools.cache
    def numbers(split: Split) -> np.ndarray:
        """Of the scenes in use."""
        found = np.arange(size[split])
        if split == "test" or not config.held_out:
            return found
        parts = [found[start : start + _AT_ONCE] for start in range(0, len(found), _AT_ONCE)]
        kept = [part[~made(split, part, paint=False).has(config.held_out)] for part in parts]
        found = np.concatenate(kept)
        if not len(found):
            raise UserError(f"every scene has one of the kinds {', '.join(config.held_out)}: hold out fewer")
        return found

    def texts(split: Split, of: Edits, indices: np.ndarray) -> list[str]:
        if sentences == "content":
            return contents(of)
        count = HELD_OUT if split == "train" else HELD_OUT + 1
        return [all_[index % count] for all_, index in zip(instructions(of), indices.tolist(), strict=True)]

    @functools.cache
    def source(split: Split) -> OnDemandSource:
        def make(indices: np.ndarray) -> dict[str, np.ndarray]:
            of = made(split, numbers(split)[indices], paint=True)
            return {
                "image": of.after["image"],
                "before": of.before["image"],
                "region": of.mask[..., None],
                "tokens": tokenizer.encode(texts(split, of, indices)),
            }

        return OnDemandSource(make, size=len(numbers(split)), fields=("image", "before", "region", "tokens"))

    def train_batches(
        batch_size: int, *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[HostBatch]:
        share: dict[str, Any] = {"process_index": process_index, "process_count": process_count}
        return batches(source("train"), batch_size=batch_size, seed=seed, start_step=start_step, **share)

    def content(split: Split) -> Content:
        words = repr((world, config.kinds, config.held_out, sentences, split, size[split]))
        return Content(count=size[split], sha256=hashlib.sha256(words.encode()).hexdigest())

    side = config.resolution
    without = f", {', '.join(config.held_out)} held out" if config.held_out else ""
    return EditsData(
        sample={
            "image": jax.ShapeDtypeStruct((side, side, 3), jnp.uint8),
            "before": jax.ShapeDtypeStruct((side, side, 3), jnp.uint8),
            "region": jax.ShapeDtypeStruct((side, side, 1), jnp.uint8),
            "tokens": jax.ShapeDtypeStruct((tokenizer.length,), jnp.int32),
        },
        source=source,
        train_batches=train_batches,
        test_batches=lambda size: evaluation_batches(source("test"), batch_size=size, **process_share()),
        description=lambda split: f"edits of the shapes world ({split}{without}), {side}x{side}",
        class_names=tuple,
        content=content,
        edits=lambda split, indices: made(split, numbers(split)[indices], paint=True),
        sentences=lambda split, indices: texts(
            split, made(split, numbers(split)[indices], paint=False), np.asarray(indices)
        ),
        tokenizer=tokenizer,
        held_out=config.held_out,
    )
