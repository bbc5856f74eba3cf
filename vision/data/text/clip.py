"""CLIP's tokenizer from its published files (Radford et al. 2021, section 2.4: byte pairs of lower case, 77 tokens).

A folder has ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``, as transformers and diffusers write it. What is
padded with is said by ``tokenizer_config.json`` or ``special_tokens_map.json``, and is the end token otherwise;
OpenAI's code pads with 0. Neither changes the embedding of a text, which is that of its first end token. Texts that
contain the end token's name end there, as they do in diffusers.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from vision.data.text.tokenizer import MAX_BYTES, Tokenizer, with_length
from vision.errors import UserError, on_one_line
from vision.home import expanded

LENGTH = 77
START_NAME, END_NAME = "<|startoftext|>", "<|endoftext|>"
_WHOLE, _VOCABULARY, _MERGES = "tokenizer.json", "vocab.json", "merges.txt"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
# contractions, runs of letters, single digits, runs of anything else, as in the published code
_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def read_clip_tokenizer(folder: str | Path, *, length: int = LENGTH) -> Tokenizer:
    """The tokenizer in a folder, for texts of ``length`` tokens.

    Raises:
      UserError: there are no such files, one is damaged or too large, or they have no start and end token.
    """
    folder = expanded(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} with the files of a tokenizer")
    if (folder / _WHOLE).is_file():
        library = _of_json(folder / _WHOLE)
    elif (folder / _VOCABULARY).is_file() and (folder / _MERGES).is_file():
        library = _of_vocabulary(folder / _VOCABULARY, folder / _MERGES)
    else:
        raise UserError(f"{folder} has neither {_WHOLE} nor {_VOCABULARY} and {_MERGES}: put a tokenizer's files there")
    if library.token_to_id(END_NAME) is not None:
        # CLIP's own, which also turns the mark of a word's end into a space
        library.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
    own = library.padding["pad_token"] if library.padding is not None else END_NAME
    try:
        return with_length(library, length, padding=_padding(folder, own))
    except UserError as error:
        raise UserError(f"{folder} has no tokenizer that can be used here: {error}") from error


def _of_json(file: Path) -> Any:
    try:
        return tokenizers.Tokenizer.from_str(_text(file))
    # the library raises bare Exceptions
    except UserError:
        raise
    except Exception as error:
        raise _damaged(file, error) from error


def _of_vocabulary(vocabulary: Path, merges: Path) -> Any:
    numbers = _json(vocabulary)
    if not all(type(number) is int and 0 <= number < 2**24 for number in numbers.values()):
        raise UserError(f"{vocabulary} has a token whose number is none from 0 on: fetch it again")
    pairs = []
    for row, line in enumerate(_text(merges).split("\n")):
        if not line.strip() or (row == 0 and line.startswith("#")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise UserError(f"line {row + 1} of {merges} is no pair of tokens: fetch it again")
        pairs.append((pair[0], pair[1]))
    missing = [name for name in (START_NAME, END_NAME) if name not in numbers]
    if missing:
        raise UserError(f"{vocabulary} has no token {missing[0]}: it is of another kind of tokenizer than CLIP's")
    try:
        library = tokenizers.Tokenizer(
            models.BPE(
                vocab=numbers,
                merges=pairs,
                continuing_subword_prefix="",
                end_of_word_suffix="</w>",
                fuse_unk=False,
                unk_token=END_NAME,
            )
        )
    except Exception as error:
        raise _damaged(merges, error) from error
    library.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    library.add_special_tokens([START_NAME, END_NAME])
    ends = [(name, numbers[name]) for name in (START_NAME, END_NAME)]
    library.post_processor = processors.TemplateProcessing(
        single=f"{START_NAME} $A {END_NAME}", pair=None, special_tokens=ends
    )
    return library


def _padding(folder: Path, otherwise: str) -> str:
    """The name of the padding token."""
    for name in _SETTINGS:
        if (folder / name).is_file():
            said = _json(folder / name).get("pad_token")
            said = said.get("content") if isinstance(said, dict) else said
            if isinstance(said, str):
                return said
    return otherwise


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"{file} has more than {MAX_BYTES >> 20} MiB, which is not what it should be")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise _damaged(file, error) from error


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(file))
    # deep nesting is a RecursionError
    except (ValueError, RecursionError) as error:
        raise _damaged(file, error) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no table of entries: fetch it again")
    return content


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} is damaged ({on_one_line(' '.join(str(error).split()))}): fetch it again")
