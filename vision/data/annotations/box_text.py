"""Annotations as text: one file per image, one line per box, "class cx cy w h".

The class is an index into a list, from 0; centre, width and height are fractions of the image's width and height. It is
the format of Darknet (Redmon & Farhadi 2018) and of later YOLO versions. Label files have the names of the images with
".txt", in the same folder or in a sibling folder: images/train/a.jpg and labels/train/a.txt. An image without a label
file has no boxes. Sizes are read from the headers of the images, after EXIF rotation.
"""

from pathlib import Path

import numpy as np

from vision.data.annotations.cleaning import DEFAULT_RULES, Annotations, CleaningRules, RawAnnotation, collect
from vision.data.folder import folder_source
from vision.errors import UserError


def read_box_text(
    image_folder: Path, classes_file: Path, *, label_folder: Path | None = None, rules: CleaningRules = DEFAULT_RULES
) -> Annotations:
    """The images of a folder with the boxes of their label files, cleaned by `vision.data.annotations.cleaning`.

    Args:
        image_folder: images at any depth; names that start with a dot are ignored.
        classes_file: see `class_list`.
        label_folder: where label files with the same relative names are; None takes the folder that `label_folder_of`
            finds.
        rules: options of reading and cleaning.

    Returns:
        images sorted by name; ``image_id`` is their index, from 1, and ``category_ids`` are the numbers in the files.

    Raises:
        UserError: a folder or the list of classes does not exist; the folder has no images; none of them has a label
            file; a line is malformed (with its file and number); and as for `collect`.
    """
    classes = class_list(classes_file)
    images = folder_source(image_folder, resolution=None, labelled=False).files
    labels = label_folder_of(image_folder) if label_folder is None else label_folder
    if not labels.is_dir():
        raise UserError(f"There is no folder {labels} of label files for the images in {image_folder}.")
    files = {path.relative_to(labels).with_suffix("") for path in labels.rglob("*.txt") if _is_label(path, labels)}
    if classes_file.is_relative_to(labels):
        files.discard(classes_file.relative_to(labels).with_suffix(""))
    names = [file.relative_to(image_folder).with_suffix("") for file in images]
    if not files.intersection(names):
        raise UserError(
            f"None of the {len(images)} images in {image_folder} has a label file in {labels}, such as "
            f"{names[0]}.txt for {images[0].name}."
        )
    stated = []
    for number, (file, name) in enumerate(zip(images, names, strict=True), start=1):
        boxes, numbers = _lines(labels / f"{name}.txt") if name in files else ([], [])
        stated.append(_raw_annotation(file, number, boxes, numbers, len(classes)))
    # A label file without an image means that the image is missing.
    for number, name in enumerate(sorted(files.difference(names)), start=len(stated) + 1):
        stated.append(_raw_annotation(image_folder / name, number, [], [], len(classes)))
    return collect(
        stated, class_names=classes, category_ids=tuple(range(len(classes))), folder=image_folder, rules=rules
    )


def label_folder_of(image_folder: Path) -> Path:
    """Where the label files of a folder of images are, by convention.

    The first that exists of: its path with the last component "images" replaced by "labels"; a sibling folder "labels";
    the folder itself.
    """
    candidates = [image_folder.parent / "labels"]
    if "images" in image_folder.parts:
        place = len(image_folder.parts) - 1 - image_folder.parts[::-1].index("images")
        candidates.insert(0, Path(*image_folder.parts[:place], "labels", *image_folder.parts[place + 1 :]))
    return next((each for each in candidates if each.is_dir()), image_folder)


def class_list(path: Path) -> tuple[str, ...]:
    """Names of classes from a text file, one per line: the first is class 0.

    Raises:
        UserError: the file cannot be read, is empty, has an empty line between names, or has a name twice.
    """
    names = [line.strip() for line in _text(path).rstrip().splitlines()]
    if not names:
        raise UserError(f"The list of classes {path} is empty; it needs one name per line.")
    for number, name in enumerate(names, start=1):
        if not name:
            raise UserError(f"The list of classes {path} has an empty line {number}, which would be a class.")
        if name in names[: number - 1]:
            raise UserError(f"The list of classes {path} has {name!r} twice, again on line {number}.")
    return tuple(names)


def _is_label(path: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}.") from error


def _lines(path: Path) -> tuple[list[list[float]], list[int]]:
    """Corners as fractions, and classes, of a label file."""
    boxes: list[list[float]] = []
    numbers: list[int] = []
    for place, line in enumerate(_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            number = int(words[0])
            x, y, width, height = map(float, words[1:])
        except ValueError as error:
            raise UserError(
                f"{path}, line {place} is {line.strip()!r}, but a line must be 'class cx cy w h': an integer and 4 "
                "numbers."
            ) from error
        numbers.append(number)
        boxes.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return boxes, numbers


def _raw_annotation(
    file: Path, number: int, boxes: list[list[float]], numbers: list[int], classes: int
) -> RawAnnotation:
    return RawAnnotation(
        file=file,
        image_id=number,
        size=None,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array([each if 0 <= each < classes else -1 for each in numbers], np.int32),
        unknown=tuple(f"class {each}" for each in numbers if not 0 <= each < classes),
        crowd=np.zeros(len(boxes), bool),
        normalised=True,
    )
