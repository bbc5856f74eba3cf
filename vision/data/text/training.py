"""A small tokenizer trained on the captions of a data set: the same texts give the same tokenizer.

Of bytes: byte-pair encoding (Sennrich et al. 2016) of UTF-8 (Radford et al. 2019), in which no text has an unknown
word. Of words: the most frequent words and punctuation marks; all others are one unknown word. Texts are in lower case,
in the composed form of Unicode, and words are separated by one space.
"""

from collections.abc import Iterable
from typing import Literal

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from vision.data.text.tokenizer import Tokenizer, with_length
from vision.errors import UserError

TokenizerKind = Literal["bytes", "words"]

PADDING, END, START = 0, 1, 2
"""The first tokens of every trained tokenizer. Padding is the null of a condition on tokens."""
UNKNOWN = 3
"""Of words: any other word."""
_NAMES = ("[padding]", "[end]", "[start]")
_UNKNOWN_NAME = "[unknown]"
_BYTES = 256


def trained_tokenizer(texts: Iterable[str], *, kind: TokenizerKind, vocabulary: int, length: int) -> Tokenizer:
    """A tokenizer of at most ``vocabulary`` tokens, for texts of ``length`` tokens.

    Args:
      texts: what it is trained on; their order is of no importance.
      kind: "bytes" or "words", see above.
      vocabulary: largest number of tokens, the three or four special ones included.
      length: tokens of a text, start, end and padding included.

    Raises:
      UserError: the vocabulary has no room for all bytes, or for a word; there are no texts; the length is too small.
    """
    least = len(_NAMES) + _BYTES if kind == "bytes" else len(_NAMES) + 2
    if vocabulary < least:
        raise UserError(f"a vocabulary of {kind} has at least {least} tokens, not {vocabulary}")
    unique = sorted({text for text in texts if text.strip()})
    if not unique:
        raise UserError("there are no texts to train a tokenizer on")
    library = _bytes(unique, vocabulary) if kind == "bytes" else _words(unique, vocabulary)
    end, start = ((name, library.token_to_id(name)) for name in _NAMES[1:])
    library.post_processor = processors.TemplateProcessing(
        single=f"{start[0]} $A {end[0]}", pair=None, special_tokens=[start, end]
    )
    return with_length(library, length, padding=_NAMES[PADDING])


def _bytes(texts: list[str], vocabulary: int) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.BPE())
    library.normalizer = _normaliser()
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_NAMES),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    return library


def _words(texts: list[str], vocabulary: int) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.WordLevel(unk_token=_UNKNOWN_NAME))
    library.normalizer = _normaliser()
    library.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    library.decoder = decoders.WordPiece(prefix="##")  # a space between words, and none before punctuation
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary, special_tokens=[*_NAMES, _UNKNOWN_NAME], show_progress=False
    )
    library.train_from_iterator(texts, trainer)
    return library


def _normaliser() -> normalizers.Normalizer:
    return normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
    )
