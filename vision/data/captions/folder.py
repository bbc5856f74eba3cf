"""A folder of images with captions: ``metadata.jsonl``, or a text file beside each image.

``metadata.jsonl`` has a JSON object on each line: {"file_name": "a/1.png", "text": "a cat"}, where the text may also be
a list, and several lines may be of one image. Without it, ``1.txt`` has the captions of ``1.png``, one on each line.
Images without a caption, and captions whose image is missing, are left out and counted.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from vision.data.annotations.coco import file_name
from vision.data.annotations.fields import Entry, shown, text_lines
from vision.data.captions.source import Captioned, ListedTexts, checked
from vision.data.folder import FolderSource, image_files
from vision.data.image_file import MAX_PIXELS
from vision.data.notices import notice
from vision.errors import UserError
from vision.home import expanded

METADATA = "metadata.jsonl"
_LONGEST_LINE = 2**20


def captioned_folder(path: str | Path, *, resolution: int | None, max_pixels: int = MAX_PIXELS) -> Captioned:
    """The images below ``path`` that have captions, sorted by file name.

    Args:
      path: the folder.
      resolution: as in ``vision.data.folder.folder_source``.
      max_pixels: limit of an image's width times height.

    Raises:
      UserError: there is no such folder, no image or no caption; a line is not such an object, or names a file outside
        the folder; a text file is not UTF-8; a caption is too long.
    """
    root = expanded(path)
    files = image_files(root, known=(".txt", ".jsonl"))
    found = _of_metadata(root) if (root / METADATA).is_file() else _beside(files)
    kept = [file for file in files if found.get(file)]
    if not kept:
        has = (root / METADATA).is_file()
        advice = f"{METADATA} names none of them" if has else f"put {METADATA} there, or a .txt beside each image"
        raise UserError(f"none of the {len(files)} images in {root} has a caption: {advice}.")
    report(root, uncaptioned=len(files) - len(kept), missing=len(found.keys() - set(files)))
    texts = ListedTexts([tuple(found[file]) for file in kept])
    return Captioned(FolderSource(tuple(kept), None, (), resolution, None, max_pixels), texts)


def report(place: Path, *, uncaptioned: int, missing: int) -> None:
    """Say on stderr how many images have no caption, and how many captions no image."""
    parts = []
    if uncaptioned:
        parts.append(f"{uncaptioned:,} images without a caption" if uncaptioned > 1 else "1 image without a caption")
    if missing:
        parts.append(f"captions of {missing:,} missing images" if missing > 1 else "captions of 1 missing image")
    if parts:
        notice(f"{place} has {' and '.join(parts)}, which are left out.")


def _of_metadata(root: Path) -> dict[Path, list[str]]:
    path, found = root / METADATA, {}
    for place, line in _lines(path):
        try:
            fields = json.loads(line)
        # deep nesting is a RecursionError
        except (ValueError, RecursionError) as error:
            raise UserError(f"line {place + 1} of {path} is not JSON: {error}.") from error
        if not isinstance(fields, dict):
            raise UserError(f'line {place + 1} of {path} is no object with "file_name" and "text".')
        entry = Entry(fields, "line", place + 1, path)
        file = root / file_name(entry)
        value = entry.value("text")
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise entry.refused(f"a text that is neither text nor a list of texts: {shown(value)}")
        captions = [checked(text, f"line {place + 1} of {path}") for text in texts]
        found.setdefault(file, []).extend(text for text in captions if text)
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not empty, with their numbers from 0."""
    try:
        with path.open("rb") as file:
            place = 0
            while line := file.readline(_LONGEST_LINE + 1):
                if len(line) > _LONGEST_LINE:
                    raise UserError(f"line {place + 1} of {path} has more than {_LONGEST_LINE:,} bytes.")
                if line.strip():
                    yield place, line
                place += 1
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _beside(files: tuple[Path, ...]) -> dict[Path, list[str]]:
    found = {}
    for file in files:
        text = file.with_suffix(".txt")
        if text.is_file():
            lines = (checked(line, str(text)) for line in text_lines(text, "The caption"))
            found[file] = [line for line in lines if line]
    return found
