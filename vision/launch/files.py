"""Files that a user names."""

import glob
from collections.abc import Sequence
from pathlib import Path

from vision.errors import UserError
from vision.home import expanded


def files_of(patterns: Sequence[str]) -> list[Path]:
    """Files that patterns name: each a file, a folder (the files in it), or a glob pattern with ``*``, ``?``, ``**``.

    Raises ``UserError`` for a pattern that names no file.
    """
    found: list[Path] = []
    for pattern in patterns:
        path = expanded(pattern)
        # a name may have brackets, which a pattern would read as a set of letters
        named = [path] if path.exists() else map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute too
        files: list[Path] = []
        for place in named:
            inside = place.iterdir() if place.is_dir() else [place]
            files += [file for file in inside if file.is_file() and not (place.is_dir() and file.name.startswith("."))]
        if not files:
            raise UserError(f"{pattern} names no file")
        found += sorted(files)
    return list(dict.fromkeys(found))
