"""Detections written to files: images with boxes or masks, crops, text files, and results in COCO's format."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from vision.atomic import write_atomically
from vision.data.annotations.coco import CocoNumbers
from vision.evaluation.image_files import write_json
from vision.evaluation.mask_files import polygon_lines, save_cutout, save_instance_map, segmentations
from vision.metrics.detection.average_precision import ImageDetections
from vision.ops import rle
from vision.ops.rle import Rle
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
    """Writes the image with its boxes or masks: STEM.jpg of a JPEG, else STEM.png.

    With ``crops`` also crops/CLASS/STEM-1 and so on, the most confident first, see `folder_names`; with ``text`` also
    STEM.txt, see `text_lines` and `vision.evaluation.mask_files.polygon_lines`. Of masks also masks/STEM.png, see
    `vision.evaluation.mask_files.save_instance_map`.

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
        predicted_masks=None if found.masks is None else _decoded([found.masks[i] for i in order], one),
    )
    _save(folder / f"{stem}{suffix}", image_with_boxes(marked, class_names), jpeg)
    if found.masks is not None:
        (folder / "masks").mkdir(exist_ok=True)
        save_instance_map(folder / "masks" / f"{stem}.png", found, height=one.height, width=one.width)
    if text:
        lines = text_lines(one) if found.masks is None else polygon_lines(found, one.width, one.height)
        write_atomically(folder / f"{stem}.txt", "".join(f"{line}\n" for line in lines).encode())
    if not crops:
        return
    folders = folder_names(class_names)
    for number, place in enumerate(order.tolist(), start=1):
        x0, y0 = np.floor(found.boxes[place, :2]).astype(int)
        x1, y1 = np.ceil(found.boxes[place, 2:]).astype(int)
        name = folders[int(found.labels[place])]
        if found.masks is not None:
            save_cutout(folder / "crops" / name / f"{stem}-{number}.png", pixels, rle.decode(found.masks[place]))
            continue
        (folder / "crops" / name).mkdir(parents=True, exist_ok=True)
        _save(folder / "crops" / name / f"{stem}-{number}{suffix}", pixels[y0:y1, x0:x1], jpeg)


def _decoded(masks: Sequence[Rle], one: Predicted) -> Bool[np.ndarray, "n h w"]:
    made = np.zeros((len(masks), one.height, one.width), bool)
    for k, mask in enumerate(masks):
        made[k] = rle.decode(mask)
    return made


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

    Masks are the "segmentation" of results as run lengths, and ``polygons.json`` is an annotation with the outlines of
    all of their parts; an instance whose mask has no pixel is not in it, since it has no outline. Images and categories
    have the ids in ``numbers``, or are numbered from 1, in their order here. Boxes are [x, y, width, height] in pixels.

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
    written: dict[str, Any] = {"detections.json": results, "images.json": named}
    if predicted[0].found.masks is not None:
        outlined: list[dict[str, Any]] = []
        places = iter(results)
        for one in predicted:
            for packed, parts in zip(*segmentations(one.found), strict=True):
                result = next(places)
                result["segmentation"] = packed
                if not parts:
                    continue
                own = {name: result[name] for name in ("image_id", "category_id", "bbox", "score")}
                area = rle.area(Rle(one.height, one.width, packed["counts"].encode()))
                number = len(outlined) + 1
                outlined.append({"id": number, **own, "segmentation": parts, "area": area, "iscrowd": 0})
        written["polygons.json"] = {**named, "annotations": outlined}
    for name, content in written.items():
        write_json(folder / name, content)


def _save(path: Path, pixels: np.ndarray, jpeg: bool) -> None:
    encoded = io.BytesIO()
    options = {"format": "JPEG", "quality": 92} if jpeg else {"format": "PNG"}
    Image.fromarray(pixels).save(encoded, **options)
    write_atomically(path, encoded.getvalue())
