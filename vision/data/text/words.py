"""A tokenizer of words for texts of a small closed vocabulary, such as the captions of the shapes world."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from vision.errors import UserError

PADDING, UNKNOWN = 0, 1
"""The first two tokens: what fills a sequence up to its length, and what any word outside the vocabulary becomes."""

_FIRST_WORD = 2
_UNKNOWN_WORD = "?"


def split_words(text: str) -> list[str]:
    """The words and punctuation marks of a text in lower case: "A star, red" is a, star, a comma, red."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


@dataclass(frozen=True)
class WordTokenizer:
    """Words to integers and back: 0 is padding, 1 a word that is not in ``words``, and i + 2 is ``words[i]``.

    The padding token is the null of a condition on tokens: a text of no words is no condition.
    """

    words: tuple[str, ...]
    """The vocabulary: words or punctuation marks in lower case, no two alike."""
    length: int
    """Tokens of each text, padding included."""

    def __post_init__(self):
        if self.length < 1:
            raise UserError(f"the length of a text in tokens is at least 1, not {self.length}")
        if len(set(self.words)) < len(self.words):
            raise UserError(f"a word is twice in the vocabulary: {', '.join(self.words)}")
        for word in self.words:
            if split_words(word) != [word]:
                raise UserError(f"{word!r} in the vocabulary is not one word in lower case")

    @property
    def vocabulary(self) -> int:
        """Number of tokens, padding and unknown included."""
        return len(self.words) + _FIRST_WORD

    def encode(self, texts: Iterable[str]) -> Int[np.ndarray, "n length"]:
        """Tokens int32 in [0, vocabulary), padded at the end. ``UserError`` where a text is longer than ``length``."""
        number = {word: index + _FIRST_WORD for index, word in enumerate(self.words)}
        texts = list(texts)
        tokens = np.full((len(texts), self.length), PADDING, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            words = split_words(text)
            if len(words) > self.length:
                raise UserError(f"the text {text!r} has {len(words)} words, and at most {self.length} are allowed")
            row[: len(words)] = [number.get(word, UNKNOWN) for word in words]
        return tokens

    def decode(self, tokens: Int[np.ndarray, "n length"]) -> list[str]:
        """Texts in lower case without padding, with a question mark for each unknown word.

        Raises ``ValueError`` for tokens outside [0, vocabulary).
        """
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.vocabulary:
            raise ValueError(f"tokens are in [0, {self.vocabulary}), and not from {tokens.min()} to {tokens.max()}")
        names = ("", _UNKNOWN_WORD, *self.words)
        return [_joined([names[token] for token in row if token != PADDING]) for row in tokens]


def _joined(words: Sequence[str]) -> str:
    """Words with spaces between them, and none before a comma, a full stop, a colon or a semicolon."""
    return re.sub(r" ([,.:;])", r"\1", " ".join(words))
