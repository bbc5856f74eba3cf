"""Annotations as text: one file per image, one line per object, "class cx cy w h" or "class x1 y1 x2 y2 x3 y3 ...".

The class is an index into a list, from 0; four numbers are the centre, width and height of a box, more are the points
of a polygon, all as fractions of the image's width and height. Boxes are the format of Darknet (Redmon & Farhadi 2018)
and of later YOLO versions, polygons the form in which these have masks. The box of a polygon is the smallest around its
points. Label files have the names of the images with
".txt", in capitals or not, in the same folder or in a sibling folder: images/train/a.jpg and labels/train/a.txt. An
image without a label file has no boxes. Sizes are read from the headers of the images, after EXIF rotation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from vision.data.annotations.cleaning import DEFAULT_RULES, Annotations, CleaningRules, RawAnnotation, collect
from vision.data.annotations.fields import shown, text_lines
from vision.data.annotations.segmentation import rle_of_polygons
from vision.data.class_names import check_name, unique_names
from vision.data.folder import image_files
from vision.data.image_file import SUFFIXES
from vision.data.listing import files_below
from vision.errors import UserError
from vision.ops.rle import Rle

_SUFFIX = ".txt"


def read_box_text(
    image_folder: Path,
    classes_file: Path,
    *,
    label_folder: Path | None = None,
    masks: bool = False,
    rules: CleaningRules = DEFAULT_RULES,
) -> Annotations:
    """The images of a folder with the boxes of their label files, cleaned by `vision.data.annotations.cleaning`.

    Args:
        image_folder: images at any depth; names that start with a dot are ignored.
        classes_file: see `class_list`.
        label_folder: where label files with the same relative names are; None takes the folder that `label_folder_of`
            finds.
        masks: whether to read the polygons as masks as well; a line with a box is an error then.
        rules: options of reading and cleaning.

    Returns:
        images sorted by name; ``image_id`` is their index, from 1, and ``category_ids`` are the numbers in the files.

    Raises:
        UserError: a folder or the list of classes does not exist; the folder has no images; none of them has a label
            file; a line is malformed (with its file and number); classes are numbered from 1; and as for `collect`.
    """
    classes = class_list(classes_file)
    labels = label_folder_of(image_folder) if label_folder is None else label_folder
    if not labels.is_dir():
        raise UserError(f"There is no folder {labels} of label files for the images in {image_folder}.")
    images = image_files(image_folder, known={_SUFFIX} if labels == image_folder else ())
    files = _label_files(labels, classes_file)
    names = [file.relative_to(image_folder).with_suffix("") for file in images]
    if not files.keys() & set(names):
        raise UserError(
            f"None of the {len(images)} images in {image_folder} has a label file in {labels}, such as "
            f"{names[0]}.txt for {images[0].name}."
        )
    lines = {name: _lines(files[name], masks=masks) for name in names if name in files}
    _check_first(lines.values(), len(classes), labels, classes_file)
    stated = []
    for number, (file, name) in enumerate(zip(images, names, strict=True), start=1):
        stated.append(_raw_annotation(file, number, lines.get(name, ()), len(classes), masks=masks))
    # A label file without an image means that the image is missing.
    for number, name in enumerate(sorted(files.keys() - set(names)), start=len(stated) + 1):
        stated.append(_raw_annotation(image_folder / name, number, (), len(classes), masks=masks))
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
    """Names of classes from a text file, one per line: the first is class 0; the second of a name gets its number.

    Raises:
        UserError: the file cannot be read, is empty, has an empty line between names, or a name that cannot be printed.
    """
    names = [line.strip() for line in text_lines(path, "The list of classes")]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise UserError(f"The list of classes {path} is empty; it needs one name per line.")
    for number, name in enumerate(names, start=1):
        if not name:
            raise UserError(f"The list of classes {path} has an empty line {number}, which would be a class.")
        check_name(name, f"{path}, line {number}")
    return unique_names(names, range(len(names)), str(path))


@dataclass(frozen=True, eq=False)
class _Line:
    """One line of a label file after its checks, in fractions of width and height."""

    number: int  # of the class, from 0
    corners: tuple[float, float, float, float]
    points: Float64[np.ndarray, "n 2"]  # of a polygon; none where masks are not read
    where: str  # file and line

    def mask(self, height: int, width: int) -> Rle:
        """The pixels of the polygon."""
        polygon = self.points * (width, height)
        refused = lambda text: UserError(f"{self.where} has {text}.")
        return rle_of_polygons([polygon.reshape(-1).tolist()], height, width, refused)


_Lines = Sequence[_Line]


def _label_files(folder: Path, classes_file: Path) -> dict[Path, Path]:
    """Label files by their path in the folder without suffix."""
    listing = files_below(folder, {_SUFFIX})
    listing.report(folder, "labels", known=SUFFIXES)
    found: dict[Path, Path] = {}
    for file in listing.files:
        name = file.relative_to(folder).with_suffix("")
        if file == classes_file:
            continue
        if name in found:
            raise UserError(f"{found[name]} and {file} are labels of the same image: remove one of them.")
        found[name] = file
    return found


def _check_first(lines: Iterable[_Lines], classes: int, folder: Path, classes_file: Path) -> None:
    """Refuse labels that are numbered from 1, which would name every class wrongly but the last, which is unknown."""
    numbers = {line.number for each in lines for line in each}
    if numbers and min(numbers) >= 1 and max(numbers) == classes:
        raise UserError(
            f"The labels in {folder} go from 1 to {classes} where 0 to {classes - 1} are expected: subtract 1 from the "
            f"class of each line, or give {classes_file} a first line for class 0."
        )


def _lines(path: Path, *, masks: bool) -> _Lines:
    """What a label file says; with ``masks`` every line must be a polygon."""
    found: list[_Line] = []
    for place, line in enumerate(text_lines(path, "The label file"), start=1):
        words = line.split()
        if not words:
            continue
        try:
            if "_" in line:  # which Python reads as nothing
                raise ValueError
            number, values = _class_number(words[0]), [float(word) for word in words[1:]]
            if len(values) != 4 and (len(values) < 6 or len(values) % 2):
                raise ValueError
        except ValueError as error:
            raise UserError(
                f"{path}, line {place} is {shown(line.strip())}, but a line must be 'class cx cy w h' or "
                "'class x1 y1 x2 y2 x3 y3 ...': an integer, and 4 numbers or three or more points."
            ) from error
        if masks and len(values) == 4:
            raise UserError(
                f"{path}, line {place} is {shown(line.strip())}, which is a box or two points, but masks are read from "
                "'class x1 y1 x2 y2 x3 y3 ...', polygons of three or more points."
            )
        points = np.array(values, np.float64).reshape(-1, 2)
        kept = points if masks else points[:0]
        found.append(_Line(number, _corners(points), kept, f"{path}, line {place}"))
    return found


def _corners(points: Float64[np.ndarray, "n 2"]) -> tuple[float, float, float, float]:
    """Of the box around a polygon, or of centre and size; not finite where a number is not."""
    if len(points) == 2:
        with np.errstate(invalid="ignore", over="ignore"):
            low, high = points[0] - points[1] / 2, points[0] + points[1] / 2
    else:
        low, high = points.min(0), points.max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _class_number(word: str) -> int:
    """An integer, or a float that is whole. Raises ``ValueError`` for anything else."""
    try:
        return int(word)
    except ValueError:
        if not float(word).is_integer():
            raise
        return int(float(word))


def _raw_annotation(file: Path, number: int, lines: _Lines, classes: int, *, masks: bool) -> RawAnnotation:
    known = [0 <= line.number < classes for line in lines]
    return RawAnnotation(
        file=file,
        image_id=number,
        size=None,
        boxes=np.array([line.corners for line in lines], np.float64).reshape(-1, 4),
        labels=np.array([line.number if know else -1 for line, know in zip(lines, known, strict=True)], np.int32),
        unknown=tuple(f"class {shown(line.number)}" for line, know in zip(lines, known, strict=True) if not know),
        crowd=np.zeros(len(lines), bool),
        masks=tuple(line.mask for line in lines) if masks else None,
        normalised=True,
    )
