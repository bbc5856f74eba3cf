"""Image files that a model predicts: each decoded or skipped with its reason, and JSON that names them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vision.atomic import write_atomically
from vision.data.image_file import ImageError, opened, upright
from vision.errors import UserError


def opened_or_reason(file: Path, max_pixels: int) -> Image.Image | str:
    """The image, upright and in RGB; or why it cannot be decoded."""
    try:
        with opened(file, max_pixels=max_pixels) as image:
            return upright(image)
    except ImageError as error:
        return error.reason


def skipped(file: Path, reason: str) -> str:
    """The line of a file that cannot be decoded."""
    return f"{file}: skipped, it cannot be decoded ({reason})"


def nothing_to_predict(files: Sequence[Path]) -> UserError:
    """The error that none of the files is an image."""
    rest = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return UserError(f"there is nothing to predict: {files[0]}{rest} cannot be decoded as images")


def write_json(path: Path, content: Any) -> None:
    """Write JSON with names of files, of which one that is not UTF-8 keeps its bytes."""
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    write_atomically(path, text.encode("utf-8", "surrogateescape"))
