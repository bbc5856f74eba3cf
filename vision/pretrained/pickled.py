"""PyTorch's checkpoint files, read without PyTorch and without executing their contents.

A file of ``torch.save`` (since PyTorch 1.6) is a zip archive: a pickle ``NAME/data.pkl`` with the structure, and the
raw little-endian bytes of each storage in ``NAME/data/KEY``. Before, it was a sequence of pickles, as in published
weights of those years: a magic number, the version 1001, a description of the machine, the structure, and the keys of
the storages; then for each storage the number of its values, in eight bytes, and the raw values.

A pickle can call any function. This reader accepts only the few names that describe tensors as views of storages, with
an offset, a shape and strides, and rejects files that call any other. A whole model, as ``torch.save(model)`` writes
it, is a tree of objects of classes that need not be known: each becomes the table of its parameters and buffers, by the
names that its ``state_dict()`` has (``pickled_module.py``). What a file declares is held against what it has
before anything is read, so that a small file takes neither much memory nor much time (``plain_pickle.py``).
"""

import io
import math
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from vision.errors import UserError, on_one_line
from vision.pretrained import plain_pickle
from vision.pretrained.pickled_module import PickledModule, UnknownClass
from vision.pretrained.plain_pickle import MOST_BYTES, MOST_OPCODES, TooLarge, checked_key

_DTYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
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


_MOST_DIRECTORY = 1 << 24
"""Bytes of a zip archive's directory; each storage has about 80."""
_MOST_EXPANDED = 1 << 24
"""Values that all tensors of a file together may have beyond those of their storages."""
_MOST_OF_HEAD = 1000
"""Opcodes of each of the first pickles of the format before PyTorch 1.6, which have about 20."""
_MOST_DIMENSIONS = 64
"""Of a numpy array."""


class _StorageType(NamedTuple):
    """Stands for a class such as ``torch.FloatStorage``; cannot be called."""

    name: str


class _Storage(NamedTuple):
    """A named run of ``count`` values in the file."""

    key: str
    dtype: np.dtype
    count: int


class _Unread:
    """A tensor while the structure is read for the first time."""


Content = Callable[[_Storage], np.ndarray | None]
"""The values of a storage; None while the structure is read for the first time, before its storages."""


class _Structure:
    """What the names in a pickle stand for: tensors as views of the arrays that ``content`` gives."""

    def __init__(self, path: Path, content: Content):
        self._path, self._content = path, content
        self._expanded = 0
        self._unknown: dict[str, UnknownClass] = {}
        self._names: Mapping[str, Any] = {
            "collections.OrderedDict": _table,
            "torch.Size": _size,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch.nn.parameter.Parameter": _parameter,  # before PyTorch 0.4
            "torch.nn.backends.thnn._get_thnn_function_backend": _nothing,  # likewise, an attribute of modules
            **{f"torch.{name}": _StorageType(name) for name in _DTYPES},
        }

    def load(self, stream: io.BytesIO, *, most: int = MOST_OPCODES) -> Any:
        """The value of the pickle at the position of ``stream``, which may have ``most`` opcodes."""
        value = plain_pickle.load(
            stream,
            named=self._named,
            persistent=self._from_outside,
            instance=self._instance,
            without_attributes=(dict, np.ndarray, _Unread),
            most=most,
        )
        for kind in self._unknown.values():
            if not kind.is_module:
                kind.refuse()
        return value

    def _named(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._names:
            return self._names[full]
        return self._unknown.setdefault(full, UnknownClass(full, self._path))

    def _instance(self, kind: Any) -> PickledModule:
        if not isinstance(kind, UnknownClass):
            raise pickle.UnpicklingError(f"a new object of a {type(kind).__name__}")
        return PickledModule(kind)

    def _from_outside(self, pid: Any) -> Any:
        match pid:
            # a class of modules, with the file and the text of its source
            case ("module", UnknownClass() as kind, _, _):
                return kind
            # the sixth part, of files before PyTorch 1.6, was for views of storages
            case ("storage", _StorageType(name), str(key), _, int(count), *rest) if count >= 0 and rest in ([], [None]):
                storage = _Storage(key, _DTYPES[name], count)
                self._content(storage)  # also one without a tensor is among those that follow an old file's structure
                return storage
        raise pickle.UnpicklingError("an unknown kind of storage")

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> "np.ndarray | _Unread":
        if (
            not isinstance(storage, _Storage)
            or not isinstance(shape, tuple | list)
            or not isinstance(strides, tuple | list)
        ):
            raise pickle.UnpicklingError("a tensor without a storage, a shape or strides")
        if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
            raise pickle.UnpicklingError(
                f"a tensor with {len(shape)} sizes and {len(strides)} strides, where both must be equal and at most "
                f"{_MOST_DIMENSIONS}"
            )
        if not all(isinstance(n, int) and 0 <= n < 2**63 for n in (offset, *shape, *strides)):
            raise pickle.UnpicklingError("a tensor with a negative size, or one that is not a number")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        values = math.prod(shape)
        if values > 0 and last >= storage.count:
            raise pickle.UnpicklingError(f"a tensor reaches beyond its storage of {storage.count} values")
        self._expanded += max(values - storage.count, 0)
        if self._expanded > _MOST_EXPANDED:
            raise TooLarge(f"tensors that repeat the values of their storages to more than {_MOST_EXPANDED:,} values")
        array = self._content(storage)
        if array is None:
            return _Unread()
        steps = tuple(
            stride * storage.dtype.itemsize if size > 1 else 0 for size, stride in zip(shape, strides, strict=True)
        )
        return np.lib.stride_tricks.as_strided(array[offset:], shape, steps, writeable=False)


def _table(pairs: Any = ()) -> dict[Any, Any]:
    """An ordered dictionary, which Python 2 wrote with its entries and Python 3 without."""
    if not isinstance(pairs, tuple | list) or not all(
        isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs
    ):
        raise pickle.UnpicklingError("a table of anything but pairs")
    return {checked_key(key): value for key, value in pairs}


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    if not isinstance(sizes, tuple | list):
        raise pickle.UnpicklingError("a size without numbers")
    return tuple(sizes)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _nothing() -> None:
    return None


def read_pickled(path: Path) -> Any:
    """Read a file of ``torch.save``: plain containers, numbers and strings, with tensors as numpy arrays.

    Arrays are read-only views: tensors that shared a storage share it here, expanded ones are not copied. bfloat16 is
    the dtype of ml_dtypes, which JAX uses.

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
        with _DirectoryReader(path.open("rb", buffering=0)) as file, zipfile.ZipFile(file) as archive:
            file.most = sys.maxsize - 1
            return _read(archive, path)
    except UserError:
        raise
    except TooLarge as error:
        raise UserError(f"{path} was not read: it has {error}; save only its tensors with PyTorch") from error
    except MemoryError:
        raise UserError(f"{path} does not fit into memory: use a machine with more") from None
    # For damaged files zipfile and pickletools raise nearly every built-in exception
    except Exception as error:
        what = "is damaged or was not fully downloaded" if legacy or start[:2] == b"PK" else "is no PyTorch checkpoint"
        reason = on_one_line(f"{type(error).__name__}: {error}")
        raise UserError(f"{path} {what} ({reason}): fetch it again") from error


class _DirectoryReader(io.BufferedReader):
    """A file that refuses to read more than ``most`` bytes at once: zipfile reads the whole directory when it opens."""

    most = _MOST_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes."""
        wanted = sys.maxsize if size is None or size < 0 else size
        found = super().read(min(wanted, self.most + 1))
        if len(found) > self.most:
            raise zipfile.BadZipFile(f"a directory of more than {_MOST_DIRECTORY:,} bytes")
        return found


def _read(archive: zipfile.ZipFile, path: Path) -> Any:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise UserError(
            f"{path} is a zip archive without PyTorch's data.pkl: choose a file that torch.save has written"
        )
    folder = pickles[0].removesuffix("data.pkl")
    entries = _Entries(archive, folder, path)
    if f"{folder}byteorder" in archive.namelist() and entries.read("byteorder") != b"little":
        raise UserError(f"{path} was written on a big-endian machine: load it there and save it as safetensors")
    structure = entries.read("data.pkl")
    return _Structure(path, entries.storage).load(io.BytesIO(structure))


class _Entries:
    """The entries of an archive, of which no more is read than the file has."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, path: Path):
        self._archive, self._folder, self._path = archive, folder, path
        self._storages: dict[_Storage, np.ndarray] = {}
        self._left = path.stat().st_size

    def read(self, key: str, size: int | None = None) -> bytes:
        """The first ``size`` bytes of an entry, or all, which are then at most those of a pickle."""
        name = f"{self._folder}{key}"
        where = on_one_line(name, 80)
        try:
            entry = self._archive.getinfo(name)
        except KeyError:
            raise UserError(f"{self._path} is incomplete: it has no {where}: fetch it again") from None
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UserError(
                f"{self._path} was not read: {where} is compressed, unlike what torch.save writes: save it again"
            )
        if size is None:
            size = entry.file_size
            if size > MOST_BYTES:
                raise UserError(
                    f"{self._path} was not read: {where} has {size:,} bytes, where at most {MOST_BYTES:,} are read: "
                    "save only tensors with PyTorch"
                )
        # Entries that share bytes could multiply the file
        self._left -= size
        if self._left < 0 or entry.file_size < size:
            raise UserError(f"{self._path} is damaged: {where} has {entry.file_size} bytes, not {size}: fetch it again")
        with self._archive.open(entry) as file:
            raw = file.read(size)
        if len(raw) < size:
            raise UserError(f"{self._path} is damaged: {where} has {len(raw)} bytes, not {size}: fetch it again")
        return raw

    def storage(self, storage: _Storage) -> np.ndarray:
        """The values of a storage, which is read once."""
        if storage not in self._storages:
            raw = self.read(f"data/{storage.key}", storage.count * storage.dtype.itemsize)
            self._storages[storage] = np.frombuffer(raw, storage.dtype, storage.count)
        return self._storages[storage]


def _read_legacy(file: BinaryIO, path: Path) -> Any:
    """The structure is read twice, since the storages, which come after it, are of the sizes and types that it has."""
    stream = io.BytesIO(file.read(MOST_BYTES))
    declared: dict[str, _Storage] = {}

    def declare(storage: _Storage) -> None:
        if declared.setdefault(storage.key, storage) != storage:
            raise pickle.UnpicklingError("a storage of two sizes or types")

    first = _Structure(path, declare)
    _, version, machine = (first.load(stream, most=_MOST_OF_HEAD) for _ in range(3))
    if version != _LEGACY_VERSION:
        shown = version if isinstance(version, int) and abs(version) < 2**64 else f"a {type(version).__name__}"
        raise UserError(f"{path} is of version {shown} of PyTorch's old format, not {_LEGACY_VERSION}: save it again")
    if not machine["little_endian"]:
        raise UserError(f"{path} was written on a big-endian machine: load it there and save it as safetensors")
    start = stream.tell()
    first.load(stream)
    keys = first.load(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise pickle.UnpicklingError("no list of the names of the storages")
    file.seek(stream.tell())
    storages = _legacy_storages(file, keys, declared, path.stat().st_size)
    stream.seek(start)
    return _Structure(path, storages.__getitem__).load(stream)


def _legacy_storages(
    file: BinaryIO, keys: Sequence[str], declared: dict[str, _Storage], size: int
) -> dict[_Storage, np.ndarray]:
    """The storages at the position of the file, in the order of ``keys``."""
    storages = {}
    for key in keys:
        storage = declared.pop(key)
        count = int.from_bytes(file.read(8), "little")
        if count != storage.count:
            raise ValueError(f"storage {key} has {count} values, not {storage.count}")
        length = count * storage.dtype.itemsize
        if length > size - file.tell():
            raise ValueError(f"storage {key} of {length} bytes is cut off")
        storages[storage] = np.frombuffer(file.read(length), storage.dtype, count)
    if declared:
        raise ValueError(f"storage {next(iter(declared))} is missing")
    return storages
