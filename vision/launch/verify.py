"""``python -m vision verify FILES...``: what is known of where images come from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from vision.data.image_file import ImageError, opened, upright
from vision.data.provenance import KEYWORD, message_of, pixel_hash, record_of
from vision.errors import UserError
from vision.launch.files import files_of
from vision.launch.options import HELP
from vision.launch.provenance import MARKS
from vision.ops.pixels import to_float
from vision.ops.watermark import Reading, least_agreement, read_mark

USAGE = "python -m vision verify FILES... [--records FOLDERS...]"
FALSE_POSITIVES = 1e-6
"""How often an image without a watermark may be taken for one with a message that is looked for."""
_HELP = f"""{USAGE}
Print what is known of where images come from: the record in the file ({KEYWORD!r} in a PNG), whether its pixels are
those that the record was written for, and the watermark.

  --records    folders of generated images: a file that has lost its record is looked for among theirs by its watermark

A record is not signed. Bits of a watermark agree by chance in one of a million images.
"""


def main(words: Sequence[str]) -> None:
    """Print some lines for each file. Raises ``UserError``."""
    if not words or HELP & set(words):
        print(_HELP)
        return
    place = words.index("--records") if "--records" in words else len(words)
    unknown = next((word for word in words if word.startswith("--") and word != "--records"), None)
    if unknown is not None:
        raise UserError(f"verify has no option {unknown}: {USAGE}")
    known = records_in(files_of(words[place + 1 :])) if place < len(words) else {}
    files = files_of(words[:place])
    if not files:
        raise UserError(f"verify needs files: {USAGE}")
    print("\n".join(line for file in files for line in verified(file, known)))


def records_in(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Records that a watermark goes with, by the file that they are in."""
    found = {}
    for file in files:
        try:
            record = record_of(file)
        except ImageError:
            continue
        if record is not None and record.get("watermark") in MARKS:
            found[str(file)] = record
    return found


def verified(file: Path, known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is known of a file, a line each; the first names it.

    Args:
      file: an image.
      known: records of other files, among which a file without one is looked for.
    """
    try:
        record = record_of(file)
        with opened(file, adjustable=False) as image:
            grey = image.mode == "L"
            pixels = np.asarray(upright(image))
    except ImageError as error:
        return [f"{file}: {error.reason}"]
    if record is None:
        return [f"{file}: no record", *(f"  {line}" for line in _searched(pixels, known))]
    same = record.get("pixels") == pixel_hash(pixels[..., :1] if grey else pixels)
    said = {name: value for name, value in record.items() if name not in ("format", "pixels", "watermark")}
    lines = [f"{file}: a record, whose pixels {'are these' if same else 'were others: the image has been changed'}"]
    lines += [f"  {name}: {value if isinstance(value, str) else json.dumps(value)}" for name, value in said.items()]
    if record.get("watermark") in MARKS:
        agree, bits = agreement(pixels, record)
        words = "of the record" if agree >= least_agreement(bits, FALSE_POSITIVES) else "which is chance: it is gone"
        lines.append(f"  watermark: {agree} of {bits} bits {words}")
    return lines


def agreement(pixels: UInt8[np.ndarray, "h w 3"], record: Mapping[str, Any]) -> tuple[int, int]:
    """(how many bits of an image's watermark are those of a record, of how many)."""
    bits = MARKS[record["watermark"]].bits
    reading = _read(pixels, record["watermark"])
    return (0 if reading is None else int((reading.message == message_of(record, bits)).sum())), bits


def _read(pixels: UInt8[np.ndarray, "h w 3"], name: str) -> Reading | None:
    """What a watermark says; None for an image that is too small for it."""
    if min(pixels.shape[:2]) < MARKS[name].tile:
        return None
    return read_mark(to_float(jnp.asarray(pixels[None])), MARKS[name])[0]


def _searched(pixels: UInt8[np.ndarray, "h w 3"], known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The known record whose message the image's watermark has, if any."""
    if not known:
        return ["watermark: not looked for; name folders of generated images with --records"]
    found: list[tuple[int, str, int]] = []
    for name in {str(record["watermark"]) for record in known.values()}:
        reading = _read(pixels, name)
        if reading is None:
            continue
        own = {file: record for file, record in known.items() if record["watermark"] == name}
        counts = {file: int((reading.message == message_of(r, len(reading.message))).sum()) for file, r in own.items()}
        # among many messages one agrees by chance more often
        needed = least_agreement(len(reading.message), FALSE_POSITIVES / len(known))
        found += [(count - needed, file, count) for file, count in counts.items()]
    margin, file, count = max(found, default=(-1, "", 0))
    if margin < 0:
        return [f"watermark: that of none of {len(known)} records"]
    return [f"watermark: that of {file}, {count} bits agree"]
