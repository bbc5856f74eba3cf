"""Detections written to files: images with boxes, crops, text files, and results in COCO's format."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vision.atomic import write_atomically
from vision.data.annotations.coco import CocoNumbers
from vision.metrics.detection.average_precision import ImageDetections
from vision.report.boxes import ImageWithBoxes, image_with_boxes

_JPEG = frozenset({".jpg", ".jpeg"})
# Characters of a folder's name, of at most four bytes each.
_LONGEST_FOLDER = 60


@dataclass(frozen=True, eq=False)
class Predicted:
    """An image file and the detections in it."""

    file: Path
    """As the user named it."""
    width: int
    """Of the upright image, in pixels."""
    height: int
    """In pixels."""
    found: ImageDetections
    """In pixels of the upright image."""


def unique_stems(files: Sequence[Path]) -> list[str]:
    """A name for what is written of each file: its own without suffix, with a number where another has it already."""
    return _unique([file.stem for file in files])


def folder_names(class_names: Sequence[str]) -> list[str]:
    """A name for the folder of each class: what a folder may be called, with a number where another has it already."""
    named = [re.sub(r"[^\w -]", "_", name)[:_LONGEST_FOLDER].strip() or "_" for name in class_names]
    return _unique(named)


def _unique(names: Sequence[str]) -> list[str]:
    """Names that differ in upper and lower case alone are the same to some disks, and here."""
    taken: set[str] = set()
    found = []
    for name in names:
        own, number = name, 1
        while own.casefold() in taken:
            number += 1
            own = f"{name}-{number}"
        taken.add(own.casefold())
        found.append(own)
    return found


def summary(found: ImageDetections, class_names: Sequence[str]) -> str:
    """A line for people: "3 RBC (0.62 to 0.97), 1 WBC (0.91)", the most frequent class first."""
    parts = []
    labels, counts = np.unique(found.labels, return_counts=True)
    for place in np.argsort(-counts, kind="stable"):
        scores = found.scores[found.labels == labels[place]]
        low, high = f"{scores.min():.2f}", f"{scores.max():.2f}"
        parts.append(
            f"{counts[place]} {class_names[int(labels[place])]} ({low if low == high else f'{low} to {high}'})"
        )
    return ", ".join(parts) or "nothing found"


def write_image(
    folder: Path, stem: str, image: Image.Image, one: Predicted, class_names: Sequence[str], *, crops: bool, text: bool
) -> None:
    """Writes the image with its boxes: STEM.jpg of a JPEG, else STEM.png.

    With ``crops`` also crops/CLASS/STEM-1 and so on, the most confident first, see `folder_names`; with ``text`` also
    STEM.txt, see `text_lines`.

    Args:
      folder: exists already.
      stem: see `unique_stems`.
      image: upright, in RGB.
      one: the detections in it.
      class_names: one for each class.
      crops: also write crops.
      text: also write a text file.
    """
    pixels, found = np.asarray(image), one.found
    jpeg = one.file.suffix.lower() in _JPEG
    suffix = ".jpg" if jpeg else ".png"
    order = np.argsort(-found.scores, kind="stable")
    marked = ImageWithBoxes(
        image=pixels,
        predicted=found.boxes[order],
        predicted_labels=found.labels[order],
        scores=found.scores[order],
        true=np.zeros((0, 4), np.float32),
        true_labels=np.zeros(0, np.int32),
    )
    _save(folder / f"{stem}{suffix}", image_with_boxes(marked, class_names), jpeg)
    if text:
        write_atomically(folder / f"{stem}.txt", "".join(f"{line}\n" for line in text_lines(one)).encode())
    if not crops:
        return
    folders = folder_names(class_names)
    for number, place in enumerate(order.tolist(), start=1):
        x0, y0 = np.floor(found.boxes[place, :2]).astype(int)
        x1, y1 = np.ceil(found.boxes[place, 2:]).astype(int)
        name = folders[int(found.labels[place])]
        (folder / "crops" / name).mkdir(parents=True, exist_ok=True)
        _save(folder / "crops" / name / f"{stem}-{number}{suffix}", pixels[y0:y1, x0:x1], jpeg)


def text_lines(one: Predicted) -> list[str]:
    """For each detection its class, counted from 0, centre x and y, width, height and confidence.

    Centre and size are fractions of the image's width and height, as `vision.data.annotations.box_text` reads them.
    """
    boxes = one.found.boxes.astype(np.float64) / ([one.width, one.height] * 2)
    rows = zip(boxes.tolist(), one.found.labels.tolist(), one.found.scores.tolist(), strict=True)
    return [
        f"{label} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f} {score:.6f}"
        for (x0, y0, x1, y1), label, score in rows
    ]


def write_results(
    folder: Path, predicted: Sequence[Predicted], class_names: Sequence[str], numbers: CocoNumbers | None = None
) -> None:
    """Writes ``detections.json`` in COCO's format of results, and ``images.json``, an annotation without boxes.

    Images and categories have the ids in ``numbers``, or are numbered from 1, in their order here. Boxes are
    [x, y, width, height] in pixels.

    Raises:
      UserError: ``numbers`` lacks one of them.
    """
    ids = [numbers.image(one.file) if numbers else place for place, one in enumerate(predicted, start=1)]
    kinds = [numbers.category(name) if numbers else place for place, name in enumerate(class_names, start=1)]
    results = [
        {"image_id": number, "category_id": kinds[label], "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
        for number, one in zip(ids, predicted, strict=True)
        for (x0, y0, x1, y1), label, score in zip(
            one.found.boxes.tolist(), one.found.labels.tolist(), one.found.scores.tolist(), strict=True
        )
    ]
    images = [
        {"id": number, "file_name": str(one.file), "width": one.width, "height": one.height}
        for number, one in zip(ids, predicted, strict=True)
    ]
    categories = [{"id": number, "name": name} for number, name in zip(kinds, class_names, strict=True)]
    named = {"images": images, "categories": categories, "annotations": []}
    for name, content in (("detections.json", results), ("images.json", named)):
        write_atomically(folder / name, json.dumps(content, ensure_ascii=False, indent=1).encode())


def _save(path: Path, pixels: np.ndarray, jpeg: bool) -> None:
    encoded = io.BytesIO()
    options = {"format": "JPEG", "quality": 92} if jpeg else {"format": "PNG"}
    Image.fromarray(pixels).save(encoded, **options)
    write_atomically(path, encoded.getvalue())
