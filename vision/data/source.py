"""Sources: finite sets of samples with random access, the common form of all data sets.

A source is what TFDS calls a data source and Grain a random access data source: ``len`` and ``[]``. Order, epochs,
batches and shares of processes are handled by `vision.data.pipeline`.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from vision.errors import UserError

# How many consecutive samples a thread reads at a time.
BLOCK = 256

Record = Mapping[str, np.ndarray]
"""One sample: "image" uint8 [h w c], "label" int32 [] if there is one, and any other fields of the data set."""


@runtime_checkable
class Source(Protocol):
    """A finite set of samples, read by index, from several threads at once.

    A source must be picklable to be read by worker processes.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """Element i is the name of class i; empty if the data set has no labels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record:
        """Sample ``index``, 0 <= index < len; any exception but `IndexError` means a damaged sample."""
        ...


@runtime_checkable
class BlockSource(Source, Protocol):
    """A source that reads several samples faster at once than one by one, for example from grouped records."""

    def __getitems__(self, indices: Sequence[int], /) -> list[Record]:
        """The samples of ``indices``, in that order; the method's name follows PyTorch."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """A data set small enough for memory: one array per field, samples along the leading axis.

    Raises:
        UserError: there are no arrays, or their leading axes differ.
    """

    arrays: Mapping[str, np.ndarray]
    """One array [n ...] for each field; "image" uint8 [n h w c], "label" int32 [n]."""
    class_names: tuple[str, ...] = ()
    """Element i is the name of class i; empty if the data set has no labels."""

    def __post_init__(self):
        sizes = {name: array.shape[0] if array.ndim else None for name, array in self.arrays.items()}
        if not sizes:
            raise UserError("A source in memory needs at least one array; none was given.")
        if None in sizes.values() or len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {list(array.shape)}" for name, array in self.arrays.items())
            raise UserError(f"The arrays of a source must have one leading axis of equal size, got {listed}.")

    def __len__(self) -> int:
        return next(iter(self.arrays.values())).shape[0]

    def __getitem__(self, index: int) -> Record:
        return {name: np.asarray(array[index]) for name, array in self.arrays.items()}

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of ``arrays``."""
        return tuple(self.arrays)

    def rows(self, indices: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        """Every field of the samples ``indices``, along a leading axis."""
        return {name: array[indices] for name, array in self.arrays.items()}

    def first(self, count: int) -> dict[str, np.ndarray]:
        """Every field of at most ``count`` samples from the first one on, along a leading axis."""
        return self.rows(np.arange(min(count, len(self))))

    def only(self, fields: Sequence[str]) -> "ArraySource":
        """The same samples with only these fields."""
        return ArraySource({name: self.arrays[name] for name in fields}, self.class_names)


def read(source: Source, index: int) -> Record:
    """Sample ``index`` of ``source``; if it cannot be read, a `UserError` with its index and the cause."""
    try:
        return source[index]
    except Exception as error:
        cause = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"Sample {index} of {len(source)} cannot be read: {cause}") from error


def layout(record: Record) -> str:
    """A description of the fields of a sample, such as "image uint8 [32, 32, 3], label int32 []"."""
    return ", ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in sorted(record.items()))


def same_layout(record: Record, other: Record) -> bool:
    """Whether two samples have the same fields, of equal shapes and dtypes."""
    return record.keys() == other.keys() and all(
        value.shape == other[name].shape and value.dtype == other[name].dtype for name, value in record.items()
    )


def in_memory(source: Source, *, limit_bytes: int = 2 * 2**30) -> ArraySource:
    """Reads a source whose samples have equal shapes into memory, with a few threads.

    Args:
        source: at least one sample; the first determines the fields, shapes and dtypes of all.
        limit_bytes: maximum size in memory; 2 GiB by default.

    Raises:
        UserError: the source is empty or too large, or a sample is damaged or differs from the first one.
    """
    if isinstance(source, ArraySource):
        return source
    if len(source) == 0:
        raise UserError("The data source is empty, so there is nothing to read into memory.")
    first = {name: np.asarray(value) for name, value in read(source, 0).items()}
    needed = len(source) * sum(value.nbytes for value in first.values())
    if needed > limit_bytes:
        raise UserError(
            f"The {len(source)} samples need {needed / 2**20:.1f} MiB of memory, more than the limit of "
            f"{limit_bytes / 2**20:.1f} MiB; read them from disk, or raise the limit."
        )
    arrays = {name: np.empty((len(source), *value.shape), value.dtype) for name, value in first.items()}

    def fill(start: int) -> None:
        block = range(start, min(start + BLOCK, len(source)))
        for index, record in zip(block, _read_block(source, block), strict=True):
            record = {name: np.asarray(value) for name, value in record.items()}
            if not same_layout(record, first):
                raise UserError(
                    f"Sample {index} has {layout(record)} where sample 0 has {layout(first)}; only samples "
                    "of equal shapes can be held in memory."
                )
            for name, value in record.items():
                arrays[name][index] = value

    in_blocks(len(source), fill)
    return ArraySource(arrays, tuple(source.class_names))


def in_blocks(count: int, fill: Callable[[int], None]) -> None:
    """Call ``fill`` with the start of every block of ``BLOCK`` samples, by a few threads; stops at the first error."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        try:
            for _ in pool.map(fill, range(0, count, BLOCK)):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _read_block(source: Source, indices: range) -> Iterable[Record]:
    if isinstance(source, BlockSource):
        try:
            return source.__getitems__(indices)
        except Exception:  # Samples are read one by one below, which identifies the damaged one.
            pass
    return (read(source, index) for index in indices)
