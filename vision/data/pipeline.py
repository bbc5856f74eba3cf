"""From a source to batches: a batch is a function of (seed, step) and of the process's share, without any state.

Training reads an endless stream. Its position p = step · batch_size + j lies in epoch p // n of a source of n samples,
at index p mod n of that epoch's permutation, which is a function of (seed, epoch). Process i of c takes the contiguous
share j in [i · batch_size / c, (i + 1) · batch_size / c) of every global batch. So resuming means starting at another
step, a batch may cross the boundary of an epoch, and neither the number of processes nor that of readers changes the
training data.
"""

import collections
import functools
import operator
import os
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int

from vision.data.source import ArraySource, Record, Source, layout, read, same_layout
from vision.errors import UserError

Transform = Callable[[Record, np.random.Generator], Record]
"""A change of one sample on the host, such as a random crop to a static shape: (record, rng) -> record."""

Batch = dict[str, np.ndarray]
"""The fields of b samples stacked: "image" uint8 [b h w c], "label" int32 [b], ..."""

# Two branches of numpy's SeedSequence tree, so that an epoch and a position of the same number are independent.
_EPOCHS, _POSITIONS = 0, 1


def permutation(size: int, *, seed: int, epoch: int) -> Int[np.ndarray, " size"]:
    """A uniformly random permutation of ``range(size)``, a function of (size, seed, epoch).

    Sorts raw 64-bit numbers, since numpy guarantees the stream of a bit generator forever but that of
    ``Generator.permutation`` only within a release (NEP 19), and a run may be resumed with another one.
    """
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(_EPOCHS, epoch)))
    return np.argsort(bits.random_raw(size), kind="stable")


class _Shuffled:
    """Position in the endless stream -> index in the source, by one permutation per epoch."""

    def __init__(self, size: int, seed: int):
        self._size, self._seed = size, seed
        self._epochs: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        epochs, places = np.divmod(positions, self._size)
        indices = np.empty_like(positions)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            chosen = epochs == epoch
            indices[chosen] = self._permutation(epoch)[places[chosen]]
        return indices

    def _permutation(self, epoch: int) -> np.ndarray:
        # Readers are a few batches apart, so two epochs are in use at once near a boundary.
        with self._lock:
            if epoch not in self._epochs:
                self._epochs[epoch] = permutation(self._size, seed=self._seed, epoch=epoch)
                if len(self._epochs) > 2:
                    self._epochs.popitem(last=False)
            return self._epochs[epoch]

    def __reduce__(self):
        return _Shuffled, (self._size, self._seed)


def _repeated(positions: np.ndarray, *, size: int) -> np.ndarray:
    """Position in the endless stream -> index in the source, in the source's order."""
    return positions % size


def _once(positions: np.ndarray, *, size: int) -> np.ndarray:
    """Position -> index in the source's order; positions beyond the end (padding) read the last sample."""
    return np.minimum(positions, size - 1)


def training_order(size: int, *, seed: int) -> Callable[[Int[np.ndarray, " b"]], Int[np.ndarray, " b"]]:
    """Position in the endless stream of training samples, shuffled -> index in a source of ``size`` samples.

    What is not in the source, such as texts, is found by it.
    """
    return _Shuffled(size, seed)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Batches:
    """One process's batches: batch k is step ``start_step + k``. Read by threads, pickled for workers."""

    source: Source
    order: Callable[[np.ndarray], np.ndarray]
    batch_size: int
    share: tuple[int, int]
    seed: int
    start_step: int
    count: int
    transform: Transform | None
    masked: bool

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: SupportsIndex) -> Batch:
        first = (self.start_step + operator.index(index)) * self.batch_size
        positions = np.arange(first + self.share[0], first + self.share[1], dtype=np.int64)
        indices = self.order(positions)
        if isinstance(self.source, ArraySource) and self.transform is None:
            batch = self.source.rows(indices)
        else:
            batch = self._stacked(positions.tolist(), indices.tolist())
        if self.masked:
            if "mask" in batch:
                raise UserError(
                    'The samples have a field "mask", the name that marks padding in evaluation; rename it.'
                )
            batch["mask"] = positions < len(self.source)
        return batch

    def _stacked(self, positions: list[int], indices: list[int]) -> Batch:
        records = []
        for position, index in zip(positions, indices, strict=True):
            record = read(self.source, index)
            if self.transform is not None:
                sequence = np.random.SeedSequence(self.seed, spawn_key=(_POSITIONS, position))
                record = self.transform(record, np.random.Generator(np.random.Philox(sequence)))
            records.append({name: np.asarray(value) for name, value in record.items()})
            if not same_layout(records[-1], records[0]):
                raise UserError(
                    f"Samples {indices[0]} and {index} cannot be stacked into a batch: one has "
                    f"{layout(records[0])}, the other {layout(records[-1])}; pass a transform that crops "
                    "or pads to one shape."
                )
        return {name: np.stack([record[name] for record in records]) for name in records[0]}


def batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    shuffle: bool = True,
    transform: Transform | None = None,
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """Endless training batches of this process, from step ``start_step`` on.

    Args:
        source: at least one sample; after ``transform`` all must have equal shapes.
        batch_size: the global batch size; each process gets ``batch_size / process_count`` samples.
        seed: not negative; determines the order of every epoch and the randomness of ``transform``.
        start_step: the step of the first batch, which is bit-identical to the batch of this step in any other run.
        process_index: index of this process, from 0.
        process_count: how many processes share a global batch.
        shuffle: use a new permutation in each epoch; otherwise the source's order, repeatedly.
        transform: (record, rng) -> record on the host, where ``rng`` is a function of only (seed, position).
        workers: number of worker processes; 0 reads with threads of this process. More than 0 needs a main module
            guarded by ``if __name__ == "__main__"``, and a source and a transform that can be pickled. Arrays in memory
            without a transform are always gathered in this process, which is faster.

    Yields:
        batches; close or delete the iterator to stop its readers.

    Raises:
        UserError: immediately for invalid arguments; while reading, for a damaged sample (with its index and the cause)
            and for samples of different shapes.
    """
    share = _check(source, batch_size, process_index, process_count, workers)
    if seed < 0 or start_step < 0:
        raise UserError(f"seed and start_step must not be negative, got {seed} and {start_step}.")
    order = training_order(len(source), seed=seed) if shuffle else functools.partial(_repeated, size=len(source))
    numbered = _Batches(
        source=source,
        order=order,
        batch_size=batch_size,
        share=share,
        seed=seed,
        start_step=start_step,
        # Grain needs a length; this many steps are practically endless, and the positions still fit into int64.
        count=2**62 // batch_size - start_step,
        transform=transform,
        masked=False,
    )
    return _iterate(numbered, workers)


def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    transform: Transform | None = None,
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """Each sample once, in order, in ceil(n / batch_size) full batches, the same number for every process.

    The arguments are those of `batches`; ``transform`` should ignore its rng, which has seed 0. Every batch has the
    field "mask" bool [b], False on the padding of the last batch, which repeats the last sample.

    Raises:
        UserError: as for `batches`, and if the samples already have a field "mask".
    """
    share = _check(source, batch_size, process_index, process_count, workers)
    numbered = _Batches(
        source=source,
        order=functools.partial(_once, size=len(source)),
        batch_size=batch_size,
        share=share,
        seed=0,
        start_step=0,
        count=-(-len(source) // batch_size),
        transform=transform,
        masked=True,
    )
    return _iterate(numbered, workers)


def _check(source, batch_size, process_index, process_count, workers) -> tuple[int, int]:
    """Checks the arguments and returns this process's share [first, last) of every global batch."""
    if len(source) == 0:
        raise UserError("The data source is empty, so there are no batches.")
    if batch_size < 1 or workers < 0:
        raise UserError(f"batch_size must be positive and workers not negative, got {batch_size} and {workers}.")
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index is {process_index}, but must be from 0 to {process_count - 1}.")
    if batch_size % process_count:
        raise UserError(
            f"The global batch of {batch_size} cannot be divided equally among {process_count} processes; choose "
            f"a multiple of {process_count}."
        )
    local = batch_size // process_count
    return process_index * local, (process_index + 1) * local


def _iterate(numbered: _Batches, workers: int) -> Generator[Batch, None, None]:
    if isinstance(numbered.source, ArraySource) and numbered.transform is None:
        for number in range(len(numbered)):
            yield numbered[number]
        return

    # Importing Grain takes a second or two, which a run on arrays in memory does not need.
    import grain

    # A batch is one element to Grain, so that worker w makes batches w, w + workers, ... and Grain interleaves them in
    # order. Each thread holds one batch, so the number of threads also bounds the memory.
    threads = 2 if workers else min(16, 2 * (os.cpu_count() or 1))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    dataset = grain.MapDataset.source(numbered).to_iter_dataset(options)
    if workers:
        from absl import flags

        # Grain passes its debugging flags to the workers, and absl refuses access before it has parsed a command line,
        # which tyro does in this project.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    iterator = iter(dataset)
    try:
        for batch in iterator:
            # Batches from workers are views of shared memory that Grain reuses, so they are copied.
            yield {name: np.array(value) for name, value in batch.items()} if workers else batch
    finally:
        iterator.close()
