"""From a few options to a data set: the shapes world, a folder of images, or anything TFDS has prepared."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vision.data.folder import folder_source
from vision.data.shapes import ShapesConfig, ShapesSource
from vision.data.source import ArraySource, Source, in_memory
from vision.data.tfds import tfds_source
from vision.errors import UserError

Split = Literal["train", "test"]


@dataclass(frozen=True)
class DataConfig:
    """Which images."""

    name: str = "cifar10"
    """"shapes" (drawn, no download), "folder" (images below data.dir), or the name of a TFDS data set."""
    dir: Path = Path("~/tensorflow_datasets")
    """The folder of images, or where TFDS keeps its data sets; unused by shapes."""
    resolution: int = 32
    """Side of the images in pixels; images of a folder are resized and cropped to it."""
    train_split: str = "train"
    """TFDS split to train on."""
    test_split: str = "test"
    """TFDS split to evaluate on. Every tenth image of a folder is held out instead."""
    shapes: ShapesConfig = ShapesConfig()
    """The shapes world; its resolution is data.resolution."""
    shapes_count: int = 50_000
    """Number of training images of the shapes world."""


def open_dataset(config: DataConfig, split: Split, *, seed: int = 0) -> Source:
    """The source that ``config`` names; records have "image" uint8 and, where there are classes, "label".

    ``seed`` numbers the shapes worlds. Raises ``UserError`` with what to do when the data is not there.
    """
    if config.name == "shapes":
        size = config.shapes_count if split == "train" else 2_000
        shapes = replace(config.shapes, resolution=config.resolution)
        return ShapesSource(config=shapes, seed=seed, size=size, split=split)
    directory = config.dir.expanduser()
    if config.name == "folder":
        return _part(folder_source(directory, resolution=config.resolution), split)
    name = config.train_split if split == "train" else config.test_split
    return tfds_source(config.name, name, data_dir=directory)


def load_dataset(config: DataConfig, split: Split, *, seed: int = 0, fields: tuple[str, ...]) -> ArraySource:
    """The same, read into memory, with ``fields`` alone.

    Raises ``UserError`` when a field is missing or images are not of ``data.resolution``.
    """
    source = open_dataset(config, split, seed=seed)
    if isinstance(source, ShapesSource):
        return ArraySource(source.arrays(fields), source.class_names)
    loaded = in_memory(source)
    for field in fields:
        if field not in loaded.arrays:
            raise UserError(f"the data set {config.name} has no {field!r}, only {', '.join(loaded.arrays)}")
    side = loaded.arrays["image"].shape[1:3]
    if side != (config.resolution, config.resolution):
        raise UserError(
            f"the images of {config.name} have {side[0]}x{side[1]} pixels: set --data.resolution {side[0]}"
            if side[0] == side[1]
            else f"the images of {config.name} have {side[0]}x{side[1]} pixels and are not square"
        )
    return ArraySource({field: loaded.arrays[field] for field in fields}, loaded.class_names)


class _Part:
    """Every tenth sample, or the other nine: a split that does not depend on how many classes there are."""

    def __init__(self, source: Source, indices: range | list[int]):
        self._source, self._indices = source, indices

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._source.class_names

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int):
        return self._source[self._indices[index]]


def _part(source: Source, split: Split) -> Source:
    held_out = range(9, len(source), 10)
    if len(held_out) == 0:
        raise UserError(f"a folder needs at least 10 images, so that one can be held out; it has {len(source)}")
    return _Part(source, held_out if split == "test" else [i for i in range(len(source)) if i % 10 != 9])
