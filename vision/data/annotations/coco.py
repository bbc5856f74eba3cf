"""Annotations in COCO's JSON (Lin et al. 2014; the format is described at cocodataset.org, "Data format").

One file has a list of images, a list of annotations that refer to them by id, and a list of categories. Boxes are
[x, y, width, height] with the image's upper left corner at (0, 0), so that corners are (x, y, x + width, y + height).
Category ids have gaps and start at 1: labels are their ranks in ascending order, and the ids are kept.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vision.data.annotations.cleaning import DEFAULT_RULES, Annotations, CleaningRules, RawAnnotation, collect
from vision.errors import UserError


def read_coco(json_path: Path, image_folder: Path, *, rules: CleaningRules = DEFAULT_RULES) -> Annotations:
    """The images and boxes of a COCO file, cleaned by `vision.data.annotations.cleaning`.

    Args:
        json_path: with "images" (each "id", "file_name", "width", "height"), "annotations" (each "image_id",
            "category_id", "bbox", and optionally "area" and "iscrowd") and "categories" (each "id", "name").
        image_folder: what "file_name" is relative to.
        rules: options of reading and cleaning.

    Returns:
        images in the order of "images", each with its boxes in the order of "annotations"; ``category_ids`` are COCO's.

    Raises:
        UserError: the file or folder does not exist; it is not JSON, lacks a key, or has a value of the wrong type; an
            id of an image or a category is duplicated; no annotation refers to a listed image; and as for `collect`.
    """
    if not image_folder.is_dir():
        raise UserError(f"There is no folder {image_folder} of images for {json_path}.")
    content = _content(json_path)
    images, entries, categories = (_list(content, key, json_path) for key in ("images", "annotations", "categories"))
    names = _categories(categories, json_path)
    ids = tuple(sorted(names))
    boxes = _boxes(images, json_path)
    orphans = _distribute(entries, boxes, json_path)
    labels = {category: label for label, category in enumerate(ids)}
    stated = [_raw_annotation(image, boxes[image["id"]], labels, image_folder, json_path) for image in images]
    class_names = tuple(names[category] for category in ids)
    return collect(stated, class_names=class_names, category_ids=ids, folder=image_folder, orphans=orphans, rules=rules)


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
        UserError: as for `read_coco` about images and categories, and if two images or two classes have the same name.
    """
    content = _content(json_path)
    images, categories = (_list(content, key, json_path) for key in ("images", "categories"))
    names = _categories(categories, json_path)
    _boxes(images, json_path)
    files = {Path(image["file_name"]).name: int(image["id"]) for image in images}
    by_name = {name: category for category, name in names.items()}
    if len(files) < len(images) or len(by_name) < len(names):
        raise UserError(
            f"{json_path} has two images or two categories of the same name, so that names do not identify them."
        )
    return CocoNumbers(json_path, files, by_name)


# (category id, corners, area or NaN, crowd)
_Box = tuple[int, tuple[float, float, float, float], float, bool]


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"The annotation {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # of JSON or of its characters
        raise UserError(f"The annotation {path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"The annotation {path} is a JSON {type(content).__name__}, but COCO's format is an object with images, "
            "annotations and categories; a list is the format of results."
        )
    return content


def _list(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    if key not in content:
        raise UserError(f"The annotation {path} has no {key!r}, only {', '.join(map(repr, content)) or 'nothing'}.")
    value = content[key]
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise UserError(f"In the annotation {path}, {key!r} is not a list of objects.")
    return value


def _categories(categories: list[dict[str, Any]], path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for place, each in enumerate(categories):
        category = _integer(each, "id", "categories", place, path)
        if category in names:
            raise UserError(f"The annotation {path} has two categories of the id {category}.")
        names[category] = str(_value(each, "name", "categories", place, path))
    if not names:
        raise UserError(f"The annotation {path} has no categories, so there are no classes to learn.")
    return names


def _boxes(images: list[dict[str, Any]], path: Path) -> dict[int, list[_Box]]:
    """An empty list of boxes for every image; checks the entries of images."""
    boxes: dict[int, list[_Box]] = {}
    for place, image in enumerate(images):
        number = _integer(image, "id", "images", place, path)
        if number in boxes:
            raise UserError(f"The annotation {path} has two images of the id {number}.")
        if not isinstance(_value(image, "file_name", "images", place, path), str):
            raise UserError(f"images[{place}] of {path} has a file_name that is not text: {image['file_name']!r}.")
        for side in ("width", "height"):
            if _integer(image, side, "images", place, path) < 1:
                raise UserError(f"images[{place}] of {path} has a {side} of {image[side]}, which is not a size.")
        boxes[number] = []
    if not boxes:
        raise UserError(f"The annotation {path} has no images.")
    return boxes


def _distribute(entries: list[dict[str, Any]], boxes: dict[int, list[_Box]], path: Path) -> int:
    """Append every annotation to the boxes of its image; returns how many belong to no image."""
    orphans = 0
    for place, entry in enumerate(entries):
        image = _integer(entry, "image_id", "annotations", place, path)
        category = _integer(entry, "category_id", "annotations", place, path)
        box = _value(entry, "bbox", "annotations", place, path)
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise UserError(f"annotations[{place}] of {path} has a bbox that is not four numbers: {box!r}.")
        area = entry.get("area")
        if area is not None and not _is_number(area):
            raise UserError(f"annotations[{place}] of {path} has an area that is not a number: {area!r}.")
        if image not in boxes:
            orphans += 1
            continue
        x, y, width, height = box
        corners = (x, y, x + width, y + height)
        boxes[image].append((category, corners, np.nan if area is None else area, bool(entry.get("iscrowd"))))
    if entries and orphans == len(entries):
        raise UserError(
            f"None of the {orphans} annotations of {path} refers to one of its images: annotations[0] has the "
            f"image_id {entries[0]['image_id']}, and images have ids such as {next(iter(boxes))}."
        )
    return orphans


def _raw_annotation(
    image: dict[str, Any], boxes: list[_Box], labels: dict[int, int], folder: Path, path: Path
) -> RawAnnotation:
    return RawAnnotation(
        file=folder / image["file_name"],
        image_id=image["id"],
        size=(image["width"], image["height"]),
        boxes=np.array([corners for _, corners, _, _ in boxes], np.float64).reshape(-1, 4),
        labels=np.array([labels.get(category, -1) for category, *_ in boxes], np.int32),
        unknown=tuple(f"category {category}" for category, *_ in boxes if category not in labels),
        crowd=np.array([crowd for *_, crowd in boxes], bool),
        area=np.array([area for _, _, area, _ in boxes], np.float64),
    )


def _value(entry: dict[str, Any], key: str, kind: str, place: int, path: Path) -> Any:
    if key not in entry:
        raise UserError(f"{kind}[{place}] of {path} has no {key!r}, only {', '.join(map(repr, entry)) or 'nothing'}.")
    return entry[key]


def _integer(entry: dict[str, Any], key: str, kind: str, place: int, path: Path) -> int:
    value = _value(entry, key, kind, place, path)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{kind}[{place}] of {path} has {key!r} {value!r}, which is not an integer.")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
