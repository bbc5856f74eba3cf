"""Modules of PyTorch inside a pickle, without PyTorch and without their classes: the table that ``state_dict()`` has.

A module is pickled as the name of its class and its attributes, among them ``_parameters`` and ``_buffers``, tables of
tensors, and ``_modules``, a table of modules. Nothing else of it is read, and of its class nothing but the name.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from vision.errors import UserError, on_one_line
from vision.pretrained.plain_pickle import Instance, TooLarge

_LONGEST_NAME = 1000
_TABLES = ("_parameters", "_buffers", "_modules")
_CHARACTERS = 16  # of names that count as an opcode, so that deep trees of long names cannot add up


class UnknownClass:
    """Stands for a name that the reader does not know; only a class of modules is none that it refuses."""

    def __init__(self, name: str, path: Path):
        self.name, self._path = name, path
        self.is_module = False

    def __call__(self, *_: Any) -> NoReturn:
        """Calls of unknown names are refused."""
        self.refuse()

    def refuse(self) -> NoReturn:
        """Raise ``UserError`` that names what is unknown."""
        raise UserError(
            f"{self._path} was not read: it uses {on_one_line(self.name, 80)}, which is not part of a state dict. If "
            "you trust the file, save only its tensors with PyTorch, preferably as safetensors"
        )


class PickledModule(dict[str, Any], Instance):
    """A module as the table of its tensors by name."""

    def __init__(self, kind: UnknownClass):
        super().__init__()
        self._kind = kind

    def build(self, attributes: Any) -> int:
        """Fill the table. Raises ``UserError`` for an object that is no module."""
        given = attributes if isinstance(attributes, Mapping) else {}
        tables = [table for name in _TABLES if isinstance(table := given.get(name), Mapping)]
        if len(tables) < len(_TABLES):
            self._kind.refuse()
        self._kind.is_module = True
        own, buffers, modules = tables
        # None is a place for a tensor that this module has not, such as a bias
        found = {name: value for table in (own, buffers) for name, value in table.items() if value is not None}
        for name, module in modules.items():
            if isinstance(module, PickledModule):
                found |= {f"{name}.{inner}": value for inner, value in module.items()}
            elif module is not None:
                raise pickle.UnpicklingError(f"a {type(module).__name__} among modules")
        if any(not isinstance(name, str) for name in found):
            raise pickle.UnpicklingError("a module with names that are not strings")
        if any(len(name) > _LONGEST_NAME for name in found):
            raise TooLarge(f"names of more than {_LONGEST_NAME:,} characters")
        self.update(found)
        return len(found) + sum(len(name) for name in found) // _CHARACTERS
