"""Published weights as a flat table of named arrays, from their files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vision.errors import UserError
from vision.pretrained.pickled import read_pickled

StateDict = dict[str, np.ndarray]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


def read_state_dict(path: str | os.PathLike[str]) -> StateDict:
    """The named arrays of a safetensors file or of a PyTorch checkpoint (.pth, .pt, .bin), by what is in the file.

    A checkpoint that holds its state dict under "state_dict", "model_state_dict", "model" or "net" is unwrapped, and
    the prefix "module." of all names (from data-parallel training) is removed. Nothing in a file is executed (see
    :func:`vision.pretrained.pickled.read_pickled`).

    Raises:
      UserError: if there is no such file, or it is damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path} to read weights from")
    with path.open("rb") as file:
        start = file.read(9)
    # Eight bytes of length, then a header in JSON
    tensors = _read_safetensors(path) if start[8:] == b"{" else _unwrapped(read_pickled(path), path)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): array for name, array in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> StateDict:
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged or was not fully downloaded ({error}): fetch it again") from error


def _unwrapped(value: Any, path: Path) -> StateDict:
    """The state dict inside a checkpoint."""
    while isinstance(value, Mapping):
        inside = [value[key] for key in _WRAPPERS if isinstance(value.get(key), Mapping)]
        if not inside:
            break
        value = inside[0]
    if not isinstance(value, Mapping) or not value:
        raise UserError(
            f"{path} holds no state dict (a table from names to tensors): save model.state_dict() with PyTorch"
        )
    wrong = [str(name) for name, array in value.items() if not isinstance(array, np.ndarray)]
    if wrong:
        raise UserError(
            f"{path} holds no state dict: {some(wrong)} of {len(value)} entries are not tensors. "
            "Save model.state_dict() with PyTorch"
        )
    return dict(value)


def write_state_dict(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as a safetensors file, which PyTorch, JAX and others read.

    The file appears at once or not at all.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.part")
    # The library writes the memory of an array as it is, ignoring strides
    safetensors.numpy.save_file({name: np.asarray(array, order="C") for name, array in tensors.items()}, partial)
    partial.replace(path)


def some(names: Sequence[str], most: int = 3) -> str:
    """A few of the names for a message: ``a, b, c and 4 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
