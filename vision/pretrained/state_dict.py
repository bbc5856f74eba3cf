"""Published weights as a flat table of named arrays, from their files."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from vision.errors import UserError, on_one_line
from vision.pretrained.pickled import read_pickled

StateDict = dict[str, np.ndarray]

AVERAGED = (
    *("state_dict_ema", "model_state_dict_ema", "model_ema_state_dict", "ema_state_dict", "model_ema", "module_ema"),
    *("ema_model", "ema_state", "params_ema", "ema"),
)
"""Entries of checkpoints that hold averaged weights, which are preferred, as they are by those who publish them."""
NEWEST = ("state_dict", "model_state_dict", "model", "net", "module", "params")
"""Entries of checkpoints that hold the weights themselves."""

_DTYPES: Mapping[str, Any] = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8},
    **{"F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2},
}
"""The types of a safetensors file by their names in it."""
_MOST_HEADER = 1 << 24
"""Bytes of the header of a safetensors file, or of an index; each tensor has about 100."""
_MOST_DIMENSIONS = 64
"""Of a numpy array."""
_MOST_NESTED = 8
"""Wrappers around a state dict."""
_LONGEST_NAME = 250


@dataclass(frozen=True)
class PublishedWeights:
    """A state dict, and where it was in its file."""

    tensors: StateDict
    averaged: str | None = None
    """The entry of averaged weights that was preferred to others, such as "state_dict_ema"."""


def read_state_dict(path: str | os.PathLike[str]) -> StateDict:
    """The named arrays of :func:`read_weights`."""
    return read_weights(path).tensors


def read_weights(path: str | os.PathLike[str]) -> PublishedWeights:
    """The named arrays of published weights, by what is in the file and not by its name.

    The file may be of safetensors; a checkpoint of PyTorch (.pth, .pt, .bin), whose state dict may be wrapped in one of
    the entries `AVERAGED` or `NEWEST`; or the index of weights in several files (model.safetensors.index.json), which
    are read from its folder. Nothing in a file is executed, and none takes more memory than its size suggests (see
    :func:`vision.pretrained.pickled.read_pickled`). The arrays may be read-only.

    Raises:
      UserError: if there is no such file, or it is damaged, or holds something else.
    """
    path = Path(path)
    start = _start(path)
    # JSON has no zero bytes; the length with which a safetensors file begins has, since its header is not endless
    weights = _of_index(path) if start.lstrip()[:1] == b"{" and b"\0" not in start else _of_file(path, start)
    for name in weights.tensors:
        if not isinstance(name, str):
            raise UserError(
                f"{path} holds no state dict: it has entries named by a value of type {type(name).__name__} in "
                "place of a string; save model.state_dict() with PyTorch"
            )
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise UserError(
                f"{path} has an array whose name has {len(name)} characters, or some that cannot be printed: "
                f"{on_one_line(name, 80)}; give the arrays names of at most {_LONGEST_NAME} printable characters"
            )
    return weights


def _start(path: Path) -> bytes:
    """The first bytes of a file, by which its kind is known."""
    if not path.is_file():
        raise UserError(f"there is no file {path} to read weights from")
    with path.open("rb") as file:
        return file.read(9)


def _of_file(path: Path, start: bytes) -> PublishedWeights:
    # Eight bytes of length, then a header in JSON
    if start[8:] == b"{":
        return PublishedWeights(_read_safetensors(path, int.from_bytes(start[:8], "little")))
    return _unwrapped(read_pickled(path), path)


def _read_safetensors(path: Path, header: int) -> StateDict:
    if header > _MOST_HEADER:
        raise UserError(
            f"{path} was not read: its header has {header:,} bytes, where at most {_MOST_HEADER:,} are read: it is "
            "damaged, or save fewer arrays in a file"
        )
    try:
        # the library has seen that the arrays follow each other without gaps in this order
        with safetensors.safe_open(path, "np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
            declared = {name: (each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
        with path.open("rb") as file:
            file.seek(8 + header)
            return {name: _array(file.read, name, *of, path) for name, of in declared.items()}
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path} does not fit into memory: use a machine with more") from None
    # the library raises what Rust, Python and numpy have for a damaged file
    except Exception as error:
        raise UserError(
            f"{path} is damaged or was not fully downloaded ({on_one_line(str(error))}): fetch it again"
        ) from error


def _array(read: Callable[[int], bytes], name: str, dtype: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """The next array of a safetensors file."""
    if dtype not in _DTYPES:
        raise UserError(
            f"{path} was not read: {on_one_line(name, 80)} is of type {dtype}, and only these are known: "
            f"{', '.join(_DTYPES)}; convert it"
        )
    kind = np.dtype(_DTYPES[dtype])
    if len(shape) > _MOST_DIMENSIONS or any(size >= 2**62 for size in shape) or math.prod(filter(None, shape)) >= 2**59:
        raise UserError(
            f"{path} was not read: {on_one_line(name, 80)} has {len(shape)} dimensions, where at most "
            f"{_MOST_DIMENSIONS} are possible, or a size that is too large; save it with another shape"
        )
    count = math.prod(shape)
    return np.frombuffer(read(count * kind.itemsize), kind, count).reshape(shape)


def _of_index(path: Path) -> PublishedWeights:
    """The arrays of several files by their index, {"weight_map": {array: file}}."""
    wrong = f"{path} is no index of weights, such as model.safetensors.index.json"
    if path.stat().st_size > _MOST_HEADER:
        raise UserError(f"{wrong}: it has more than {_MOST_HEADER:,} bytes; choose a file of weights or their index")
    try:
        index = json.loads(path.read_bytes())
    # deep nesting is a RecursionError
    except (ValueError, RecursionError) as error:
        raise UserError(f"{wrong} ({on_one_line(str(error))}): choose a file of weights or their index") from error
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(shard, str) for shard in places.values()):
        raise UserError(
            f'{wrong}: it has no "weight_map" from arrays to files; choose a file of weights or their index'
        )
    shards: dict[str, set[str]] = {}
    for name, shard in places.items():
        shards.setdefault(shard, set()).add(name)
    for shard in shards:
        if (
            shard in ("", ".", "..")
            or len(shard.encode(errors="replace")) > 255
            or not shard.isprintable()
            or "/" in shard
        ):
            raise UserError(
                f"{path} was not read: it names the file {on_one_line(shard, 80)!r}, and only files of its own folder "
                "are read; put them there and correct the index"
            )
    missing = [shard for shard in shards if not path.with_name(shard).is_file()]
    if missing:
        raise UserError(f"{path} needs files that are not in its folder: {some(missing)}; fetch them too")
    tensors: StateDict = {}
    for shard, names in shards.items():
        held = _of_file(path.with_name(shard), _start(path.with_name(shard))).tensors
        if held.keys() != names:
            apart = sorted(on_one_line(str(name), 80) for name in held.keys() ^ names)
            raise UserError(f"{path} does not fit {shard}: {some(apart)} are in one of them only; fetch them again")
        tensors |= held
    return PublishedWeights(tensors)


def _unwrapped(value: Any, path: Path) -> PublishedWeights:
    """The state dict inside a checkpoint, of averaged weights where there are some."""
    found = _found(value, (), set())
    if found is None:
        raise UserError(
            f"{path} holds no state dict (a table from names to tensors): save model.state_dict() with PyTorch"
        )
    inside, entries = found
    averaged = next((entry for entry in entries if entry in AVERAGED), None)
    # PyTorch's AveragedModel counts
    if all(str(name).startswith("module.") for name in inside if name != "n_averaged"):
        inside = {name: array for name, array in inside.items() if name != "n_averaged"}
    wrong = [on_one_line(str(name), 80) for name, array in inside.items() if not isinstance(array, np.ndarray)]
    if wrong:
        raise UserError(
            f"{path} holds no state dict: {some(wrong)} of {len(inside)} entries are not tensors. "
            "Save model.state_dict() with PyTorch"
        )
    return PublishedWeights(dict(inside), averaged)


def _found(
    value: Any, entries: tuple[str, ...], seen: set[tuple[int, int]]
) -> tuple[Mapping[Any, Any], tuple[str, ...]] | None:
    """The preferred table of tensors in a checkpoint, and the entries that lead to it; None if there is none."""
    # An average's entry may hold only its settings, as numbers
    least = 1 if entries and entries[-1] in AVERAGED else 0
    # a table may contain itself
    if not isinstance(value, Mapping) or (id(value), least) in seen or len(entries) > _MOST_NESTED:
        return None
    seen.add((id(value), least))
    for entry in (*AVERAGED, *NEWEST):
        found = _found(value.get(entry), (*entries, entry), seen)
        if found is not None:
            return found
    tensors = any(isinstance(each, np.ndarray) and each.ndim >= least for each in value.values())
    return (value, entries) if tensors else None


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
