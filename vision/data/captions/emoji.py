"""A set of emoji with their names: ``images64_rgba.npz`` and ``captions.json`` in one folder, in the same order.

The images are transparent around the emoji and are put on white. One of ten is held out, by its code points.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vision.data.captions.source import Captioned, ListedTexts, checked
from vision.data.source import ArraySource
from vision.errors import UserError, on_one_line
from vision.home import expanded

IMAGES, CAPTIONS = "images64_rgba.npz", "captions.json"
_MOST_BYTES = 2**28


def emoji_source(path: str | Path, *, skin_tones: bool) -> tuple[Captioned, tuple[str, ...]]:
    """The emoji with their names, and what identifies each; without those of a skin tone unless ``skin_tones``.

    Raises:
      UserError: a file is missing or damaged, or they do not fit each other.
    """
    root = expanded(path)
    entries, images = _entries(root / CAPTIONS), _images(root / IMAGES)
    if len(entries) != len(images):
        raise UserError(f"{root / IMAGES} has {len(images)} images and {CAPTIONS} {len(entries)} captions: fetch both")
    kept = [row for row, (_, _, tone) in enumerate(entries) if skin_tones or not tone]
    if not kept:
        raise UserError(f"{root / CAPTIONS} has no emoji without a skin tone: set --data.skin-tones")
    texts = ListedTexts([(entries[row][0],) for row in kept])
    return Captioned(ArraySource({"image": on_white(images[kept])}), texts), tuple(entries[row][1] for row in kept)


def on_white(images: UInt8[np.ndarray, "n h w 4"]) -> UInt8[np.ndarray, "n h w 3"]:
    """RGBA images over white, rounded."""
    made = np.empty((*images.shape[:3], 3), np.uint8)
    for row, image in enumerate(images):
        opacity = image[..., 3:].astype(np.float32) / 255
        made[row] = np.floor(image[..., :3] * opacity + 255 * (1 - opacity) + 0.5)
    return made


def _entries(file: Path) -> list[tuple[str, str, bool]]:
    """(caption, code points, whether it has a skin tone) of each emoji."""
    try:
        content = json.loads(file.read_bytes())
        entries = [
            (
                checked(str(each["caption"]), str(file)),
                "-".join(map(str, each["codepoints"])),
                each.get("skin_tone") is True,
            )
            for each in content
        ]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
    # deep nesting is a RecursionError
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        why = on_one_line(" ".join(str(error).split()))
        raise UserError(f"{file} is no list of emoji with caption and codepoints ({why}): fetch it again.") from error
    nameless = [number for number, (caption, _, _) in enumerate(entries) if not caption]
    if nameless or not entries:
        raise UserError(f"{file} has {'an entry without a caption' if nameless else 'no entries'}: fetch it again.")
    return entries


def _images(file: Path) -> UInt8[np.ndarray, "n h w 4"]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise UserError(f"{file} has more than {_MOST_BYTES >> 20} MiB, which is not what it should be.")
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as content:
            if sum(member.file_size for member in content.zip.infolist()) > _MOST_BYTES:
                raise UserError(
                    f"{file} has arrays of more than {_MOST_BYTES >> 20} MiB, which is too large to be emoji."
                )
            arrays: list[Any] = [content[name] for name in content.files]
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # numpy and zipfile raise almost anything for damaged files
        raise UserError(f"{file} is damaged ({on_one_line(' '.join(str(error).split()))}): fetch it again.") from error
    images = arrays[0] if len(arrays) == 1 else None
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 4:
        raise UserError(f"{file} does not hold one array of RGBA images, uint8 [n h w 4]: fetch it again.")
    return images
