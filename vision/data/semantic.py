"""Images with a class for every pixel: the shapes world, a folder, a set of TFDS, PASCAL VOC, Cityscapes or ADE20K.

Samples have equal shapes: an image lies in the upper left corner of a canvas, at its own size or, where it is larger,
reduced until it fits. The rest of the canvas is grey, and void in the mask. The ground truth of evaluation is the mask
at its own size.
"""

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval
from jaxtyping import Int, UInt8
from PIL import Image

from vision.data.annotations.index_masks import (
    MAX_CLASSES,
    VOID,
    Colour,
    MaskRules,
    class_table,
)
from vision.data.annotations.semantic_files import (
    ADE20K_CLASSES,
    CITYSCAPES,
    VOC,
    Pair,
    ade20k_pairs,
    ade20k_rules,
    cityscapes_pairs,
    cityscapes_rules,
    folder_pairs,
    voc_pairs,
    voc_rules,
)
from vision.data.dataset import Split, is_held_out
from vision.data.image_file import MAX_PIXELS, opened
from vision.data.masked_images import FileImages, MaskedImages, Size, TfdsImages, check_mask_feature
from vision.data.on_demand import OnDemandSource
from vision.data.shapes.world import ShapesConfig, ShapesSource
from vision.data.source import Record, Source, in_memory
from vision.data.tfds import tfds_source
from vision.errors import UserError
from vision.home import expanded
from vision.ranges import ImageArea, NonNegativeInt, Pixels, PositiveInt, check_ranges

PAD = (124, 116, 104)
"""Colour of a canvas where there is no image: ImageNet's mean."""
FIELDS = ("image", "semantic", "size")
SHAPES_TEST = 1_000
"""Scenes of the shapes world to evaluate on."""


@dataclass(frozen=True)
class SemanticConfig:
    """Which images and masks to use, and how they are read."""

    name: Literal["shapes", "folder", "tfds", "voc", "cityscapes", "ade20k"] = "shapes"
    """"shapes" (rendered, no download), "folder" (images and masks of equal names), "tfds" (prepared by TensorFlow
    Datasets in array_record form), or a data set in its own layout."""
    dir: Path = Path("data")
    """Folder that all other paths are relative to; unused by shapes. The folder in which TFDS has prepared its sets."""
    train: str = "train"
    """Sub-folder to train on, VOC's list of names, or a split of TFDS such as "train[:80%]". For "folder" it has
    ``images`` and ``masks``; without such a sub-folder these are in ``dir`` itself, and one of ten images, by the hash
    of its name, is a test image."""
    test: str = "test"
    """Sub-folder to evaluate on, VOC's list of names, or a split of TFDS."""
    images: str = "images"
    """Folder: name of the folders of images."""
    masks: str = "masks"
    """Folder: name of the folders of masks, PNG files with the names of the images."""
    tfds: str = ""
    """TFDS: name of the set, such as "oxford_iiit_pet" or "oxford_iiit_pet:4.0.0"."""
    image_feature: str = "image"
    """TFDS: feature with the image."""
    mask_feature: str = "segmentation_mask"
    """TFDS: feature with the mask, an image of one channel."""
    classes: str = "classes.txt"
    """Folder and TFDS: file in ``dir`` with a class a line, "road", or with its colour in RGB masks, "road 128 64 128".
    Without the file, classes are the values of the masks, from ``first`` to the largest that is not void."""
    first: Annotated[int, Interval(ge=0, le=65_535)] = 0
    """Folder and TFDS: value of the first class in the masks; the next values are the next classes."""
    void: tuple[NonNegativeInt, ...] = (VOID,)
    """Folder and TFDS: values of masks that mean "no class", also where they are among those of the classes."""
    height: Pixels = 512
    """Height of the canvas in pixels."""
    width: Pixels = 512
    """Width of the canvas in pixels."""
    overfit_images: NonNegativeInt = 0
    """Train and evaluate on only the first this many training images, to overfit on purpose. 0 for all."""
    stream: bool = False
    """Decode images during training instead of holding the data set in memory."""
    workers: NonNegativeInt = 0
    """Streaming: number of worker processes that decode; 0 for threads of the main process."""
    max_pixels: ImageArea = MAX_PIXELS
    """Largest width times height of an image; decoding takes up to 24 bytes of memory for each pixel."""
    shapes: ShapesConfig = ShapesConfig()
    """The shapes world, at the resolution of the canvas, which is square. Classes are the background and the shapes."""
    shapes_count: PositiveInt = 10_000
    """Number of training images of the shapes world."""

    def __post_init__(self):
        check_ranges(self)
        if self.name == "shapes" and self.height != self.width:
            raise UserError(f"scenes of the shapes world are square, not {self.height}x{self.width}: give both sides")
        if self.name == "tfds" and not self.tfds:
            raise UserError("which set of TFDS is not said: give --data.tfds, such as oxford_iiit_pet")


@dataclass(frozen=True, eq=False)
class MaskedSource:
    """Images and masks as samples, decoded when they are asked for.

    A sample has "image" uint8 [H W 3], "semantic" uint8 [H W] (`VOID` without a class) and "size" int32 [2], the height
    and width that the image has in the canvas. With ``truth``, "truth" uint8 [TH TW] and "truth_size" int32 [2] too:
    the mask at its own size in a canvas of ``truth``, void outside.
    """

    images: MaskedImages
    """Images and their masks."""
    class_names: tuple[str, ...]
    """One for each class."""
    canvas: Size
    """Height and width of the samples in pixels."""
    truth: Size | None = None
    """Height and width of a canvas for the masks at their own sizes; None without."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, mask = self.images.read(index)
        height, width = fitted_size((image.height, image.width), self.canvas)
        reduced = mask
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
            reduced = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        record = {
            "image": placed(np.asarray(image), self.canvas, PAD),
            "semantic": placed(reduced, self.canvas, VOID),
            "size": np.array([height, width], np.int32),
        }
        if self.truth is not None:
            record |= {"truth": placed(mask, self.truth, VOID), "truth_size": np.array(mask.shape, np.int32)}
        return record


def fitted_size(size: Size, canvas: Size) -> Size:
    """The size (height, width) that an image has in the canvas: its own, or the largest of its shape that fits."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1], 1.0)
    height, width = (max(1, min(round(side * scale), most)) for side, most in zip(size, canvas, strict=True))
    return height, width


def placed(
    array: UInt8[np.ndarray, "h w ..."], canvas: Size, fill: int | tuple[int, ...]
) -> UInt8[np.ndarray, "H W ..."]:
    """An image or mask in the upper left corner of a canvas of (height, width)."""
    if array.shape[:2] == canvas:
        return np.ascontiguousarray(array)
    out = np.empty((*canvas, *array.shape[2:]), np.uint8)
    out[:] = np.asarray(fill, np.uint8)
    out[: array.shape[0], : array.shape[1]] = array
    return out


def semantic_source(config: SemanticConfig, split: Split, *, limit_bytes: int = 2 * 2**30) -> Source:
    """Samples of `MaskedSource` to train or evaluate on; in memory unless streamed, those of "test" with "truth".

    Args:
        config: which data set.
        split: "train" or "test"; with ``config.overfit_images`` both are the first training images.
        limit_bytes: maximum size in memory; 2 GiB by default.

    Raises:
        UserError: the data does not exist or does not follow its format (of a mask: raised when it is read, if
            streamed); or the data set needs more memory than the limit.
    """
    if config.name == "shapes":
        return _scenes(config, split)
    source = unread_source(config, split)
    if config.stream:
        return source
    extra = 0 if source.truth is None else source.truth[0] * source.truth[1]
    needed = len(source) * (4 * config.height * config.width + extra)
    if needed > limit_bytes:
        raise UserError(
            f"{len(source)} images of {config.height}x{config.width} need {needed / 2**30:.1f} GiB of memory, more "
            f"than the limit of {limit_bytes / 2**30:.1f} GiB: give --data.stream, or a smaller --data.height and "
            "--data.width."
        )
    return in_memory(source, limit_bytes=limit_bytes)


def unread_source(config: SemanticConfig, split: Split) -> MaskedSource:
    """The images of a split, decoded when they are asked for."""
    names, rules = _classes(config)
    images = _images(config, split, rules)
    truth = _truth_size(config) if split == "test" else None
    return MaskedSource(images, names, (config.height, config.width), truth)


def class_colours(config: SemanticConfig) -> tuple[Colour, ...]:
    """Colours of the classes that the data set itself has: of RGB masks, or of the palette of the first mask.

    Empty where there are none.
    """
    if config.name == "shapes":
        return ()
    _, rules = _classes(config)
    if rules.colours or config.name == "tfds":
        return rules.colours
    first = _pairs(config, "train")[0].mask
    with opened(first, max_pixels=config.max_pixels) as image:
        flat = image.getpalette() if image.mode == "P" else None
    values = list(rules.values)
    if not flat or len(flat) < 3 * (max(values) + 1):
        return ()
    return tuple((flat[3 * value], flat[3 * value + 1], flat[3 * value + 2]) for value in values)


def description(config: SemanticConfig, split: Split) -> str:
    """A description for protocols: "camvid, test (folder), 144x192"."""
    training = split == "train" or config.overfit_images > 0
    few = f"the first {config.overfit_images} images of " if config.overfit_images else ""
    if config.name == "shapes":
        where = f"the shapes world ({'train' if training else 'test'})"
    else:
        whole = config.tfds if config.name == "tfds" else config.dir
        where = f"{whole}, {config.train if training else config.test} ({config.name})"
    return f"{few}{where}, {config.height}x{config.width}"


def _images(config: SemanticConfig, split: Split, rules: MaskRules) -> MaskedImages:
    split = "train" if config.overfit_images else split
    if config.name == "tfds":
        source = tfds_source(
            config.tfds,
            config.train if split == "train" else config.test,
            data_dir=expanded(config.dir),
            image_key=config.image_feature,
            label_key=None,
            max_pixels=config.max_pixels,
        )
        check_mask_feature(source, config.mask_feature, config.tfds)
        images: MaskedImages = TfdsImages(source, config.mask_feature, rules, len(source))
    else:
        images = FileImages(tuple(_pairs(config, split)), rules, config.max_pixels)
    return images.first(config.overfit_images) if config.overfit_images else images


def _pairs(config: SemanticConfig, split: Split) -> list[Pair]:
    root, name = expanded(config.dir), config.train if split == "train" else config.test
    match config.name:
        case "voc":
            return voc_pairs(root, name)
        case "cityscapes":
            return cityscapes_pairs(root, name)
        case "ade20k":
            return ade20k_pairs(root, name)
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: give --data.dir.")
    if (root / name).is_dir():
        return folder_pairs(root / name / config.images, root / name / config.masks)
    if (root / config.train).is_dir() or (root / config.test).is_dir():
        raise UserError(
            f"There is no folder {root / name}, only one for the other split: see --data.train and --data.test"
        )
    if not (root / config.images).is_dir():
        raise UserError(
            f"{root} has neither a folder {name} with {config.images} and {config.masks} in it, nor these two folders "
            "themselves: see --data.train, --data.images and --data.masks"
        )
    pairs = folder_pairs(root / config.images, root / config.masks)
    held_out = [is_held_out(each.image.relative_to(root / config.images).as_posix()) for each in pairs]
    chosen = [pair for pair, held in zip(pairs, held_out, strict=True) if held == (split == "test")]
    if not chosen:
        raise UserError(
            f"of the {len(pairs)} images in {root / config.images} the names of {'none' if split == 'test' else 'all'} "
            f"choose them as test images: add images, or make folders {config.train} and {config.test}"
        )
    return chosen


@functools.lru_cache(maxsize=8)
def _classes(config: SemanticConfig) -> tuple[tuple[str, ...], MaskRules]:
    """Names of the classes, and what the values of masks mean."""
    match config.name:
        case "voc":
            return VOC, voc_rules()
        case "cityscapes":
            return tuple(CITYSCAPES.values()), cityscapes_rules()
        case "ade20k":
            file = expanded(config.dir) / config.classes
            names = (
                class_table(file)[0] if file.is_file() else tuple(f"class {i}" for i in range(1, ADE20K_CLASSES + 1))
            )
            if len(names) != ADE20K_CLASSES:
                raise UserError(f"{file} has {len(names)} classes, and ADE20K {ADE20K_CLASSES}")
            return names, ade20k_rules()
    file = expanded(config.dir) / config.classes
    if file.is_file():
        names, colours = class_table(file)
        return names, MaskRules(classes=len(names), first=config.first, void=config.void, colours=colours)
    images = _images(config, "train", MaskRules(classes=0))
    if isinstance(images, TfdsImages) and (own := images.source.names_of(config.mask_feature)):
        return own, MaskRules(classes=len(own), first=config.first, void=config.void)
    values = functools.partial(_largest_value, images, void=config.void)
    largest = max(_in_threads(values, range(len(images))))
    if largest < 0:
        raise UserError(f"all {len(images)} masks of {config.dir} are void alone: there is no class to learn")
    classes = largest + 1 - config.first
    if not 1 <= classes <= MAX_CLASSES:
        raise UserError(
            f"the largest value of the masks of {config.dir} is {largest}, and classes are {config.first} to "
            f"{config.first + MAX_CLASSES - 1}: give the values that are no class by --data.void and that of the first "
            f"class by --data.first, or name the classes in {file}"
        )
    names = tuple(f"class {value}" for value in range(config.first, largest + 1))
    return names, MaskRules(classes=classes, first=config.first, void=config.void)


def _largest_value(images: MaskedImages, index: int, *, void: Sequence[int]) -> int:
    values = images.values(index)
    if values.ndim == 3:
        raise UserError(
            f"{images.name(index)} is in RGB, and no list of classes says what its colours are: write a file "
            'classes.txt with a class a line, "road 128 64 128"'
        )
    found = set(np.unique(values).tolist()) - set(void)
    return max(found, default=-1)


@functools.lru_cache(maxsize=8)
def _truth_size(config: SemanticConfig) -> Size:
    """The largest height and the largest width of the masks to evaluate on."""
    images = _images(config, "test", MaskRules(classes=0))
    sizes = _in_threads(images.size, range(len(images)))
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def _in_threads(function, items):
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def world(config: SemanticConfig, split: Split) -> ShapesSource:
    """The scenes of a split; only the first few of training if ``overfit_images`` is set."""
    training = split == "train" or config.overfit_images > 0
    size = (config.overfit_images or config.shapes_count) if training else SHAPES_TEST
    shapes = replace(config.shapes, resolution=config.height)
    return ShapesSource(config=shapes, size=size, split="train" if training else "test")


def _scenes(config: SemanticConfig, split: Split) -> OnDemandSource:
    """Scenes as the samples of `MaskedSource`, each rendered when it is first asked for."""
    scenes = world(config, split)
    side = config.height

    def make(indices: Int[np.ndarray, " b"]) -> dict[str, np.ndarray]:
        arrays = scenes.render(indices, ("image", "semantic"))
        size = np.full((len(indices), 2), side, np.int32)
        made = {"image": arrays["image"], "semantic": arrays["semantic"], "size": size}
        return made | ({"truth": arrays["semantic"], "truth_size": size} if split == "test" else {})

    fields = (*FIELDS, "truth", "truth_size") if split == "test" else FIELDS
    names = ("background", *scenes.config.shapes)
    return OnDemandSource(make, size=len(scenes), fields=fields, class_names=names)
