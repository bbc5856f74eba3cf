"""The entries of a config.json of diffusers, each with its type, every one of them accounted for.

    entries = Entries.of(config, origin="unet/config.json", networks=("UNet2DModel",))
    entries.only("act_fn", ("silu",), default="silu")
    config = UNetConfig(blocks=entries.count("layers_per_block", 2))
    entries.finish(config)

An entry that is absent has the library's default. One that nothing asked for is an error, since it may change the
network; so is one whose value the network here cannot have.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vision.errors import UserError, on_one_line
from vision.ranges import check_ranges
from vision.written_option import written_option

_MOST = 65_536
"""Largest whole number: a network's channels."""
_LARGEST = 1e9
Plain = TypeVar("Plain", bound=str | bool | int | float | None)


@dataclass
class Entries:
    """The entries of one file; each is to be asked for once."""

    values: Mapping[str, Any]
    origin: str
    """The file, for messages."""
    asked: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, values: Mapping[str, Any], *, origin: str, networks: Sequence[str]) -> "Entries":
        """The entries of a network of one of the kinds ``networks``; raises ``UserError`` for another."""
        entries = cls(values, origin)
        kind = values.get("_class_name")
        if kind not in networks:
            stated = f"is of {_text(kind)}" if "_class_name" in values else 'has no "_class_name"'
            raise UserError(f"{origin} {stated}, and the weights of a {' or '.join(networks)} are expected here")
        return entries

    def refuse(self, name: str, why: str) -> UserError:
        """An error about an entry: its value, and ``why`` it cannot be used, "is not ...: what to do"."""
        return UserError(f"{self.origin} has {name} {_text(self.values.get(name))}, {why}")

    def count(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number in [least, 65,536]; without a default it must be there."""
        value = self._value(name, default)
        if not _is_count(value, least):
            raise self.refuse(name, f"which is no whole number from {least} to {_MOST:,}: correct it")
        return value

    def maybe_count(self, name: str, default: int | None = None) -> int | None:
        """A whole number in [1, 65,536], or null."""
        return None if self._value(name, default) is None else self.count(name, default)

    def counts(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A list of at most 64 whole numbers in [1, 65,536]."""
        value = self._value(name, default)
        if not isinstance(value, Sequence) or not 1 <= len(value) <= 64 or not all(_is_count(v, 1) for v in value):
            raise self.refuse(name, f"which is no list of 1 to 64 whole numbers from 1 to {_MOST:,}: correct it")
        return tuple(value)

    def words(self, name: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        """A list of at most 64 words."""
        value = self._value(name, default)
        if isinstance(value, str) or not isinstance(value, Sequence) or not 1 <= len(value) <= 64:
            raise self.refuse(name, "which is no list of 1 to 64 words: correct it")
        if not all(isinstance(word, str) for word in value):
            raise self.refuse(name, "which is no list of words: correct it")
        return tuple(value)

    def number(self, name: str, default: float, *, above: float = -1e9) -> float:
        """A number between ``above`` and 1e9."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < _LARGEST:
            raise self.refuse(name, f"which is no number between {above:g} and {_LARGEST:g}: correct it")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """A truth value."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, "which is neither true nor false: correct it")
        return value

    def only(self, name: str, possible: Sequence[Plain], *, default: Plain) -> Plain:
        """One of the values that the network here can have."""
        value = self._value(name, default)
        # 1 equals true in Python
        for each in possible:
            if value == each and isinstance(value, bool) == isinstance(each, bool):
                return each
        words = " or ".join(_text(each) for each in possible)
        raise self.refuse(name, f"and only {words} is supported here: use a network of that kind")

    def ignore(self, names: Iterable[str]) -> None:
        """Entries that change nothing."""
        self.asked.update(names)

    def finish(self, config: Any) -> None:
        """Raise ``UserError`` if nothing asked for an entry, or a field of ``config``, made of them, is out of range.

        Entries that begin with "_" are notes.
        """
        unknown = [str(name) for name in self.values if name not in self.asked and not str(name).startswith("_")]
        if unknown:
            raise UserError(
                f"{self.origin} has the entry {on_one_line(unknown[0], 80)!r}, which is not known here and may change "
                "the network: remove it if it does not"
            )
        try:
            check_ranges(config)
        except UserError as error:
            raise UserError(f"{self.origin} describes a network that is not supported: {error}") from error

    def _value(self, name: str, default: Any) -> Any:
        self.asked.add(name)
        if name not in self.values and default is None and name in _NEEDED:
            raise UserError(f"{self.origin} has no entry {name!r}: add it, as published")
        return self.values.get(name, default)


_NEEDED = ("block_out_channels", "down_block_types", "up_block_types", "sample_size", "patch_size", "in_channels")


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MOST


def _text(value: Any) -> str:
    """A value of JSON in a message."""
    words = {None: "null", True: "true", False: "false"}
    plain = isinstance(value, bool) or value is None
    return words[value] if plain else on_one_line(str(value) if not isinstance(value, str) else repr(value), 80)


def options(ours: Any, wanted: Any, *, ignored: Sequence[str] = (), prefix: str = "model.") -> str:
    """The options that change a network's configuration to ``wanted``, "--model.width 64"; "" where they are equal.

    Args:
      ours: a dataclass, perhaps of others.
      wanted: another of the same type.
      ignored: fields that may differ.
      prefix: of the names of fields.
    """
    words: list[str] = []
    for name in (each.name for each in dataclasses.fields(wanted) if each.name not in ignored):
        own, value = getattr(ours, name), getattr(wanted, name)
        if dataclasses.is_dataclass(value):
            words += options(own, value, prefix=f"{prefix}{name}.").split()
        elif own != value:
            words += written_option(f"{prefix}{name}", value)
    return " ".join(words)
