"""What a classifier says of image files, as tables for other programs: JSON and CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vision.atomic import write_atomically
from vision.evaluation.image_files import write_json


@dataclass(frozen=True)
class Classified:
    """A file and its likeliest classes, or why it was skipped."""

    file: Path
    classes: tuple[tuple[str, float], ...] = ()
    """(name, probability), the likeliest first."""
    skipped: str = ""
    """Why the file cannot be decoded."""


def write_predictions(folder: Path, found: Sequence[Classified]) -> tuple[Path, Path]:
    """Write ``predictions.json`` and ``predictions.csv``; returns their paths.

    In JSON, a list of {"file": path, "classes": [{"name": ..., "probability": ...}, ...]} in the order of the files;
    one that was skipped has "skipped" with the reason in place of "classes". In CSV, a row a file with the columns
    file, class_1, probability_1, class_2, ... and skipped.
    """
    entries = [
        {"file": str(each.file), "skipped": each.skipped}
        if each.skipped
        else {
            "file": str(each.file),
            "classes": [{"name": name, "probability": probability} for name, probability in each.classes],
        }
        for each in found
    ]
    most = max((len(each.classes) for each in found), default=0)
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    pairs = [(f"class_{rank}", f"probability_{rank}") for rank in range(1, most + 1)]
    writer.writerow(["file", *(name for pair in pairs for name in pair), "skipped"])
    for each in found:
        cells = [str(cell) for pair in each.classes for cell in pair]
        writer.writerow([each.file, *cells, *[""] * (2 * most - len(cells)), each.skipped])
    paths = folder / "predictions.json", folder / "predictions.csv"
    write_json(paths[0], entries)
    write_atomically(paths[1], table.getvalue().encode("utf-8", "surrogateescape"))
    return paths
