"""Parts of another run: of its configuration, the network of a first stage or of a guide, and its variables."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from vision.atomic import write_atomically
from vision.errors import UserError, on_one_line
from vision.pretrained.initial import read_initial_values
from vision.pretrained.rules import named
from vision.pretrained.state_dict import read_state_dict, write_state_dict
from vision.ranges import check_ranges

Stored = TypeVar("Stored")

STORED = "weights.safetensors"
"""The file of the variables of a network that comes with this project, next to its config.json."""


def stored_values(folder: Path, shapes: Any) -> Mapping[str, np.ndarray]:
    """The averages of a run by path, or the variables in the file next to its configuration, float32.

    Args:
      folder: of the run, or with `STORED`.
      shapes: of the variables.

    Raises:
      UserError: as ``vision.pretrained.initial.read_initial_values``.
    """
    if (folder / STORED).exists():
        return {name: np.asarray(array, np.float32) for name, array in read_state_dict(folder / STORED).items()}
    return read_initial_values(folder, shapes)


def write_stored(folder: Path, content: Mapping[str, Any], variables: Any) -> None:
    """Make a folder whose variables `stored_values` reads: its config.json, and the variables in half precision.

    Args:
      folder: to be made, or written again.
      content: of config.json.
      variables: a tree of arrays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_state_dict(folder / STORED, named(jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), variables)))
    write_atomically(folder / "config.json", (json.dumps(content, indent=1) + "\n").encode())


def stored_part(kind: type[Stored], said: Mapping[str, Any], *, name: str, origin: Path) -> Stored:
    """A dataclass of plain fields, or of dataclasses of them, from an object of a config.json.

    Fields that it lacks have their defaults.

    Args:
      kind: the dataclass.
      said: the object, whose names are fields of ``kind``.
      name: of the field of the run's configuration, for messages: "model".
      origin: the file.

    Raises:
      UserError: a value is of another type or out of range, or a name is none of ``kind``.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    values = {}
    for field, value in said.items():
        if field not in hints:
            raise UserError(f"{origin} has {name}.{on_one_line(field, 60)}, which is not known here: restore the file")
        fits, values[field] = _read(hints[field], value)
        if not fits:
            raise UserError(f"{origin} has {on_one_line(repr(value), 60)} for {name}.{field}: restore the file")
    made = kind(**values)
    try:
        check_ranges(made)
    except UserError as error:
        raise UserError(f"{origin} is of no possible network ({error}): restore the file") from error
    return made


def _read_object(kind: Any, value: Any) -> tuple[bool, Any]:
    """The same for a dataclass inside another one."""
    hints = typing.get_type_hints(kind, include_extras=True)
    if not isinstance(value, Mapping) or not set(value) <= set(hints):
        return False, None
    read = {name: _read(hints[name], each) for name, each in value.items()}
    fits = all(fits for fits, _ in read.values())
    return fits, kind(**{name: each for name, (_, each) in read.items()}) if fits else None


def _read(hint: Any, value: Any) -> tuple[bool, Any]:
    """(whether a value of JSON is of the annotated type, the value as that type)."""
    kind, of = typing.get_origin(hint), typing.get_args(hint)
    if kind is typing.Annotated:
        return _read(of[0], value)
    if kind is typing.Literal:
        return value in of, value
    if kind in (typing.Union, types.UnionType):
        found = [read for each in of for fits, read in [_read(each, value)] if fits]
        return bool(found), found[0] if found else None
    if kind is tuple:
        items = [_read(of[0], each) for each in value] if isinstance(value, list) else [(False, None)]
        fits = all(fits for fits, _ in items) and (of[-1] is Ellipsis or len(items) == len(of))
        return fits, tuple(read for _, read in items)
    if hint is type(None):
        return value is None, None
    if hint is float:
        fits = type(value) in (int, float)
        return fits, float(value) if fits else None
    if hint is Path:
        return isinstance(value, str), Path(value) if isinstance(value, str) else None
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _read_object(hint, value)
    return type(value) is hint, value
