"""The configuration of a network, from the config.json of the run that trained it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from vision.errors import UserError, on_one_line
from vision.ranges import check_ranges

Config = TypeVar("Config")


def stored_config(default: Config, said: Mapping[str, Any], *, origin: str, prefix: str = "model.") -> Config:
    """``default`` with the values that a file says, each of the type of its default.

    Args:
      default: a frozen dataclass, perhaps of others.
      said: entries of JSON; fields that are missing keep their defaults.
      origin: the file, for messages.
      prefix: of the names of fields there.

    Raises:
      UserError: an entry is of no field, or has a value of another type or out of its range.
    """
    config = _of(default, said, origin, prefix)
    try:
        check_ranges(config)
    except UserError as error:
        raise UserError(f"{origin} is of no possible network ({error}): restore the file") from error
    return config


def _of(default: Any, said: Mapping[str, Any], origin: str, prefix: str) -> Any:
    fields = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    values: dict[str, Any] = {}
    for name, value in said.items():
        if name not in fields:
            raise UserError(f"{origin} has {on_one_line(prefix + str(name), 60)}, which is not known here")
        before = fields[name]
        if dataclasses.is_dataclass(before):
            fits = isinstance(value, Mapping)
            values[name] = _of(before, value, origin, f"{prefix}{name}.") if fits else None
        elif isinstance(before, tuple):
            kinds = {type(each) for each in before} or {int, float, str}
            fits = isinstance(value, list) and all(type(each) in kinds for each in value)
            values[name] = tuple(value) if fits else None
        elif isinstance(before, float):
            fits = type(value) in (int, float)
            values[name] = float(value) if fits else None
        else:
            fits = type(value) is type(before)
            values[name] = value
        if not fits:
            raise UserError(f"{origin} has {on_one_line(repr(value), 60)} for {prefix}{name}: restore the file")
    return dataclasses.replace(default, **values)
