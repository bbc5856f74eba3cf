"""Panoptic segmentation of files: overlays, and segments in COCO's panoptic form."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from vision.atomic import write_atomically
from vision.data.annotations.panoptic import colours_of_ids
from vision.data.image_file import MAX_PIXELS
from vision.data.letterbox import Letterbox, letterboxed
from vision.evaluation.detection import Paste
from vision.evaluation.detection_files import unique_stems
from vision.evaluation.image_files import nothing_to_predict, opened_or_reason, skipped, write_json
from vision.evaluation.panoptic import FindAll, for_images, found_in_image
from vision.evaluation.panoptic_merging import MergingConfig
from vision.metrics.segmentation.panoptic import Segments
from vision.report.boxes import class_colours
from vision.report.grid import save_png
from vision.report.panoptic import labelled_segments
from vision.train.compile import Compiler


def panoptic_files(
    compiler: Compiler,
    find: FindAll,
    merging: MergingConfig,
    *,
    class_names: Sequence[str],
    things: int,
    resolution: int,
    max_pixels: int = MAX_PIXELS,
    paste: Paste,
) -> Callable[[Any, Sequence[Path], Path], list[str]]:
    """(variables, files, folder) -> a line a file that lists its segments; writes images to the folder.

    The folder gets, for each file, ``NAME.png``, the image under its segments with a legend, and
    ``panoptic/NAME.png``, the ids of segments as colours; and for all files ``panoptic.json`` in COCO's panoptic form,
    which `vision.data.annotations.panoptic.read_panoptic` reads, with categories numbered from 1.

    Files that are not images are skipped and named. Raises ``UserError`` where none is an image.

    Args:
      compiler: of the model's mesh.
      find: the network.
      merging: how segments are made.
      class_names: one for each class of things, then of stuff.
      things: how many are of things.
      resolution: side of the squares that files are letterboxed into.
      max_pixels: limit of an image's width times height.
      paste: of the network's masks.
    """
    compiled = compiler.function(find)
    colours = class_colours(len(class_names))

    def predict(variables: Any, files: Sequence[Path], folder: Path) -> list[str]:
        lines: list[str] = []
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        first = jax.process_index() == 0
        for file, stem in zip(files, unique_stems(files), strict=True):
            image = opened_or_reason(file, max_pixels)
            if isinstance(image, str):
                lines.append(skipped(file, image))
                continue
            box = Letterbox(image.width, image.height, resolution)
            square = compiler.shard_padded(letterboxed(image, resolution)[None])
            outputs = jax.device_get(compiled(variables, square))
            segments = found_in_image(outputs, 0, box, merging, paste, things=things).segments
            lines.append(f"{file}: {_listed(segments, class_names)}")
            number, name = len(images) + 1, f"{stem}.png"
            images.append({"id": number, "file_name": file.name, "width": image.width, "height": image.height})
            annotations.append({"image_id": number, "file_name": name, "segments_info": _infos(segments)})
            if first:
                (folder / "panoptic").mkdir(parents=True, exist_ok=True)
                save_png(
                    folder / name, labelled_segments(np.asarray(image), for_images(segments), class_names, colours)
                )
                encoded = io.BytesIO()
                Image.fromarray(colours_of_ids(segments.map)).save(encoded, format="PNG")
                write_atomically(folder / "panoptic" / name, encoded.getvalue())
        if not images:
            raise nothing_to_predict(files)
        if first:
            categories = [
                {"id": number, "name": name, "isthing": int(number <= things)}
                for number, name in enumerate(class_names, start=1)
            ]
            content = {"images": images, "annotations": annotations, "categories": categories}
            write_json(folder / "panoptic.json", content)
        return [*lines, f"overlays, the ids of segments, and panoptic.json: {folder}"]

    return predict


def _listed(segments: Segments, class_names: Sequence[str]) -> str:
    """The share of each segment: "circle 12.0%, circle 9.4%, clouds 76.5%, void 2.1%"."""
    if not len(segments.ids):
        return "no segments"
    shares = [float((segments.map == number).mean()) for number in segments.ids.tolist()]
    parts = [f"{class_names[label]} {share:.1%}" for label, share in zip(segments.labels.tolist(), shares, strict=True)]
    void = 1 - sum(shares)
    return ", ".join([*parts, *([f"void {void:.1%}"] if void >= 0.0005 else [])])


def _infos(segments: Segments) -> list[dict[str, Any]]:
    infos = []
    for number, label in zip(segments.ids.tolist(), segments.labels.tolist(), strict=True):
        rows, columns = np.nonzero(segments.map == number)
        x, y = int(columns.min()), int(rows.min())
        box = [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]
        infos.append({"id": number, "category_id": label + 1, "iscrowd": 0, "bbox": box, "area": len(rows)})
    return infos
