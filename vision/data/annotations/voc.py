"""Annotations in PASCAL VOC's XML (Everingham et al. 2010; the development kit of the challenge describes the format).

A data set is a folder with JPEGImages, Annotations (one XML file per image, of the same name) and ImageSets/Main (one
text file per split, one name per line). Boxes are indices of their first and last pixels, from 1. Here corners lie on
the edges of pixels, so a box is (xmin - 1, ymin - 1, xmax, ymax).

Objects that are marked as difficult become crowds: they are not trained on, and evaluation ignores whether they are
detected. This is VOC's protocol, with one difference: in COCO's evaluation several detections may match one crowd, and
the overlap with it is taken relative to the detection.

Masks are images of indices for the names in ImageSets/Segmentation: SegmentationObject has the number of the object at
each pixel, SegmentationClass that of its class, both 0 for background and 255 for void, which belongs to nothing. They
stand by themselves (the XML is not read): the class of an object is the most frequent one at its pixels, its box is
that of its mask, and none is a crowd, for which masks have no mark.
"""

import os
from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from vision.data.annotations.cleaning import DEFAULT_RULES, Annotations, CleaningRules, RawAnnotation, collect
from vision.data.annotations.fields import file_bytes, shown, text_lines
from vision.data.annotations.object_masks import raw_of_masks
from vision.data.annotations.semantic_files import VOC
from vision.data.class_names import check_name
from vision.data.image_file import SUFFIXES
from vision.data.listing import entries
from vision.errors import UserError


def read_voc(
    folder: Path,
    split: str | None,
    *,
    class_names: tuple[str, ...] | None = None,
    masks: bool = False,
    rules: CleaningRules = DEFAULT_RULES,
) -> Annotations:
    """The images and boxes of a VOC data set, cleaned by `vision.data.annotations.cleaning`.

    Args:
        folder: with JPEGImages and Annotations, or with masks SegmentationObject and SegmentationClass.
        split: "train" for the names in ImageSets/Main/train.txt, with masks ImageSets/Segmentation/train.txt, and so
            on; None for all of Annotations or SegmentationObject, sorted.
        class_names: the classes, with masks those of the values from 1 on; None takes the names in all of Annotations,
            sorted, so that splits agree, and with masks the 20 classes of VOC.
        masks: whether to read the masks, and classes and boxes from them.
        rules: options of reading and cleaning.

    Returns:
        images in the order of the split; ``image_id`` is their index in it, and ``category_ids`` are the classes'
        indices, both from 1. A size that is missing or 0 in the XML is read from the image.

    Raises:
        UserError: a folder or the file of the split does not exist; a name of the split has no XML file; an XML file is
            malformed or lacks an element; there are no objects to take classes from; a mask is missing, damaged, in
            RGB, or of another size than its image; and as for `collect`.
    """
    if masks:
        return _read_masks(folder, split, class_names or VOC[1:], rules)
    annotations, images = folder / "Annotations", folder / "JPEGImages"
    for each in (annotations, images):
        if not each.is_dir():
            raise UserError(f"There is no folder {each}; VOC has images in JPEGImages and XML in Annotations.")
    every = {file.stem: file for file in entries(annotations) if file.suffix.lower() == ".xml"}
    if not every:
        raise UserError(f"There are no XML files in {annotations}.")
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    names = list(every) if split is None else _split(listed, every, "XML file in Annotations")
    parsed = {name: _objects(every[name]) for name in (names if class_names else every)}
    classes = class_names or tuple(sorted({written for _, objects in parsed.values() for written, _, _ in objects}))
    if not classes:
        raise UserError(f"No XML file in {annotations} has an object, so there are no classes.")
    files = _image_files(images, names)
    labels = {name: label for label, name in enumerate(classes)}
    stated = [_raw_annotation(files[name], number, *parsed[name], labels) for number, name in enumerate(names, start=1)]
    ids = tuple(range(1, len(classes) + 1))
    return collect(stated, class_names=classes, category_ids=ids, folder=images, rules=rules)


def _read_masks(folder: Path, split: str | None, class_names: tuple[str, ...], rules: CleaningRules) -> Annotations:
    """Masks with what follows from them."""
    objects, classes, images = (folder / name for name in ("SegmentationObject", "SegmentationClass", "JPEGImages"))
    for each in (objects, classes, images):
        if not each.is_dir():
            raise UserError(
                f"There is no folder {each}; VOC has images in JPEGImages and masks in SegmentationObject and "
                "SegmentationClass."
            )
    every = {file.stem: file for file in entries(objects) if file.suffix.lower() == ".png"}
    if not every:
        raise UserError(f"There are no PNG files in {objects}.")
    listed = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    names = list(every) if split is None else _split(listed, every, "PNG file in SegmentationObject")
    files = _image_files(images, names)

    def raw(number: int, name: str) -> RawAnnotation:
        of_class = classes / f"{name}.png"
        return raw_of_masks(
            files[name], number, every[name], of_class, classes_count=len(class_names), max_pixels=rules.max_pixels
        )

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        stated = list(pool.map(raw, range(1, len(names) + 1), names))
    ids = tuple(range(1, len(class_names) + 1))
    return collect(stated, class_names=class_names, category_ids=ids, folder=images, rules=rules)


def _image_files(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The images of these names, of any suffix; a JPEG where there is none, which is then missing."""
    files = {file.stem: file for file in entries(folder) if file.suffix.lower() in SUFFIXES}
    return {name: files.get(name, folder / f"{name}.jpg") for name in names}


# (class as written, corners, difficult)
_Object = tuple[str, tuple[float, float, float, float], bool]


def _split(path: Path, known: Container[str], what: str) -> list[str]:
    """The names of a list, each of which has a ``what``."""
    names: list[str] = []
    for number, line in enumerate(text_lines(path, "The split"), start=1):
        name = line.strip()
        if not name:
            continue
        if name not in known:
            raise UserError(f"{path}, line {number} names {shown(name)}, which has no {what}.")
        names.append(name)
    if not names:
        raise UserError(f"The split {path} lists no images.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"The split {path} names {twice!r} twice.")
    return names


def _objects(path: Path) -> tuple[tuple[int, int] | None, list[_Object]]:
    """The size, if there is one, and the objects of an XML file."""
    root = _tree(path)
    width, height = (_number(_text(root, f"size/{side}", "0", path), "size", path) for side in ("width", "height"))
    # Some tools write zeros; "nan" fails the comparison too.
    size = (int(width), int(height)) if 1 <= width < 2**31 and 1 <= height < 2**31 else None
    objects: list[_Object] = []
    for number, element in enumerate(root.findall("object"), start=1):
        where = f"object {number}"
        name = _text(element, "name", None, path, where)
        check_name(name, f"{where} of the annotation {path}")
        difficult = _text(element, "difficult", "0", path)
        if difficult not in ("0", "1"):
            raise UserError(f"{where} of the annotation {path} has difficult {shown(difficult)}, neither 0 nor 1.")
        # The box is a child of the object; parts of a person have separate boxes, deeper in the tree.
        xmin, ymin, xmax, ymax = (
            _number(_text(element, f"bndbox/{side}", None, path, where), where, path)
            for side in ("xmin", "ymin", "xmax", "ymax")
        )
        objects.append((name, (xmin - 1, ymin - 1, xmax, ymax), difficult == "1"))
    return size, objects


def _tree(path: Path) -> ElementTree.Element:
    """The root of an XML file without entities, whose expansion has no bound."""
    content = file_bytes(path, "The annotation")
    builder = ElementTree.TreeBuilder()
    reader = expat.ParserCreate()
    reader.buffer_text = True
    reader.StartElementHandler = builder.start
    reader.EndElementHandler = builder.end
    reader.CharacterDataHandler = builder.data

    def refuse(name: str, *_: object) -> None:
        raise UserError(f"The annotation {path} declares the entity {shown(name)}, which VOC's format has none of.")

    reader.EntityDeclHandler = refuse
    try:
        reader.Parse(content, True)
        return builder.close()
    # an encoding that is unknown is a LookupError, one of several bytes a ValueError
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:
        raise UserError(f"The annotation {path} cannot be read as XML: {error}.") from error


def _text(element: ElementTree.Element, path: str, default: str | None, file: Path, where: str = "") -> str:
    text = (element.findtext(path) or "").strip() or default
    if text is None:
        raise UserError(f"{where} of the annotation {file} has no {path}.")
    return text


def _number(text: str, where: str, file: Path) -> float:
    try:
        if "_" in text:  # which Python reads as nothing
            raise ValueError
        return float(text)
    except ValueError as error:
        raise UserError(f"{where} of the annotation {file} has {shown(text)} instead of a number of pixels.") from error


def _raw_annotation(
    file: Path, number: int, size: tuple[int, int] | None, objects: list[_Object], labels: dict[str, int]
) -> RawAnnotation:
    return RawAnnotation(
        file=file,
        image_id=number,
        size=size,
        boxes=np.array([corners for _, corners, _ in objects], np.float64).reshape(-1, 4),
        labels=np.array([labels.get(name, -1) for name, _, _ in objects], np.int32),
        unknown=tuple(name for name, _, _ in objects if name not in labels),
        crowd=np.array([difficult for _, _, difficult in objects], bool),
    )
