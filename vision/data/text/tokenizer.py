"""Texts to tokens and back, by the library tokenizers, whose JSON says all of what a tokenizer does.

    tokenizer = read_clip_tokenizer("clip-vit-base-patch32")     # vision/data/text/clip.py
    tokenizer = trained_tokenizer(texts, kind="bytes", vocabulary=1_000, length=32)
    tokens = tokenizer.encode(["a red star"])                    # int32 [1 32]: start, tokens, end, padding

A text that is too long loses its last tokens and keeps its end token. Case is not kept, white space is one space.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tokenizers
from jaxtyping import Int

from vision.errors import UserError, on_one_line

# texts of a batch are too few to be worth the library's threads, which workers that are forked later cannot have
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MAX_BYTES = 2**26
"""Of a tokenizer's JSON; that of CLIP has 4 MB."""


@dataclass(frozen=True)
class Coverage:
    """How many texts a tokenizer can hold."""

    texts: int
    """Examined."""
    cut: int
    """Texts that are too long and lose their last tokens."""
    unknown: int
    """Texts with a word that is not in the vocabulary."""


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that puts a start and an end token around a text and pads it to one length.

    Raises ``UserError`` for a definition that is damaged or does something else.
    """

    definition: str
    """The library's JSON, with truncation and padding to one length."""

    def __post_init__(self):
        library = self._library
        truncation, padding = library.truncation, library.padding
        if truncation is None or padding is None or padding["length"] != truncation["max_length"]:
            raise UserError("the tokenizer does not cut and pad texts to one length: write it again with this project")
        empty = library.encode("").ids[: self.length]
        if len(empty) != self.length or self.length < 3 or empty[0] == empty[1]:
            raise UserError("the tokenizer does not put a start and an end token around texts: choose another")

    @cached_property
    def _library(self) -> Any:
        if len(self.definition) > MAX_BYTES:
            raise UserError(f"the tokenizer has more than {MAX_BYTES >> 20} MiB, which is not what it should be")
        try:
            return tokenizers.Tokenizer.from_str(self.definition)
        # the library raises bare Exceptions
        except Exception as error:
            raise UserError(f"the tokenizer is damaged ({on_one_line(' '.join(str(error).split()))})") from error

    @cached_property
    def length(self) -> int:
        """Tokens of each text, padding included."""
        return int(self._library.truncation["max_length"])

    @cached_property
    def vocabulary(self) -> int:
        """Tokens are in [0, vocabulary)."""
        return max(self._library.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def start(self) -> int:
        """The first token of every text."""
        return int(self._library.encode("").ids[0])

    @cached_property
    def end(self) -> int:
        """The token after a text."""
        return int(self._library.encode("").ids[1])

    @cached_property
    def padding(self) -> int:
        """What fills a sequence up to its length; CLIP's is the end token."""
        return int(self._library.padding["pad_id"])

    @cached_property
    def unknown(self) -> int | None:
        """The token of a word that is not in the vocabulary; None where every text can be written in tokens."""
        name = getattr(self._library.model, "unk_token", None)
        number = self._library.token_to_id(name) if name is not None else None
        return number if number != self.end else None  # CLIP's files name the end token, which no text needs

    def encode(self, texts: Iterable[str]) -> Int[np.ndarray, "n length"]:
        """Tokens int32 in [0, vocabulary): start, the text, end, padding; the text is cut where it is too long."""
        found = self._library.encode_batch(list(texts))
        ids = [each.ids for each in found]
        return np.array(ids, np.int32).reshape(len(ids), self.length)

    def decode(self, tokens: Int[np.ndarray, "n length"]) -> list[str]:
        """Texts in lower case up to their end token, without start and padding.

        Raises ``ValueError`` for tokens outside [0, vocabulary).
        """
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.vocabulary:
            raise ValueError(f"tokens are in [0, {self.vocabulary}), and not from {tokens.min()} to {tokens.max()}")
        rows = []
        for row in np.asarray(tokens).tolist():
            row = row[: row.index(self.end)] if self.end in row else row
            rows.append([token for token in row if token not in (self.start, self.padding)])
        return [text.strip() for text in self._library.decode_batch(rows, skip_special_tokens=False)]

    def coverage(self, texts: Sequence[str]) -> Coverage:
        """How many of ``texts`` are cut, and how many have an unknown word."""
        found = self._library.encode_batch(list(texts))
        unknown = 0 if self.unknown is None else sum(self.unknown in each.ids for each in found)
        return Coverage(texts=len(found), cut=sum(bool(each.overflowing) for each in found), unknown=unknown)


def with_length(library: Any, length: int, *, padding: str) -> Tokenizer:
    """A tokenizer of the library that cuts and pads texts to ``length`` tokens.

    Raises ``UserError`` for a length without room for a token of a text, or padding that is no token.
    """
    if length < 3:
        raise UserError(f"a text has at least 3 tokens, start and end among them, not {length}")
    number = library.token_to_id(padding)
    if number is None:
        raise UserError(f"the padding {on_one_line(padding, 60)!r} is no token of the vocabulary")
    library.enable_truncation(max_length=length)
    library.enable_padding(length=length, pad_id=number, pad_token=padding)
    return Tokenizer(library.to_str())
