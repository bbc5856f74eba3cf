"""Fields of annotation files, each of a known type: what is not understood is refused by file and entry."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.errors import UserError

LARGEST = 2**53
"""Integers within this bound are exact as floats too, which some tools write."""
MAX_BYTES = 2**26
"""Of a file with the annotation of one image, or with the names of classes."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def shown(value: Any) -> str:
    """A value as Python writes it, abbreviated where it is long or deep."""
    return _SHORT.repr(value)


def file_bytes(path: Path, what: str) -> bytes:
    """The content of a small file.

    Args:
        path: of the file.
        what: how messages call it: "The annotation".

    Raises:
        UserError: it cannot be read, or has more than `MAX_BYTES`.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{what} {path} has more than {MAX_BYTES >> 20} MiB, which is not what it should be.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or error}.") from error


def text_lines(path: Path, what: str) -> list[str]:
    """The lines of a text in UTF-8, without their ends.

    Only line feeds and carriage returns end a line: Python's ``splitlines`` would cut at U+2028 and others too, and so
    number what follows anew.

    Raises:
        UserError: as for `file_bytes`, or it is not UTF-8.
    """
    content = file_bytes(path, what)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} cannot be read as text in UTF-8: {error}.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


@dataclass(frozen=True)
class Entry:
    """One object of a list in a JSON file, with its place for messages."""

    fields: Mapping[str, Any]
    """As read."""
    kind: str
    """The list: "images"."""
    place: int
    """The index in it."""
    path: Path
    """The file."""

    def refused(self, text: str) -> UserError:
        """The error that this entry has ``text``."""
        return UserError(f"{self.kind}[{self.place}] of {self.path} has {text}.")

    def value(self, key: str) -> Any:
        """A field that must be there."""
        if key not in self.fields:
            raise self.refused(f"no {key!r}, only {', '.join(map(shown, self.fields)) or 'nothing'}")
        return self.fields[key]

    def integer(self, key: str) -> int:
        """An integer, or a float that is whole."""
        value = self.value(key)
        if not is_number(value) or not -LARGEST <= value <= LARGEST or value != int(value):
            raise self.refused(f"{key!r} {shown(value)}, which is not an integer")
        return int(value)

    def text(self, key: str) -> str:
        """Text."""
        value = self.value(key)
        if not isinstance(value, str):
            raise self.refused(f"a {key} that is not text: {shown(value)}")
        return value

    def flag(self, key: str) -> bool:
        """0 or 1, false or true; a field that is missing or null is false."""
        value = self.fields.get(key)
        if value is None:
            return False
        if not isinstance(value, int | float) or value not in (0, 1):
            raise self.refused(f"{key!r} {shown(value)}, which is neither 0 nor 1")
        return bool(value)

    def side(self, key: str) -> int | None:
        """A number of pixels; None where it is missing, null, 0 or -1."""
        if self.fields.get(key) is None:
            return None
        value = self.integer(key)
        if value in (0, -1):
            return None
        if not 1 <= value < 2**31:
            raise self.refused(f"a {key} of {value}, which is not a size")
        return value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def real(value: Any) -> float | None:
    """A JSON number as a float, which may be infinite or nan; None for anything else, and for integers beyond it."""
    if not is_number(value):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def finite(value: Any) -> float | None:
    """A JSON number as a finite float, or None."""
    number = real(value)
    return number if number is not None and math.isfinite(number) else None
