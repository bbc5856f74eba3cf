"""Data sets from a few options: the shapes world, a folder of images, or anything that TFDS has prepared.

To add one: a function that opens it, and an entry of :data:`DATA_SETS`.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool

from vision.data.folder import FolderSource, check_images, folder_source
from vision.data.image_file import MAX_PIXELS
from vision.data.notices import notice
from vision.data.shapes.world import ShapesConfig, ShapesSource
from vision.data.source import ArraySource, Source, in_memory
from vision.data.subset import Subset
from vision.data.tfds import tfds_source
from vision.errors import UserError
from vision.home import expanded
from vision.ranges import ImageArea, NonNegativeInt, Pixels, PositiveInt

Split = Literal["train", "test"]


@dataclass(frozen=True)
class DataConfig:
    """Which data set to use."""

    name: str = "cifar10"
    """A name of DATA_SETS, "shapes" (rendered, no download) or "folder" (images below data.dir), or of TFDS."""
    dir: Path = Path("~/tensorflow_datasets")
    """The folder of images, or where TFDS keeps its data sets; unused by shapes."""
    resolution: Pixels = 32
    """Side of the images in pixels; images of a folder are resized and cropped to it."""
    train_split: str = "train"
    """TFDS split to train on."""
    test_split: str = "test"
    """TFDS split to evaluate on."""
    test_dir: Path | None = None
    """Folders: the folder of images to evaluate on; if not set, about a tenth of the images is held out, chosen by
    their names, so that images that are added later never move others between training and test."""
    skip_damaged: bool = False
    """Folders: decode all files first, and leave out and report those that cannot be decoded."""
    max_pixels: ImageArea = MAX_PIXELS
    """Files: largest width times height of an image; decoding takes up to 24 bytes of memory for each pixel."""
    stream: bool = False
    """Leave the images on disk, and decode those of a batch when it is needed, instead of holding all in memory."""
    workers: NonNegativeInt = 0
    """Streaming: number of worker processes that decode; 0 for threads of the main process."""
    shapes: ShapesConfig = ShapesConfig()
    """The shapes world; its resolution is data.resolution."""
    shapes_count: PositiveInt = 50_000
    """Number of training images of the shapes world."""


@dataclass(frozen=True)
class DataSet:
    """How a data set is opened and described."""

    open: Callable[[DataConfig, Split, int, int | None], Source]
    """(config, split, seed, at_least) -> source, see :func:`open_dataset`."""
    describe: Callable[[DataConfig, Split], str]
    """(config, split) -> its description, for protocols: "mnist (test)"."""


def _open_shapes(config: DataConfig, split: Split, seed: int, at_least: int | None) -> Source:
    size = config.shapes_count if split == "train" else 2_000
    return ShapesSource(config=replace(config.shapes, resolution=config.resolution), seed=seed, size=size, split=split)


def _open_folder(config: DataConfig, split: Split, seed: int, at_least: int | None) -> Source:
    apart = config.test_dir is not None
    root = config.test_dir if config.test_dir is not None and split == "test" else config.dir
    resolution = None if at_least else config.resolution
    found = _folder(expanded(root), resolution, at_least, config.skip_damaged, config.max_pixels)
    return found if apart else held_out_by_name(found, expanded(root), split)


def _describe_folder(config: DataConfig, split: Split) -> str:
    if config.test_dir is not None:
        return f"{config.test_dir if split == 'test' else config.dir}"
    return f"{config.dir}, {'a tenth of the images' if split == 'test' else 'all but a tenth of the images'}, by name"


def _tfds_split(config: DataConfig, split: Split) -> str:
    return config.test_split if split == "test" else config.train_split


_TFDS = DataSet(
    lambda config, split, seed, at_least: tfds_source(
        config.name, _tfds_split(config, split), data_dir=expanded(config.dir), max_pixels=config.max_pixels
    ),
    lambda config, split: f"{config.name} ({_tfds_split(config, split)})",
)

DATA_SETS: Mapping[str, DataSet] = {
    "shapes": DataSet(_open_shapes, lambda config, split: f"the shapes world ({split})"),
    "folder": DataSet(_open_folder, _describe_folder),
}
"""Data sets by name (``--data.name``); any other name is one that TFDS has prepared."""


def named_split(config: DataConfig, split: Split) -> str:
    """A description of a split, for protocols: "mnist (test)"."""
    return DATA_SETS.get(config.name, _TFDS).describe(config, split)


def open_dataset(config: DataConfig, split: Split, *, seed: int = 0, at_least: int | None = None) -> Source:
    """The source that ``config`` names; records have "image" uint8 and, where there are classes, "label".

    Args:
      config: which data set.
      split: images of a folder are divided by their position only, independently of classes.
      seed: of the shapes world.
      at_least: leave the images of a folder at their original size, or at a half, a quarter or an eighth of it whose
        shorter side has at least this many pixels, to be cropped on the host. Images of TFDS always have their original
        size.

    Raises ``UserError`` with instructions if the data does not exist.
    """
    return DATA_SETS.get(config.name, _TFDS).open(config, split, seed, at_least)


def load_dataset(config: DataConfig, split: Split, *, seed: int = 0, fields: tuple[str, ...]) -> ArraySource:
    """The same data, read into memory, with only ``fields``.

    Raises ``UserError`` if a field is missing or images do not have the size ``data.resolution``.
    """
    source = open_dataset(config, split, seed=seed)
    if isinstance(source, ShapesSource):
        return source.in_memory(fields)
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


def check_classes(source: Source, classes: int, *, option: str = "--model.classes", otherwise: str = "") -> None:
    """Raise ``UserError`` unless the data has this number of classes.

    Args:
      source: the data.
      classes: of the model.
      option: sets them.
      otherwise: is appended to the advice: ", or 0 to train without labels".
    """
    found = len(source.class_names)
    if found != classes:
        raise UserError(f"the data has {found} classes and the model {classes}: set {option} {found}{otherwise}")


def check_channels(source: Source, channels: int) -> None:
    """Raise ``UserError`` unless the images of the data have this number of channels."""
    found = source[0]["image"].shape[-1]
    if found != channels:
        raise UserError(f"the images have {found} channels and the model {channels}: set --model.channels {found}")


@functools.cache  # both splits are parts of one folder, whose files need to be listed only once
def _folder(
    root: Path, resolution: int | None, shorter_side: int | None, skip_damaged: bool, max_pixels: int
) -> FolderSource:
    source = folder_source(root, resolution=resolution, shorter_side=shorter_side, max_pixels=max_pixels)
    if skip_damaged:
        source, report = check_images(source)
        if report.damaged:
            notice(str(report))
    return source


def is_held_out(name: str) -> bool:
    """Whether an image is a test image: one of ten, as a hash of its path below the folder says."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest) % 10 == 0


def held_out_mask(names: Sequence[str], root: Path) -> Bool[np.ndarray, " n"]:
    """Whether each image is a test image.

    Args:
      names: paths below ``root``, with /.
      root: the folder, for messages.

    Raises:
      UserError: a split has no image.
    """
    test = np.array([is_held_out(name) for name in names], bool)
    if not test.any() or test.all():
        raise UserError(
            f"of the {len(test)} images in {root} the names of {'all' if test.any() else 'none'} choose them as test "
            "images: add images, or set --data.test-dir"
        )
    return test


def held_out_by_name(source: FolderSource, root: Path, split: Split) -> Subset:
    """The images of a split, which is a function of each file's path below ``root`` and of nothing else.

    Classes without an image in either split are reported on stderr.

    Raises:
      UserError: a split has no image.
    """
    test = held_out_mask([file.relative_to(root).as_posix() for file in source.files], root)
    for name, part in (("training", ~test), ("test", test)):
        present = set() if source.labels is None else set(source.labels[part].tolist())
        missing = [each for index, each in enumerate(source.class_names) if index not in present]
        if missing:
            notice(f"of the classes in {root} these have no {name} image: {', '.join(missing)}")
    return Subset(source, np.flatnonzero(test if split == "test" else ~test), tuple(source.class_names))
