"""PyTorch's checkpoint files, read without PyTorch and without executing their contents.

A file of ``torch.save`` (since PyTorch 1.6) is a zip archive: a pickle ``NAME/data.pkl`` with the structure, and the
raw little-endian bytes of each storage in ``NAME/data/KEY``. Before, it was a sequence of pickles, as in published
weights of those years: a magic number, the version 1001, a description of the machine, the structure, and the keys of
the storages; then for each storage the number of its values, in eight bytes, and the raw values.

A pickle can call any function. This reader accepts only the few names that describe tensors as views of storages, with
an offset, a shape and strides, and rejects files with any other.
"""

import collections
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from vision.errors import UserError

_DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
# The beginning of files in the format before PyTorch 1.6: the number 0x1950a86a20f9469cfc6c
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_LEGACY_VERSION = 1001


# Named tuples, because a pickle can change the attributes of other objects after they have been checked.
class _StorageType(NamedTuple):
    """Stands for a class such as ``torch.FloatStorage``; cannot be called."""

    name: str


class _Storage(NamedTuple):
    """A named run of ``count`` values in the archive."""

    key: str
    dtype: np.dtype
    count: int


class _Tensor(NamedTuple):
    """A view of a storage, in values: a tensor before its storage is read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise pickle.UnpicklingError("a tensor without a storage, or with a negative size")
    if len(shape) != len(strides):
        raise pickle.UnpicklingError(f"a tensor with {len(shape)} sizes and {len(strides)} strides")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.count:
        raise pickle.UnpicklingError(f"a tensor reaches beyond its storage of {storage.count} values")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


_GLOBALS: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): _StorageType(name) for name in _DTYPES},
}


class _Unpickler(pickle.Unpickler):
    """Builds plain containers and descriptions of tensors, and nothing else."""

    def __init__(self, file: Any, path: Path):
        super().__init__(file)
        self._path = path

    def find_class(self, module_name: str, global_name: str) -> Any:
        found = _GLOBALS.get((module_name, global_name))
        if found is None:
            raise UserError(
                f"{self._path} was not read: it uses {module_name}.{global_name}, which is not part of a state "
                "dict. If you trust the file, save only its tensors with PyTorch, preferably as safetensors"
            )
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _StorageType(name), str(key), _, int(count)) if count >= 0:
                return _Storage(key, _DTYPES[name], count)
        raise pickle.UnpicklingError(f"an unknown kind of storage, {str(pid)[:80]}")


class _LegacyUnpickler(_Unpickler):
    """A reader that also records the storages; their description here has an unused sixth part."""

    def __init__(self, file: Any, path: Path):
        super().__init__(file, path)
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        old = isinstance(pid, tuple) and len(pid) == 6 and pid[5] is None
        storage = super().persistent_load(pid[:5] if old else pid)
        return self.storages.setdefault(storage.key, storage)


def read_pickled(path: Path) -> Any:
    """Read a file of ``torch.save``: plain containers, numbers and strings, with tensors as numpy arrays.

    Arrays are read-only views: tensors that shared a storage share it here, expanded ones are not copied. bfloat16 is
    JAX's dtype of that name.

    Raises:
      UserError: if the file is not a checkpoint, is damaged or incomplete, or contains anything but tensors and
        containers; nothing in it is executed.
    """
    with path.open("rb") as file:
        start = file.read(2 + len(_LEGACY))
    legacy = start[2:] == _LEGACY
    try:
        if legacy:
            with path.open("rb") as file:
                return _read_legacy(file, path)
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path)
    except UserError:
        raise
    # For damaged files zipfile and pickle raise nearly every built-in exception
    except Exception as error:
        what = "is damaged or was not fully downloaded" if legacy or start[:2] == b"PK" else "is no PyTorch checkpoint"
        raise UserError(f"{path} {what} ({type(error).__name__}: {error}): fetch it again") from error


def _read(archive: zipfile.ZipFile, path: Path) -> Any:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise UserError(
            f"{path} is a zip archive without PyTorch's data.pkl: choose a file that torch.save has written"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise UserError(f"{path} was written on a big-endian machine: load it there and save it as safetensors")
    with archive.open(pickles[0]) as file:
        structure = _Unpickler(file, path).load()
    return _with_arrays(structure, _Storages(archive, f"{folder}data/", path))


def _read_legacy(file: BinaryIO, path: Path) -> Any:
    _, version, machine = (_Unpickler(file, path).load() for _ in range(3))
    if version != _LEGACY_VERSION:
        raise UserError(f"{path} is of version {version} of PyTorch's old format, not {_LEGACY_VERSION}: save it again")
    if not machine["little_endian"]:
        raise UserError(f"{path} was written on a big-endian machine: load it there and save it as safetensors")
    reader = _LegacyUnpickler(file, path)
    structure = reader.load()
    storages = {}
    for key in _Unpickler(file, path).load():
        storage = reader.storages.pop(key)
        count = int.from_bytes(file.read(8), "little")
        if count != storage.count:
            raise ValueError(f"storage {key} has {count} values, not {storage.count}")
        storages[storage] = np.frombuffer(file.read(count * storage.dtype.itemsize), storage.dtype, count)
    if reader.storages:
        raise ValueError(f"storage {next(iter(reader.storages))} is missing")
    return _with_arrays(structure, storages)


class _Storages(dict[_Storage, np.ndarray]):
    """The storages of an archive, each read on first access."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, path: Path):
        super().__init__()
        self._archive, self._folder, self._path = archive, folder, path

    def __missing__(self, storage: _Storage) -> np.ndarray:
        name = f"{self._folder}{storage.key}"
        try:
            raw = self._archive.read(name)
        except KeyError:
            raise UserError(f"{self._path} is incomplete: it has no {name}: fetch it again") from None
        size = storage.count * storage.dtype.itemsize
        if len(raw) < size:
            raise UserError(f"{self._path} is damaged: {name} has {len(raw)} bytes, not {size}: fetch it again")
        self[storage] = np.frombuffer(raw, storage.dtype, storage.count)
        return self[storage]


def _with_arrays(value: Any, storages: Mapping[_Storage, np.ndarray]) -> Any:
    """The same containers with arrays in place of tensors."""
    match value:
        case _Tensor(storage, offset, shape, strides):
            steps = tuple(stride * storage.dtype.itemsize for stride in strides)
            return np.lib.stride_tricks.as_strided(storages[storage][offset:], shape, steps, writeable=False)
        case dict():
            return {key: _with_arrays(item, storages) for key, item in value.items()}
        case list() | tuple():
            return [_with_arrays(item, storages) for item in value]
    return value
