"""Where an image comes from: a record inside its file.

A record is JSON in a text chunk of a PNG, so that it travels with the file until a program writes the image anew. It is
not signed: it says where an image comes from to those who want to know, and proves nothing to those who doubt it. Its
field "pixels" is the hash of the pixels that it was written for.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vision.data.image_file import opened

KEYWORD = "vision provenance"
"""Of the text chunk (iTXt)."""
FORMAT = 1
_MOST_CHARACTERS = 100_000


def pixel_hash(image: UInt8[np.ndarray, "h w c"]) -> str:
    """SHA-256, in hexadecimal, of the shape and the values."""
    return hashlib.sha256(f"{list(image.shape)}\n".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def record_text(record: Mapping[str, Any], image: UInt8[np.ndarray, "h w c"]) -> str:
    """The text of a record, of JSON's types, for the file of ``image``; "format" and "pixels" are added."""
    return json.dumps({"format": FORMAT, **record, "pixels": pixel_hash(image)}, sort_keys=True)


def record_of(file: Path | io.BytesIO) -> dict[str, Any] | None:
    """The record in a file; None where there is none that can be read.

    Raises ``ImageError`` for a file that is no image.
    """
    with opened(file, adjustable=False) as image:
        image.load()  # text chunks may follow the pixels
        text = getattr(image, "text", {}).get(KEYWORD)
    if not isinstance(text, str) or len(text) > _MOST_CHARACTERS:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def message_of(record: Mapping[str, Any], bits: int) -> np.ndarray:
    """The first bits of the SHA-256 of a record without its "pixels" and "format": what a watermark carries of it.

    Returns bool [bits]; ``bits`` is at most 256.
    """
    own = {name: value for name, value in record.items() if name not in ("pixels", "format")}
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).digest()
    return np.unpackbits(np.frombuffer(digest, np.uint8))[:bits].astype(bool)
