"""Annotations in COCO's JSON (Lin et al. 2014; the format is described at cocodataset.org, "Data format").

One file has a list of images, a list of annotations that refer to them by id, and a list of categories. Boxes are
[x, y, width, height] with the image's upper left corner at (0, 0), so that corners are (x, y, x + width, y + height).
Category ids have gaps and start at 1: labels are their ranks in ascending order, and the ids are kept.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vision.data.annotations.cleaning import (
    DEFAULT_RULES,
    Annotations,
    CleaningRules,
    LazyMask,
    RawAnnotation,
    collect,
)
from vision.data.annotations.fields import LARGEST, Entry, finite, real, shown
from vision.data.annotations.segmentation import Corners, box_of_segmentation, rle_of_segmentation
from vision.data.class_names import check_name, unique_names
from vision.data.notices import notice
from vision.errors import UserError

# Bytes that file systems allow for a name, and for a path.
_LONGEST_NAME, _LONGEST_PATH = 255, 2000


def read_coco(
    json_path: Path, image_folder: Path, *, masks: bool = False, rules: CleaningRules = DEFAULT_RULES
) -> Annotations:
    """The images and boxes of a COCO file, cleaned by `vision.data.annotations.cleaning`.

    Args:
        json_path: with "images" (each "id", "file_name", and optionally "width" and "height"), "annotations" (each
            "image_id", "category_id", "bbox" or "segmentation", and optionally "area" and "iscrowd") and "categories"
            (each "id", "name"). A size that is missing, 0 or -1 is read from the image. Without a box, it is that of
            the polygons or the mask. The second category of a name is called "person (id 7)".
        image_folder: what "file_name" is relative to; no name leads out of it.
        masks: whether to read the masks as well, which are those of "segmentation"; every annotation must have one.
        rules: options of reading and cleaning.

    Returns:
        images in the order of "images", each with its boxes in the order of "annotations"; ``category_ids`` are COCO's.

    Raises:
        UserError: the file or folder does not exist; it is not JSON, lacks a key, or has a value of the wrong type or
            out of its range (with the entry); an id of an image or a category is duplicated; no annotation refers to a
            listed image; with masks, an annotation has none, or one of another size than its image; and as for
            `collect`.
    """
    if not image_folder.is_dir():
        raise UserError(f"There is no folder {image_folder} of images for {json_path}.")
    content = json_content(json_path)
    listed, entries, categories = (
        entry_list(content, key, json_path) for key in ("images", "annotations", "categories")
    )
    names = category_names(categories, json_path)
    images = listed_images(listed, json_path)
    boxes: dict[int, list[_Box]] = {number: [] for number in images}
    orphans = _distribute(entries, boxes, json_path, masks=masks)
    labels = {category: label for label, category in enumerate(names)}
    stated = [
        _raw_annotation(number, image, boxes[number], labels, image_folder, masks=masks)
        for number, image in images.items()
    ]
    return collect(
        stated,
        class_names=tuple(names.values()),
        category_ids=tuple(names),
        folder=image_folder,
        orphans=orphans,
        rules=rules,
    )


@dataclass(frozen=True)
class CocoNumbers:
    """The ids of images and classes in a COCO file, for writing results with the same ids."""

    path: Path
    """The file."""
    images: Mapping[str, int]
    """Ids by the last component of the file name."""
    categories: Mapping[str, int]
    """Ids by name."""

    def image(self, file: Path) -> int:
        """The id of an image. Raises ``UserError`` if the file lists no image of this name."""
        if file.name not in self.images:
            raise UserError(
                f"{self.path} lists no image {file.name}: predict on its images, or leave out the COCO file to number "
                "them from 1."
            )
        return self.images[file.name]

    def check(self, files: Sequence[Path], class_names: Sequence[str]) -> None:
        """Raises ``UserError`` if one of them has no id."""
        for file in files:
            self.image(file)
        for name in class_names:
            self.category(name)

    def category(self, name: str) -> int:
        """The id of a class. Raises ``UserError`` if the file has no category of this name."""
        if name not in self.categories:
            known = ", ".join(map(repr, self.categories))
            raise UserError(f"{self.path} has no category {name!r}, which the run has: its categories are {known}.")
        return self.categories[name]


def read_coco_numbers(json_path: Path) -> CocoNumbers:
    """The ids in a COCO file, which may be without annotations, as those of test sets are.

    Raises:
        UserError: as for `read_coco` about images and categories, and if two images have the same name.
    """
    content = json_content(json_path)
    listed, categories = (entry_list(content, key, json_path) for key in ("images", "categories"))
    by_name = {name: category for category, name in category_names(categories, json_path).items()}
    images = listed_images(listed, json_path)
    files = {PurePosixPath(image.name).name: number for number, image in images.items()}
    if len(files) < len(images):
        raise UserError(f"{json_path} has two images of the same name, so that names do not identify them.")
    return CocoNumbers(json_path, files, by_name)


@dataclass(frozen=True)
class _Box:
    """An annotation after its checks."""

    category: int
    corners: Corners
    area: float  # NaN where there is none
    crowd: bool
    mask: LazyMask


@dataclass(frozen=True)
class CocoImage:
    """An entry of "images" after its checks."""

    name: str
    """Its path below the folder of images."""
    size: tuple[int, int] | None
    """(width, height) in pixels; None where it is not stated."""


def json_content(path: Path) -> dict[str, Any]:
    """The object in a file. Raises ``UserError`` for one that cannot be read, or is something else."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"The annotation {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # of JSON or of its characters
        raise UserError(f"The annotation {path} is not JSON: {error}.") from error
    except RecursionError as error:
        raise UserError(f"The annotation {path} is not COCO's format: its lists are nested too deeply.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"The annotation {path} is a JSON {type(content).__name__}, but COCO's format is an object with images, "
            "annotations and categories; a list is the format of results."
        )
    return content


def entry_list(content: dict[str, Any], key: str, path: Path) -> list[Entry]:
    """The objects of a list. Raises ``UserError`` where there is none."""
    if key not in content:
        raise UserError(f"The annotation {path} has no {key!r}, only {', '.join(map(shown, content)) or 'nothing'}.")
    value = content[key]
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise UserError(f"In the annotation {path}, {key!r} is not a list of objects.")
    return [Entry(each, key, place, path) for place, each in enumerate(value)]


def category_names(entries: Sequence[Entry], path: Path) -> dict[int, str]:
    """Names by id, in ascending order of ids; each name once."""
    names: dict[int, str] = {}
    for entry in entries:
        category = entry.integer("id")
        if category in names:
            raise UserError(f"The annotation {path} has two categories of the id {category}.")
        names[category] = entry.text("name")
        check_name(names[category], f"{entry.kind}[{entry.place}] of {path}")
    if not names:
        raise UserError(f"The annotation {path} has no categories, so there are no classes to learn.")
    ids = sorted(names)
    return dict(zip(ids, unique_names([names[each] for each in ids], ids, str(path)), strict=True))


def listed_images(entries: Sequence[Entry], path: Path) -> dict[int, CocoImage]:
    """Images by id, in the order of the file."""
    images: dict[int, CocoImage] = {}
    for entry in entries:
        number = entry.integer("id")
        if number in images:
            raise UserError(f"The annotation {path} has two images of the id {number}.")
        width, height = entry.side("width"), entry.side("height")
        size = None if width is None or height is None else (width, height)
        images[number] = CocoImage(file_name(entry), size)
    if not images:
        raise UserError(f"The annotation {path} has no images.")
    return images


def file_name(entry: Entry) -> str:
    """A path below the folder of images."""
    name = entry.text("file_name")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise entry.refused(f"the file_name {shown(name)}, which is not inside the folder of images")
    try:
        longest = max(len(os.fsencode(part)) for part in path.parts)
    except UnicodeEncodeError:
        longest = 0
    if not 0 < longest <= _LONGEST_NAME or len(name) > _LONGEST_PATH or "\0" in name:
        raise entry.refused(f"the file_name {shown(name)}, which no file can have")
    return name


def _distribute(entries: Sequence[Entry], boxes: Mapping[int, list[_Box]], path: Path, *, masks: bool) -> int:
    """Append every annotation to the boxes of its image; returns how many belong to no image."""
    orphans, repeated = 0, 0
    ids: set[int] = set()
    for entry in entries:
        if entry.fields.get("id") is not None:
            number = entry.integer("id")
            repeated += number in ids
            ids.add(number)
        image, category = entry.integer("image_id"), entry.integer("category_id")
        if masks and not entry.fields.get("segmentation"):
            raise entry.refused("no segmentation, from which the mask of the instance is read")
        mask = partial(rle_of_segmentation, entry)
        found = _Box(category, _corners(entry), _area(entry), entry.flag("iscrowd"), mask)
        if image in boxes:
            boxes[image].append(found)
        else:
            orphans += 1
    if entries and orphans == len(entries):
        raise UserError(
            f"None of the {orphans} annotations of {path} refers to one of its images: annotations[0] has the "
            f"image_id {shown(entries[0].fields['image_id'])}, and images have ids such as {next(iter(boxes))}."
        )
    if repeated:
        what = "1 annotation" if repeated == 1 else f"{repeated} annotations"
        notice(f"{path} has {what} with the id of an earlier one; each is read, since no id is used.")
    return orphans


def _corners(entry: Entry) -> Corners:
    """Of the box, or of the segmentation where there is no box."""
    if not entry.fields.get("bbox") and entry.fields.get("segmentation"):
        return box_of_segmentation(entry)
    return stated_box(entry)


def stated_box(entry: Entry) -> Corners:
    """The corners of "bbox"."""
    box = entry.value("bbox")
    numbers = [real(each) for each in box] if isinstance(box, list) else []
    x, y, width, height = numbers if len(numbers) == 4 else [None] * 4
    if x is None or y is None or width is None or height is None:
        raise entry.refused(f"a bbox that is not four numbers: {shown(box)}")
    return x, y, x + width, y + height


def _area(entry: Entry) -> float:
    area = entry.fields.get("area")
    if area is None:
        return math.nan
    number = finite(area)
    if number is None or not 0 <= number <= LARGEST:
        raise entry.refused(f"an area that is not a number of square pixels: {shown(area)}")
    return number


def _raw_annotation(
    number: int, image: CocoImage, boxes: Sequence[_Box], labels: Mapping[int, int], folder: Path, *, masks: bool
) -> RawAnnotation:
    return RawAnnotation(
        file=folder / image.name,
        image_id=number,
        size=image.size,
        boxes=np.array([each.corners for each in boxes], np.float64).reshape(-1, 4),
        labels=np.array([labels.get(each.category, -1) for each in boxes], np.int32),
        unknown=tuple(f"category {each.category}" for each in boxes if each.category not in labels),
        crowd=np.array([each.crowd for each in boxes], bool),
        area=np.array([each.area for each in boxes], np.float64),
        masks=tuple(each.mask for each in boxes) if masks else None,
    )
