"""Samples that are made when they are first asked for, and are in memory from then on.

What is computed and not read, as the scenes of the shapes world, need not be there before training starts: a batch
makes the samples that it has, and the whole is made where somebody asks for all of it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from vision.data.source import ArraySource, Record

Make = Callable[[Int[np.ndarray, " b"]], Mapping[str, np.ndarray]]
"""Indices -> every field of these samples, along a leading axis; each sample is a function of its index alone."""

_AT_ONCE = 2**24
"""About as many bytes are made at a time where all are asked for."""


class _Memory:
    """What was made so far; used by several threads."""

    def __init__(self, make: Make, size: int):
        self._make = make
        self._lock = threading.Lock()
        self.size = size
        self._arrays: dict[str, np.ndarray] = {}
        self._missing = np.ones(size, bool)

    def rows(self, indices: np.ndarray, fields: Sequence[str]) -> dict[str, np.ndarray]:
        with self._lock:
            self._fill(indices)
            return {name: self._arrays[name][indices] for name in fields}

    def all(self, fields: Sequence[str]) -> dict[str, np.ndarray]:
        with self._lock:
            self._fill(np.array([0]))
            sample = sum(array[0].nbytes for array in self._arrays.values())
            step = max(1, _AT_ONCE // max(sample, 1))
            missing = np.flatnonzero(self._missing)
            for start in range(0, len(missing), step):
                self._fill(missing[start : start + step])
            return {name: self._arrays[name] for name in fields}

    def _fill(self, indices: np.ndarray) -> None:
        new = np.unique(indices[self._missing[indices]])
        if not len(new):
            return
        for name, made in self._make(new).items():
            if name not in self._arrays:  # its pages take no memory before they are written
                self._arrays[name] = np.empty((self.size, *made.shape[1:]), made.dtype)
            self._arrays[name][new] = made
        self._missing[new] = False


class OnDemandSource(ArraySource):
    """An ``ArraySource`` of ``size`` samples that ``make`` makes; to ask for ``arrays`` makes all that are missing."""

    def __init__(self, make: Make, *, size: int, fields: Sequence[str], class_names: tuple[str, ...] = ()):
        object.__setattr__(self, "class_names", class_names)
        object.__setattr__(self, "_fields", tuple(fields))
        object.__setattr__(self, "_memory", _Memory(make, size))

    _fields: tuple[str, ...]
    _memory: _Memory

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of ``arrays``."""
        return self._fields

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One array [n ...] for each field."""
        return self._memory.all(self._fields)

    def __len__(self) -> int:
        return self._memory.size

    def __getitem__(self, index: int) -> Record:
        return {name: np.asarray(array[0]) for name, array in self.rows(np.array([index])).items()}

    def rows(self, indices: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        """Every field of the samples ``indices``, along a leading axis."""
        return self._memory.rows(indices, self._fields)

    def only(self, fields: Sequence[str]) -> ArraySource:
        """The same samples with only these fields; both share what is made."""
        part = object.__new__(OnDemandSource)
        for name, value in (("class_names", self.class_names), ("_fields", tuple(fields)), ("_memory", self._memory)):
            object.__setattr__(part, name, value)
        return part

    def __reduce__(self):
        return ArraySource, (dict(self.arrays), self.class_names)
