"""Paths that begin with "~", also for users without a home, as in containers and batch jobs."""

import contextlib
import os
import tempfile
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """``path`` with "~" replaced by the home directory; unchanged where there is none."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises RuntimeError without a home


def cache_folder(name: str) -> Path:
    """A folder for what can be computed again: in the user's cache, or below the temporary files if that is read-only.

    ``XDG_CACHE_HOME`` names the user's cache, ``~/.cache`` if it is not set.
    """
    users = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / name
    for folder in (users, Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"):
        with contextlib.suppress(OSError):
            if not folder.is_absolute():
                continue  # there is no home
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK | os.X_OK):
                return folder
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))
