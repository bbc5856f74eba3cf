"""Atomic writes: a file has either its old or its new content, never a part."""

import os
from pathlib import Path


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes ``content`` to ``path`` so that a kill never leaves, and a reader never sees, a partial file.

    The bytes go to a hidden file in the same folder, reach the disk, and are then renamed over ``path``
    (POSIX ``rename`` is atomic within a file system). The hidden file has one name per target, so that killed writers
    leave at most one file; two processes must not write the same target at once.

    Raises:
        OSError: when the folder does not exist, cannot be written or is full. ``path`` is then unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
