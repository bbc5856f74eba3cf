"""The data of an experiment: what one sample is, where batches come from, and the words for protocols.

Opening a data set may take long or fail, so nothing is read before a source or a batch is asked for, and each split is
read once.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from vision.data.content import content_of
from vision.data.dataset import (
    DataConfig,
    Split,
    check_channels,
    check_classes,
    load_dataset,
    named_split,
    open_dataset,
)
from vision.data.fitted import FittedSource
from vision.data.pipeline import batches, evaluation_batches
from vision.data.source import ArraySource, Source
from vision.errors import UserError
from vision.types import Content

HostBatch = Mapping[str, np.ndarray]


@runtime_checkable
class TrainBatches(Protocol):
    """Endless training batches; a batch is a function of (seed, step) and the process's share."""

    def __call__(
        self, batch_size: int, *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[HostBatch]:
        """The process's share of the batches of steps start_step, start_step + 1, ..., with the fields of a sample."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """The training and test images of an experiment."""

    sample: Mapping[str, jax.ShapeDtypeStruct]
    """Shape and dtype of each field of one sample as it enters the training step, without a batch axis."""
    source: Callable[[Split], Source]
    """Opens a split; raises ``UserError`` where it is missing or does not fit the model."""
    train_batches: TrainBatches
    test_batches: Callable[[int], Iterator[HostBatch]]
    """Global batch size -> this process's share of the test images, each once, in order, with "mask" bool [b], which is
    False on the padding of the last batch."""
    description: Callable[[Split], str]
    """A split in words, for protocols: "cifar10 (test), 32x32"."""
    class_names: Callable[[], tuple[str, ...]]
    """Reads the names of the classes; empty for data without labels."""
    content: Callable[[Split], Content]
    """The identity of a split, wherever it lies."""

    def batch(self, size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of a global batch."""
        return {name: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype) for name, leaf in self.sample.items()}


def process_share() -> dict[str, Any]:
    """The keywords that name this process's share of a batch."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def image_data(
    config: DataConfig,
    *,
    classes: int,
    channels: int,
    change: Callable[[np.ndarray, Split], np.ndarray] | None = None,
) -> Data:
    """Images in memory or streamed, with "label" in the batches of a model that has classes.

    Sources keep the labels of data that has them, whatever the model.

    Args:
      config: which images.
      classes: of the model; 0 for one without labels.
      channels: of the model.
      change: (images uint8 [n h w c], split) -> images, once, when they are read.

    Raises ``UserError`` where images are to be streamed and cannot be; and its functions, where the data is missing, or
    has other classes, channels or sizes.
    """
    if config.stream:
        if change is not None or channels != 3:
            raise UserError("data.stream is for colour images that are taken as they are: leave it out")
        return _streamed(config, classes)
    fields = ("image", "label") if classes else ("image",)

    @functools.cache
    def source(split: Split) -> ArraySource:
        labelled = classes > 0 or bool(open_dataset(config, split).class_names)
        loaded = load_dataset(config, split, fields=("image", "label") if labelled else ("image",))
        if classes:
            check_classes(loaded, classes, otherwise=", or 0 to train without labels")
        check_channels(loaded, channels)
        if change is None:
            return loaded
        arrays = loaded.arrays
        return ArraySource({**arrays, "image": change(arrays["image"], split)}, loaded.class_names)

    def chosen(split: Split) -> ArraySource:
        return source(split).only(fields)

    def train_batches(
        batch_size: int, *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[HostBatch]:
        share: dict[str, Any] = {"process_index": process_index, "process_count": process_count}
        return batches(chosen("train"), batch_size=batch_size, seed=seed, start_step=start_step, **share)

    return Data(
        sample=_sample(config, classes, channels),
        source=source,
        train_batches=train_batches,
        test_batches=lambda size: evaluation_batches(chosen("test"), batch_size=size, **process_share()),
        description=lambda split: f"{named_split(config, split)}, {config.resolution}x{config.resolution}",
        class_names=lambda: tuple(open_dataset(config, "train").class_names),
        content=lambda split: content_of(open_dataset(config, split)),
    )


def _sample(config: DataConfig, classes: int, channels: int) -> dict[str, jax.ShapeDtypeStruct]:
    sample = {"image": jax.ShapeDtypeStruct((config.resolution, config.resolution, channels), jnp.uint8)}
    return {**sample, "label": jax.ShapeDtypeStruct((), jnp.int32)} if classes else sample


def _streamed(config: DataConfig, classes: int) -> Data:
    """The same with images that are decoded when a batch needs them, as squares of the resolution."""
    fields = ("image", "label") if classes else ("image",)

    @functools.cache
    def source(split: Split) -> FittedSource:
        opened = open_dataset(config, split)
        if classes:
            check_classes(opened, classes, otherwise=", or 0 to train without labels")
        labelled = classes > 0 or bool(opened.class_names)
        return FittedSource(opened, config.resolution, ("image", "label") if labelled else ("image",))

    def chosen(split: Split) -> FittedSource:
        return FittedSource(source(split).source, config.resolution, fields)

    def train_batches(
        batch_size: int, *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[HostBatch]:
        share: dict[str, Any] = {"process_index": process_index, "process_count": process_count}
        how: dict[str, Any] = {"seed": seed, "start_step": start_step, "workers": config.workers, **share}
        return batches(chosen("train"), batch_size=batch_size, **how)

    def test_batches(size: int) -> Iterator[HostBatch]:
        return evaluation_batches(chosen("test"), batch_size=size, workers=config.workers, **process_share())

    return Data(
        sample=_sample(config, classes, 3),
        source=source,
        train_batches=train_batches,
        test_batches=test_batches,
        description=lambda split: f"{named_split(config, split)}, {config.resolution}x{config.resolution}",
        class_names=lambda: tuple(open_dataset(config, "train").class_names),
        content=lambda split: content_of(open_dataset(config, split)),
    )
