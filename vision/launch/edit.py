"""``python -m vision edit``: images of files, edited by a run; the results, the mask, a sheet and what was done."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vision.atomic import write_atomically
from vision.data.image_file import opened
from vision.data.provenance import record_of
from vision.errors import UserError
from vision.launch.actions import predict, writing
from vision.launch.files import files_of
from vision.launch.load_run import LoadedRun
from vision.launch.options import command_line, unknown_name
from vision.launch.provenance import request_record, run_record, save_generated
from vision.launch.verb_options import AUTO, EditOptions
from vision.parallel.agreement import is_first
from vision.report.edits_page import ShownEdit, write_edits_page
from vision.report.grid import sample_grid, save_png
from vision.train.compiling import compiling_for
from vision.types import Edited, EditMethod, EditRequest

WITH_STRENGTH: tuple[EditMethod, ...] = ("sdedit", "blended", "inversion")
"""Methods of which a strip of strengths is shown."""


def edit(run: LoadedRun, segmenter: LoadedRun | None, options: EditOptions, out: Path) -> list[str]:
    """Edit images and write what came of them to ``out``, a folder for each image; a line about each.

    A folder has ``before.png``, ``mask.png``, ``00000.png`` and so on, ``sheet.png``, ``strengths.png`` where the
    method has a strength, and ``edit.json``; ``out`` has ``edits.html`` with all of them.

    Raises ``UserError`` for a run that edits no images, a mask that does not fit, or a class that the segmenter does
    not know or find.
    """
    if run.experiment.editing is None or run.experiment.replicas:
        why = "is a run of several replicas" if run.experiment.replicas else "does not generate images"
        raise UserError(f"{run.name} {why}, so that it cannot edit any")
    files = files_of(options.image)
    with compiling_for("the edits", lambda text: None):
        editing = run.experiment.editing(run.compiler)
    origin = run_record(run)
    lines, shown = [], []
    for file, stem in zip(files, _stems(files), strict=True):
        image = read_image(file, "RGB")
        mask = mask_of(options, file, image, segmenter)
        request = options.request(image, mask)
        edited = editing(run.state, request)
        strip = _strip(editing, run, request, edited, options.strengths)
        if not is_first():
            continue
        with writing(out):
            lines += [f"{file}: {note}" for note in edited.notes]
            shown.append(_written(out / stem, file, origin, request, edited, strip))
            lines.append(f"{file}: {len(edited.images)} by {edited.method}: {out / stem / 'sheet.png'}")
    if is_first():
        with writing(out):
            title = f"Edits by {run.name} after {run.images:,} images"
            write_edits_page(out / "edits.html", title=title, command=command_line(), edits=shown)
        lines.append(f"page: {out / 'edits.html'}")
    return lines


def read_image(path: Path, mode: str) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of a file in a mode of Pillow, "RGB" or "L"."""
    with opened(path, adjustable=False) as image:
        pixels = np.asarray(image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def mask_of(
    options: EditOptions, file: Path, image: UInt8[np.ndarray, "h w 3"], segmenter: LoadedRun | None
) -> UInt8[np.ndarray, "h w 1"] | None:
    """The mask of one image, 0 or 255 at its size; None for none.

    Raises ``UserError`` where it does not fit the image, or is empty or full.
    """
    height, width = image.shape[:2]
    name = options.mask
    if name is None and not options.box and options.background and segmenter is not None:
        name = f"{AUTO}background"
    if name is None and not options.box:
        return None
    if options.box:
        x0, y0, x1, y1 = options.box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise UserError(
                f"--box {x0} {y0} {x1} {y1} is no box inside {file}, which has {width}x{height} pixels: x0 < x1 and "
                "y0 < y1"
            )
        inside = np.zeros((height, width), bool)
        inside[y0:y1, x0:x1] = True
        name = "--box"
    elif name is not None and name.startswith(AUTO):
        inside = segmented(segmenter, name.removeprefix(AUTO), file)
    else:
        assert name is not None
        (path,) = files_of([name])[:1]
        pixels = read_image(path, "L")
        if pixels.shape[:2] != (height, width):
            raise UserError(
                f"{path} has {pixels.shape[1]}x{pixels.shape[0]} pixels and {file} {width}x{height}: give a mask of "
                "the image's size"
            )
        inside = pixels[..., 0] > 127
    inside = ~inside if options.invert else inside
    if not inside.any():
        raise UserError(f"{name} marks nothing of {file}: a mask is white where the image may change")
    if inside.all():
        raise UserError(f"{name} marks all of {file}, so that nothing would stay: leave it out to edit the whole image")
    return np.where(inside, 255, 0).astype(np.uint8)[..., None]


def segmented(segmenter: LoadedRun | None, name: str, file: Path) -> np.ndarray:
    """Where a segmenter finds a class in an image: bool [h w].

    ``name`` is that of a class; of a run that finds objects, "circle:2" is the second most confident circle.

    Raises ``UserError`` without a segmenter, for one without masks, for a class it does not know, or does not find.
    """
    if segmenter is None:
        raise UserError(f"--mask {AUTO}{name} needs a network that finds it: name a run with --segmenter")
    wanted, _, number = name.partition(":")
    if number and not (number.isdecimal() and int(number) > 0):
        raise UserError(f"{AUTO}{name} is a class, or a class and a number from 1, such as {AUTO}circle:2")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        predict(segmenter, [str(file)], folder)
        if (folder / "segmentation.json").exists():
            names = json.loads((folder / "segmentation.json").read_text())["class_names"]
            _known(wanted, names)
            if number:
                raise UserError(f"{segmenter.name} tells classes apart, and not objects: write {AUTO}{wanted}")
            (mask,) = (folder / "masks").glob("*.png")
            found = _index_mask(mask) == names.index(wanted)
        else:
            found = _objects(folder, segmenter, wanted, int(number) if number else None, file)
    if not found.any():
        raise UserError(f"{segmenter.name} finds no {wanted} in {file}: give --mask FILE or --box")
    return found


def _objects(folder: Path, segmenter: LoadedRun, wanted: str, number: int | None, file: Path) -> np.ndarray:
    listed = folder / "detections.json"
    results: list[dict[str, Any]] = json.loads(listed.read_text()) if listed.exists() else []
    if not listed.exists() or (results and "segmentation" not in results[0]):
        raise UserError(
            f"{segmenter.name} makes no masks: name a run of experiments.segment_folder or instances_folder"
        )
    content = json.loads((folder / "images.json").read_text())
    kinds = {each["name"]: each["id"] for each in content["categories"]}
    _known(wanted, list(kinds))
    # the map of instances numbers them by falling confidence
    order = sorted(range(len(results)), key=lambda place: -results[place]["score"])
    own = [rank for rank, place in enumerate(order, start=1) if results[place]["category_id"] == kinds[wanted]]
    if number is not None and number > len(own):
        raise UserError(f"{segmenter.name} finds {len(own)} of the class {wanted} in {file}, and not {number}")
    (numbers,) = (folder / "masks").glob("*.png")
    return np.isin(_index_mask(numbers), own if number is None else own[number - 1 : number])


def _known(name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UserError(unknown_name("class", name, list(names), f"the segmenter knows {', '.join(names)}"))


def _index_mask(path: Path) -> np.ndarray:
    with opened(path, adjustable=False) as image:
        return np.asarray(image)


def _strip(
    editing: Any, run: LoadedRun, request: EditRequest, edited: Edited, strengths: Sequence[float]
) -> list[tuple[float, UInt8[np.ndarray, "s s 3"]]]:
    if edited.method not in WITH_STRENGTH:
        return []
    made = []
    for strength in strengths:
        changed = replace(request, strength=strength, count=1, method=edited.method)
        made.append((strength, editing(run.state, changed).images[0]))
    return made


def _written(
    folder: Path,
    file: Path,
    origin: Mapping[str, Any],
    request: EditRequest,
    edited: Edited,
    strip: Sequence[tuple[float, UInt8[np.ndarray, "s s 3"]]],
) -> ShownEdit:
    """Write the folder of one image."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("[0-9]*.png"):  # of an earlier call, perhaps more than there are now
        path.unlink()
    save_png(folder / "before.png", edited.image)
    paths = [folder / f"{index:05d}.png" for index in range(len(edited.images))]
    source = {"source": known} if (known := record_of(file)) is not None else {}  # what was done to it before
    record = {"made": f"edited by {edited.method}", **origin, "request": request_record(request), **source}
    save_generated(paths, edited.images, record)
    rows, captions = [edited.image], ["before"]
    if edited.weight is not None:
        levels = np.round(255 * edited.weight).astype(np.uint8)
        save_png(folder / "mask.png", levels)
        rows.append(np.repeat(levels, 3, axis=-1))
        captions.append("mask")
    count = len(edited.images)
    captions += [f"after, {index} of {count}" if count > 1 else "after" for index in range(1, count + 1)]
    save_png(
        folder / "sheet.png", sample_grid(np.stack([*rows, *edited.images]), columns=len(captions), captions=captions)
    )
    if strip:
        words = [f"strength {strength:g}" for strength, _ in strip]
        save_png(
            folder / "strengths.png",
            sample_grid(np.stack([image for _, image in strip]), columns=len(strip), captions=words),
        )
    asked = {each.name: getattr(request, each.name) for each in fields(request) if each.name not in ("image", "mask")}
    done = {
        "file": str(file),
        "command": command_line(),
        "request": asked,
        "method": edited.method,
        "mask": edited.weight is not None,
        "notes": list(edited.notes),
        **edited.measures,
    }
    write_atomically(folder / "edit.json", (json.dumps(done, indent=1) + "\n").encode())
    words = request.instruction or request.prompt or ("remove" if request.remove else "no words")
    return ShownEdit(folder=folder.name, file=file.name, words=words, method=edited.method, notes=edited.notes)


def _stems(files: Sequence[Path]) -> list[str]:
    """A folder name for each file."""
    stems = [file.stem for file in files]
    return [stem if stems.count(stem) == 1 else f"{stem}-{index}" for index, stem in enumerate(stems)]
