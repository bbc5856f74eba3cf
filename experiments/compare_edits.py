"""Which editor edits best? One table over methods and runs: success, preservation, seams, with floor and ceiling.

    python -m experiments.compare_edits --runs runs/editor runs/inpainter runs/painter
    python -m experiments.compare_edits --runs runs/painter --methods repaint blended --resamplings 1 10 --count 500

Runs of ``edit_instructions`` are given the sentence; runs of ``inpaint_shapes`` the mask and what its inside shows;
runs that were not trained to edit, such as ``text_to_image_shapes``, the mask and a caption of the true result, by each
method. All edit the same test triples of the shapes world, whose masks are known. Below them is what the untouched
image and the true result get. edits.json, with success by kind of edit, and a sheet for each row are written to
``--out``, by default edits-compared/ in the folder of the first run.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from jaxtyping import UInt8

from vision.atomic import write_atomically
from vision.data.editing.data import EditsConfig, EditsData, edits_data
from vision.data.shapes.captions import captions
from vision.data.shapes.edits import Edits
from vision.data.shapes.instructions import NOTHING, contents
from vision.errors import UserError
from vision.evaluation.caption_facts import Reader
from vision.evaluation.edited_scenes import EditScores, edit_scores
from vision.evaluation.editing import WORDS, edit_sheet, of_parts, parts
from vision.home import expanded
from vision.launch.exit_code import exit_code
from vision.launch.load_run import LoadedRun, load_run
from vision.parallel.agreement import is_first
from vision.ranges import Fraction, PositiveInt, check_ranges
from vision.recipes.inpainting import InpaintingRunConfig
from vision.recipes.instructions import InstructionRunConfig
from vision.recipes.quick_edits import QUICK_EDITS
from vision.report.grid import save_png
from vision.tasks.editing import GeneralMethod
from vision.types import EditRequest

SHOWN = 12
"""Edits in the sheet of each row."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What is compared."""

    runs: tuple[Path, ...]
    """Folders of runs that edit or generate images."""
    count: PositiveInt = 100
    """Test triples."""
    methods: tuple[GeneralMethod, ...] = ("sdedit", "repaint", "blended", "inversion")
    """Of runs that were not trained to edit."""
    resamplings: tuple[PositiveInt, ...] = (1, 10)
    """Of repaint, a row each."""
    strength: Fraction = 0.75
    """Of the methods that have one."""
    out: Path | None = None
    """Folder for edits.json and the sheets. Default: edits-compared/ in the folder of the first run."""


def compare(config: Compared) -> Path:
    """Edit the triples by every run and method; prints the table and returns the folder of the results.

    Raises ``UserError`` for a run that edits no images, or edits of different worlds.
    """
    check_ranges(config)
    runs = [load_run(path) for path in config.runs]
    data = edits_data(_data(runs), sentences="instruction")
    indices = np.arange(min(config.count, len(data.source("test"))))
    edits, read = data.edits("test", indices), Reader(runs[0].compiler)
    groups = parts(edits, indices, data.held_out)
    score: Callable[[Any], EditScores] = lambda images: edit_scores(edits, images, read(images))
    rows: dict[str, dict[str, float]] = {}
    assert runs[0].folder is not None
    out = expanded(config.out) if config.out is not None else runs[0].folder / "edits-compared"
    for name, images in _edited(config, runs, data, edits, indices):
        rows[name] = of_parts(score(images), edits, groups)
        if is_first():
            out.mkdir(parents=True, exist_ok=True)
            sheet = _first(edits, SHOWN)
            save_png(
                out / f"{len(rows):02d}.png", edit_sheet(sheet, images[:SHOWN], data.sentences("test", indices[:SHOWN]))
            )
            print(_line(name, rows[name]), flush=True)
    if is_first():
        protocol = f"{len(indices)} edits of {data.description('test')}; {read.protocol}"
        written = {"protocol": protocol, "measures": dict(WORDS), "rows": rows}
        write_atomically(out / "edits.json", (json.dumps(written, indent=1) + "\n").encode())
    return out


def _data(runs: list[LoadedRun]) -> EditsConfig:
    own = [run.config.data for run in runs if isinstance(run.config.data, EditsConfig)]
    if any(each != own[0] for each in own):
        raise UserError("the runs edit different worlds: compare runs of one configuration of data")
    return own[0] if own else QUICK_EDITS


def _edited(
    config: Compared, runs: list[LoadedRun], data: EditsData, edits: Edits, indices: np.ndarray
) -> Iterator[tuple[str, UInt8[np.ndarray, "n h w 3"]]]:
    """(name of a row, edited images)."""
    texts, inside = data.sentences("test", indices), contents(edits)
    masks = edits.mask[..., None]
    said = _captions(edits)
    words = lambda row: {"remove": True} if inside[row] == NOTHING else {"prompt": inside[row]}
    for run in runs:
        if isinstance(run.config, InstructionRunConfig):
            yield run.name, _of(run, edits, lambda row: {"instruction": texts[row]})
        elif isinstance(run.config, InpaintingRunConfig):
            yield run.name, _of(run, edits, lambda row: {"mask": masks[row], **words(row)})
        else:
            for name, options in _general(config):
                of = lambda row, options=options: {"mask": masks[row], "prompt": said[row], **options}
                yield f"{run.name}, {name}", _of(run, edits, of)
    yield "the untouched image", edits.before["image"]
    yield "the true result", edits.after["image"]


def _general(config: Compared) -> Iterator[tuple[str, dict[str, Any]]]:
    for method in config.methods:
        if method == "repaint":
            for number in config.resamplings:
                yield f"repaint, {number} resamplings", {"method": method, "resamplings": number}
        else:
            yield f"{method}, strength {config.strength:g}", {"method": method, "strength": config.strength}


def _of(run: LoadedRun, edits: Edits, asked: Callable[[int], Mapping[str, Any]]) -> UInt8[np.ndarray, "n h w 3"]:
    if run.experiment.editing is None:
        raise UserError(f"{run.folder} is a run of {run.name}, which edits no images")
    editing = run.experiment.editing(run.compiler)
    made = []
    for row, image in enumerate(edits.before["image"]):
        of = dict(asked(row))
        if "mask" in of and not 0 < of["mask"].mean() < 255:
            made.append(image)  # a mask of nothing, or of a scene without figures whose background changes
            continue
        made.append(editing(run.state, EditRequest(image=image, seed=row, **of)).images[0])
    return np.stack(made)


def _captions(edits: Edits) -> list[str]:
    """A caption of each true result; "" where it shows no figure."""
    known = np.any(edits.after["valid"], axis=1)
    some = {name: value[known] for name, value in edits.after.items()}
    made = iter(captions(some, edits.config) if known.any() else [])
    return [next(made) if each else "" for each in known.tolist()]


def _first(edits: Edits, count: int) -> Edits:
    """The first edits alone."""
    part = lambda scene: {name: value[:count] for name, value in scene.items()}
    of = {name: getattr(edits, name)[:count] for name in ("kind", "subject", "side", "mask")}
    return replace(edits, before=part(edits.before), after=part(edits.after), **of)


def _line(name: str, numbers: Mapping[str, float]) -> str:
    shown = "  ".join(f"{key} {numbers[key]:.3g}" for key in WORDS)
    kinds = "  ".join(f"{key.removeprefix('success_')} {value:.2f}" for key, value in numbers.items() if "_" in key)
    return f"{name:48}  {shown}  [{kinds}]"


def main(arguments: list[str]) -> int:
    """Parse and compare; returns the exit code."""
    config = tyro.cli(Compared, args=arguments, description=__doc__)
    return exit_code(lambda: print(compare(config)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
