"""Images with captions: a source of images, and the texts of each, which stay on the host.

Of several captions of an image one is sampled for each place in the endless stream of training images, by (seed, place)
alone, so that a batch stays a function of the seed and the step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from vision.data.shapes.counter_random import sample_keys, uniform
from vision.data.source import Source
from vision.data.subset import Subset
from vision.errors import UserError

LONGEST = 100_000
"""Characters of a caption; longer ones are no captions."""


@runtime_checkable
class Texts(Protocol):
    """The captions of images by index."""

    def __call__(self, indices: Int[np.ndarray, " b"], /) -> list[tuple[str, ...]]:
        """At least one caption of each image."""
        ...


@dataclass(frozen=True)
class ListedTexts:
    """Captions in memory."""

    texts: Sequence[tuple[str, ...]]

    def __call__(self, indices: Int[np.ndarray, " b"]) -> list[tuple[str, ...]]:
        return [self.texts[index] for index in indices.tolist()]


@dataclass(frozen=True, eq=False)
class Captioned:
    """A finite set of images with captions."""

    images: Source
    """"image" uint8 [h w 3], of any size, and perhaps other fields."""
    texts: Texts
    """The captions of images."""
    facts: "Callable[[], dict[str, Attribute]] | None" = None
    """Reads what is known of the images besides, to evaluate by it; None for nothing."""
    unseen: Callable[[], Bool[np.ndarray, " n"]] | None = None
    """Says which images show a combination that no training image has; None where nothing is held out so."""

    def __len__(self) -> int:
        return len(self.images)

    def only(self, indices: Int[np.ndarray, " n"]) -> "Captioned":
        """Some of the images, in the order of ``indices``."""
        known, unseen = self.facts, self.unseen
        facts = None if known is None else lambda: {name: each.only(indices) for name, each in known().items()}
        new = None if unseen is None else lambda: unseen()[indices]
        part = Subset(self.images, indices, tuple(self.images.class_names))
        return Captioned(part, SomeTexts(self.texts, indices), facts, new)

    def first(self, count: int) -> list[tuple[str, ...]]:
        """The captions of at most ``count`` images from the first one on."""
        return self.texts(np.arange(min(count, len(self))))


@dataclass(frozen=True, eq=False)
class SomeTexts:
    """Some of the captions, in the order of ``indices``."""

    texts: Texts
    indices: Int[np.ndarray, " n"]

    def __call__(self, indices: Int[np.ndarray, " b"]) -> list[tuple[str, ...]]:
        return self.texts(self.indices[indices])


@dataclass(frozen=True, eq=False)
class Attribute:
    """A property of every image, of which each has one value: to tell apart without having been trained to."""

    names: tuple[str, ...]
    """Of the values, as they stand in a sentence."""
    values: Int[np.ndarray, " n"]
    """int32 in [0, len(names)) of each image."""
    templates: tuple[str, ...]
    """Sentences with "{}" for the value, which are right with its name."""

    def only(self, indices: Int[np.ndarray, " m"]) -> "Attribute":
        """Of some of the images."""
        return Attribute(self.names, self.values[indices], self.templates)


def sampled(captions: Sequence[tuple[str, ...]], positions: Int[np.ndarray, " b"], *, seed: int) -> list[str]:
    """One caption of each of the images at these places of the training stream, all equally likely.

    A function of (seed, position) and the number of captions.
    """
    shares = uniform(sample_keys(seed, "train", positions), "caption", 1)[:, 0]
    return [of[int(share * len(of))] for of, share in zip(captions, shares.tolist(), strict=True)]


def checked(text: str, where: str) -> str:
    """A caption on one line, without white space at its ends. ``UserError`` for one that is too long to be one."""
    if len(text) > LONGEST:
        raise UserError(f"{where} has a caption of {len(text):,} characters, more than {LONGEST:,}: shorten it")
    return " ".join(text.split())
