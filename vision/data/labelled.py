"""Labelled images for recognition: any data set, all of it or some classes or few labels, in memory or streamed."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vision.data import crop
from vision.data.dataset import (
    DataConfig,
    Split,
    check_channels,
    check_classes,
    load_dataset,
    named_split,
    open_dataset,
)
from vision.data.folder import rgb, square
from vision.data.image_data import Data, HostBatch, process_share
from vision.data.pipeline import Transform, batches, evaluation_batches
from vision.data.source import Record, Source
from vision.data.subset import labels_per_class, of_classes
from vision.errors import UserError

FIELDS = ("image", "label")


@dataclass(frozen=True)
class LabelledConfig(DataConfig):
    """Which images, and how they are read."""

    classes: tuple[str, ...] = ()
    """Names of the classes to keep, numbered in this order; all if there are none."""
    labels_per_class: int = 0
    """Train on so many images a class alone, chosen by the run's seed, the fewer among the more; 0 for all."""
    stream: bool = False
    """Decode images while training, with a random resized crop on the host, instead of holding the set in memory."""
    workers: int = 0
    """Streaming: processes that decode; 0 for threads of this one."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Streaming: smallest and largest share of the area that the crop keeps."""
    test_resolution: int = 224
    """Streaming: side in pixels of the images that are evaluated on."""
    test_resize: int = 256
    """Streaming: their shorter side before the centre is cut out."""

    @property
    def test_side(self) -> int:
        """Side in pixels of the images that are evaluated on."""
        return self.test_resolution if self.stream else self.resolution


def labelled_source(config: LabelledConfig, split: Split, *, seed: int) -> Source:
    """Samples with "image" uint8 and "label" int32; in memory, with nothing else, unless streamed.

    Args:
      config: which.
      split: "train" or "test"; few labels are of the training split alone.
      seed: of the choice of few labels.

    Raises:
      UserError: the data is not there, has no classes, or not enough labels of one; the folders of test images are
        others than those of training images; or the sides of streamed test images cannot hold.
    """
    at_least = None
    if config.stream:
        crop.resize_centre_crop(config.test_resolution, resize=config.test_resize)  # better refused before training
        at_least = max(config.test_resize, config.resolution)
    source = open_dataset(config, split, at_least=at_least)
    if not source.class_names:
        raise UserError(f"the data set {config.name} in {config.dir} has no classes to learn")
    if config.name == "folder" and split == "test" and not config.classes:
        _check_folders(config, tuple(source.class_names))
    if not config.stream:
        source = load_dataset(config, split, fields=FIELDS)
    if config.classes:
        source = of_classes(source, config.classes)
    if config.labels_per_class and split == "train":
        source = labels_per_class(source, config.labels_per_class, seed=seed)
    return source


def training_batches(
    source: Source, config: LabelledConfig, *, batch_size: int, **share: Any
) -> Iterator[Mapping[str, np.ndarray]]:
    """Batches of :func:`vision.data.pipeline.batches`; streamed images are cropped on the host."""
    if not config.stream:
        return batches(source, batch_size=batch_size, **share)
    transform = functools.partial(
        _alone, transform=crop.random_resized_crop(config.resolution, scale=config.crop_scale)
    )
    return batches(source, batch_size=batch_size, transform=transform, workers=config.workers, **share)


def test_batches(
    source: Source, config: LabelledConfig, *, batch_size: int, **share: Any
) -> Iterator[Mapping[str, np.ndarray]]:
    """Batches of :func:`vision.data.pipeline.evaluation_batches`; of streamed images the centre is cut out."""
    if not config.stream:
        return evaluation_batches(source, batch_size=batch_size, **share)
    fitted = crop.resize_centre_crop(config.test_resolution, resize=config.test_resize)
    transform = functools.partial(_alone, transform=fitted)
    return evaluation_batches(source, batch_size=batch_size, transform=transform, workers=config.workers, **share)


def fitted(image: Image.Image, config: LabelledConfig) -> UInt8[np.ndarray, "h w 3"]:
    """An image of any size and kind as those of a folder are evaluated on: RGB, ``config.test_side`` pixels a side."""
    if not config.stream:
        return square(image, config.resolution)
    transform = crop.resize_centre_crop(config.test_resolution, resize=config.test_resize)
    return transform({"image": np.asarray(rgb(image))}, np.random.default_rng(0))["image"]


def description(config: LabelledConfig, split: Split) -> str:
    """The data in words, for protocols: "cifar10 (test), 32x32"."""
    side = config.test_side if split == "test" else config.resolution
    how, few = "", ""
    if config.stream and split == "test":
        how = f"shorter side to {config.test_resize} (bilinear, antialiased), centre "
    elif config.stream:
        how = "random resized crops of "
    if config.labels_per_class and split == "train":
        few = f", {config.labels_per_class} images a class"
    some = f", classes {', '.join(config.classes)}" if config.classes else ""
    return f"{named_split(config, split)}, {how}{side}x{side}{some}{few}"


def labelled_data(config: LabelledConfig, *, classes: int, channels: int, seed: int) -> Data:
    """The data of a classifier, see :class:`vision.data.image_data.Data`; samples have "image" and "label".

    Args:
      config: which images.
      classes: of the model.
      channels: of the model.
      seed: of the choice of few labels. Replicas of a run share all images; of few labels each has its own.

    Raises (its functions): ``UserError`` where the data is missing or does not fit the model.
    """

    @functools.cache
    def opened(split: Split, seed: int) -> Source:
        source = labelled_source(config, split, seed=seed)
        check_classes(source, classes)
        check_channels(source, channels)
        return source

    def train_batches(
        batch_size: int, *, seed: int, start_step: int, process_index: int, process_count: int
    ) -> Iterator[HostBatch]:
        source = opened("train", seed if config.labels_per_class else own_seed)
        share = {"process_index": process_index, "process_count": process_count}
        return training_batches(source, config, batch_size=batch_size, seed=seed, start_step=start_step, **share)

    own_seed, size = seed, config.resolution
    return Data(
        sample={
            "image": jax.ShapeDtypeStruct((size, size, channels), jnp.uint8),
            "label": jax.ShapeDtypeStruct((), jnp.int32),
        },
        source=lambda split: opened(split, own_seed),
        train_batches=train_batches,
        test_batches=lambda size: test_batches(opened("test", own_seed), config, batch_size=size, **process_share()),
        description=functools.partial(description, config),
        class_names=lambda: tuple(opened("test", own_seed).class_names),
    )


def _check_folders(config: LabelledConfig, found: tuple[str, ...]) -> None:
    """Whether the test folder has the classes of the training folder, as far as that is at hand."""
    root = config.dir.expanduser()
    if config.test_dir is None or not root.is_dir():
        return
    known = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if known != found:
        odd = sorted(set(known) ^ set(found))
        where = config.dir if odd[0] in known else config.test_dir
        raise UserError(
            f"the folders of classes in {config.dir} and {config.test_dir} differ: {odd[0]} is in {where} alone"
        )


def _alone(record: Record, rng: np.random.Generator, *, transform: Transform) -> Record:
    """Image and label alone, since whatever else a data set has may differ in shape from sample to sample."""
    return transform({name: record[name] for name in FIELDS}, rng)
