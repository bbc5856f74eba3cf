"""Parts of a source: some of its classes, or a few labels per class.

The choice depends only on the labels. `labels_of` reads them without decoding images where the source allows it;
otherwise it reads every sample once. Arrays in memory are indexed; any other source is read through a list of indices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from vision.data.folder import FolderSource
from vision.data.shapes.world import ShapesSource
from vision.data.source import BLOCK, ArraySource, BlockSource, Record, Source, in_blocks, read
from vision.errors import UserError


@dataclass(frozen=True, eq=False)
class Subset:
    """Some samples of a source, in the order of ``indices``, optionally with renumbered classes."""

    source: Source
    """The underlying source."""
    indices: Int[np.ndarray, " n"]
    """Sample i is sample indices[i] of ``source``."""
    class_names: tuple[str, ...]
    """Element i is the name of class i."""
    relabelled: Mapping[int, int] | None = None
    """The new number of each label of ``source``; None leaves labels as they are."""

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._renumbered(self.source[int(self.indices[index])])

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        """Several samples at once, as fast as ``source`` reads them."""
        if not isinstance(self.source, BlockSource):
            return [self[index] for index in indices]
        if not all(0 <= index < len(self) for index in indices):
            raise IndexError(f"an index is outside [0, {len(self)})")
        records = self.source.__getitems__([int(self.indices[index]) for index in indices])
        return [self._renumbered(record) for record in records]

    def _renumbered(self, record: Record) -> Record:
        if self.relabelled is None:
            return record
        return {**record, "label": np.asarray(self.relabelled[int(record["label"])], np.int32)}


def labels_of(source: Source) -> Int[np.ndarray, " n"]:
    """The label of every sample, int32.

    Arrays in memory, folders of images, the shapes world and subsets of them provide labels without images. For any
    other source every sample is read and decoded once, by a few threads; keep the result for a large one.

    Raises:
        UserError: the samples have no "label", or one cannot be read.
    """
    match source:
        case ArraySource() if "label" in source.arrays:
            return np.asarray(source.arrays["label"], np.int32)
        case FolderSource() if source.labels is not None:
            return np.asarray(source.labels, np.int32)
        case ShapesSource():
            return np.asarray(source.arrays(("label",))["label"], np.int32)
        case Subset():
            labels = labels_of(source.source)[source.indices]
            if source.relabelled is None:
                return labels
            return np.array([source.relabelled[int(label)] for label in labels], np.int32)
    return _scanned(source)


def of_classes(
    source: Source,
    classes: Sequence[int | str],
    *,
    relabel: bool = True,
    labels: Int[np.ndarray, " n"] | None = None,
) -> Source:
    """The samples of some classes, in the source's order.

    Args:
        source: with labels.
        classes: distinct numbers or names of classes.
        relabel: renumber the classes in the order of ``classes``, from 0, with their names in that order; otherwise
            labels and names are those of ``source``.
        labels: the labels of ``source``, if they are known already; see `labels_of`.

    Raises:
        UserError: there are no classes, or a class does not exist, is repeated or has no samples.
    """
    labels = labels_of(source) if labels is None else labels
    names = tuple(source.class_names)
    numbers = [_number(each, names, labels) for each in classes]
    if not numbers:
        raise UserError("a subset of no classes has no samples: name at least one class")
    if len(set(numbers)) < len(numbers):
        raise UserError(f"a class of the subset is named twice: {', '.join(map(str, classes))}")
    for number in numbers:
        if not (labels == number).any():
            raise UserError(f"class {_named(number, names)} has no samples in this source: leave it out")
    indices = np.flatnonzero(np.isin(labels, numbers))
    if not relabel:
        return _cut(source, indices, names, None)
    chosen = tuple(names[number] for number in numbers) if names else ()
    return _cut(source, indices, chosen, {number: new for new, number in enumerate(numbers)})


def labels_per_class(source: Source, count: int, *, seed: int, labels: Int[np.ndarray, " n"] | None = None) -> Source:
    """``count`` samples of every class, sampled at random, in the source's order.

    Each class has its own order, a function of (seed, class, number of its samples), of which the first ``count`` are
    taken. So the subset is reproducible, balanced, and nested: with the same seed, 10 labels per class are a subset of
    50.

    Args:
        source: with labels; its classes are those of ``class_names``, or the labels that occur if there are no names.
        count: samples per class, at least 1.
        seed: not negative; another seed selects other samples.
        labels: the labels of ``source``, if they are known already; see `labels_of`.

    Raises:
        UserError: a class has fewer than ``count`` samples, or an argument is invalid.
    """
    if count < 1 or seed < 0:
        raise UserError(
            f"labels_per_class needs a count of at least 1 and a seed of at least 0, not {count} and {seed}"
        )
    labels = labels_of(source) if labels is None else labels
    names = tuple(source.class_names)
    present = range(len(names)) if names else [int(label) for label in np.unique(labels)]
    chosen = []
    for label in present:
        own = np.flatnonzero(labels == label)
        if len(own) < count:
            raise UserError(
                f"class {_named(label, names)} has {len(own)} samples, fewer than the requested {count}: request "
                f"at most {len(own)}, or leave the class out"
            )
        # Sorts raw numbers, since numpy guarantees their stream forever, but that of `permutation` only within a
        # release
        bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(label,)))
        chosen.append(own[np.argsort(bits.random_raw(len(own)), kind="stable")[:count]])
    return _cut(source, np.sort(np.concatenate(chosen)), names, None)


def _cut(
    source: Source, indices: Int[np.ndarray, " n"], names: tuple[str, ...], relabelled: Mapping[int, int] | None
) -> Source:
    if not isinstance(source, ArraySource):
        return Subset(source, indices, names, relabelled)
    arrays = {name: array[indices] for name, array in source.arrays.items()}
    if relabelled is not None:
        table = np.zeros(max(relabelled) + 1, np.int32)
        table[list(relabelled)] = list(relabelled.values())
        arrays["label"] = table[arrays["label"]]
    return ArraySource(arrays, names)


def _number(name: int | str, names: tuple[str, ...], labels: Int[np.ndarray, " n"]) -> int:
    if isinstance(name, str):
        if name not in names:
            shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
            raise UserError(f"there is no class {name!r}, only {shown or 'classes without names'}")
        return names.index(name)
    size = len(names) or int(labels.max(initial=-1)) + 1
    if not 0 <= name < size:
        raise UserError(f"there is no class {name}, only 0 to {size - 1}")
    return name


def _named(number: int, names: tuple[str, ...]) -> str:
    return f"{number} ({names[number]})" if names else str(number)


def _scanned(source: Source) -> Int[np.ndarray, " n"]:
    labels = np.empty(len(source), np.int32)

    def fill(start: int) -> None:
        for index in range(start, min(start + BLOCK, len(source))):
            record = read(source, index)
            if "label" not in record:
                raise UserError(
                    f"sample {index} has no label, only {', '.join(sorted(record))}: "
                    "a subset needs a source with labels"
                )
            labels[index] = record["label"]

    in_blocks(len(source), fill)
    return labels
