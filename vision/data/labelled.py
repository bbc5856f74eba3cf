"""Labelled images for recognition: any data set, complete or with some classes or few labels, in memory or streamed."""

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
from vision.data.folder import square
from vision.data.grey_levels import rgb
from vision.data.image_data import Data, HostBatch, process_share
from vision.data.pipeline import Transform, batches, evaluation_batches
from vision.data.source import Record, Source
from vision.data.subset import labels_per_class, of_classes
from vision.errors import UserError
from vision.home import expanded
from vision.inference import Preprocessing
from vision.ranges import NonNegativeInt, Pixels, PositiveFraction

FIELDS = ("image", "label")


@dataclass(frozen=True)
class LabelledConfig(DataConfig):
    """Which images to use, and how they are read; streamed ones are cropped at random on the host."""

    classes: tuple[str, ...] = ()
    """Names of the classes to keep, numbered in this order; empty for all."""
    labels_per_class: NonNegativeInt = 0
    """Train on only this many images per class, chosen by the run's seed; smaller sets are subsets of larger ones. 0
    for all."""
    crop_scale: tuple[PositiveFraction, PositiveFraction] = (0.08, 1.0)
    """Streaming: smallest and largest share of the area that the crop keeps."""
    test_resolution: Pixels = 224
    """Streaming: size in pixels of the images to evaluate on."""
    test_resize: Pixels = 256
    """Streaming: their shorter side before the centre is cropped."""

    @property
    def test_side(self) -> int:
        """Size in pixels of the images to evaluate on."""
        return self.test_resolution if self.stream else self.resolution


def labelled_source(config: LabelledConfig, split: Split, *, seed: int) -> Source:
    """Samples with "image" uint8 and "label" int32; unless streamed, in memory and without other fields.

    Args:
      config: which data set.
      split: "train" or "test"; ``labels_per_class`` applies only to the training split.
      seed: of the choice of labels.

    Raises:
      UserError: the data does not exist, has no classes, or not enough labels of a class; the class folders of test and
        training images differ; or the sizes of streamed test images are invalid.
    """
    if config.stream:
        crop.resize_centre_crop(
            config.test_resolution, resize=config.test_resize
        )  # so that invalid sizes are reported before training
    source = _unread(config, split)
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


def _unread(config: LabelledConfig, split: Split) -> Source:
    """All images of a split, read when they are asked for; streamed ones at about their original size."""
    return open_dataset(config, split, at_least=max(config.test_resize, config.resolution) if config.stream else None)


def training_batches(
    source: Source, config: LabelledConfig, *, batch_size: int, **share: Any
) -> Iterator[Mapping[str, np.ndarray]]:
    """Batches of :func:`vision.data.pipeline.batches`; streamed images are cropped on the host."""
    if not config.stream:
        return batches(source, batch_size=batch_size, **share)
    transform = functools.partial(
        _image_and_label, transform=crop.random_resized_crop(config.resolution, scale=config.crop_scale)
    )
    return batches(source, batch_size=batch_size, transform=transform, workers=config.workers, **share)


def labelled_evaluation_batches(
    source: Source, config: LabelledConfig, *, batch_size: int, **share: Any
) -> Iterator[Mapping[str, np.ndarray]]:
    """Batches of :func:`vision.data.pipeline.evaluation_batches`; the centre of streamed images is cropped."""
    if not config.stream:
        return evaluation_batches(source, batch_size=batch_size, **share)
    fitted = crop.resize_centre_crop(config.test_resolution, resize=config.test_resize)
    transform = functools.partial(_image_and_label, transform=fitted)
    return evaluation_batches(source, batch_size=batch_size, transform=transform, workers=config.workers, **share)


def fitted(image: Image.Image, config: LabelledConfig) -> UInt8[np.ndarray, "h w 3"]:
    """An upright image of any size and mode, prepared as for evaluation: RGB, of size ``config.test_side``."""
    if not config.stream:
        return square(image, config.resolution)
    transform = crop.resize_centre_crop(config.test_resolution, resize=config.test_resize)
    return transform({"image": np.asarray(rgb(image))}, np.random.default_rng(0))["image"]


def preprocessing(config: LabelledConfig) -> Preprocessing:
    """What :func:`fitted` does."""
    if not config.stream:
        return Preprocessing(
            resize="shorter side", side=config.resolution, interpolation="lanczos", fit="crop the centre"
        )
    return Preprocessing(
        resize="shorter side", side=config.test_resize, interpolation="bilinear", fit="crop the centre"
    )


def description(config: LabelledConfig, split: Split) -> str:
    """A description of the data, for protocols: "cifar10 (test), 32x32"."""
    side = config.test_side if split == "test" else config.resolution
    how, few = "", ""
    if config.stream and split == "test":
        how = f"shorter side to {config.test_resize} (bilinear, antialiased), centre "
    elif config.stream:
        how = "random resized crops of "
    if config.labels_per_class and split == "train":
        few = f", {config.labels_per_class} images per class"
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
        test_batches=lambda size: labelled_evaluation_batches(
            opened("test", own_seed), config, batch_size=size, **process_share()
        ),
        description=functools.partial(description, config),
        class_names=lambda: tuple(opened("test", own_seed).class_names),
        content=lambda split: content_of(_unread(config, split)),
    )


def _check_folders(config: LabelledConfig, found: tuple[str, ...]) -> None:
    """Raise ``UserError`` if the classes of the test folder differ from those of an existing training folder."""
    root = expanded(config.dir)
    if config.test_dir is None or not root.is_dir():
        return
    known = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if known != found:
        odd = sorted(set(known) ^ set(found))
        where = config.dir if odd[0] in known else config.test_dir
        raise UserError(
            f"the folders of classes in {config.dir} and {config.test_dir} differ: {odd[0]} is only in {where}"
        )


def _image_and_label(record: Record, rng: np.random.Generator, *, transform: Transform) -> Record:
    """Only image and label, since other fields may differ in shape between samples."""
    return transform({name: record[name] for name in FIELDS}, rng)
