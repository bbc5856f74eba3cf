"""The files of one kind below a folder, through linked folders too, and what else lies there."""

import collections
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from vision.data.notices import notice
from vision.errors import UserError

# Kinds of ignored files that a report names.
_MOST_KINDS = 8


@dataclass(frozen=True)
class Listing:
    """What `files_below` finds."""

    files: tuple[Path, ...]
    """The files with one of the suffixes, sorted."""
    ignored: tuple[Path, ...]
    """The other ones, links to nothing included, sorted."""
    circular: tuple[Path, ...]
    """Linked folders that are not read since they lead to a folder above, or to one that is read anyway."""

    def report(self, folder: Path, kind: str, *, known: Collection[str] = ()) -> None:
        """Say on stderr what is ignored, in one sentence; nothing where every file is read.

        Args:
            folder: where they are.
            kind: what is read, "images".
            known: suffixes that are used in another way and are not mentioned.
        """
        rest = [file for file in self.ignored if file.suffix.lower() not in known]
        parts = []
        if rest:
            files = f"{len(rest)} files that are not" if len(rest) > 1 else "1 file that is not"
            parts.append(f"{files} read as {kind} ({kinds(rest)})")
        if self.circular:
            links = f"{len(self.circular)} linked folders" if len(self.circular) > 1 else "1 linked folder"
            parts.append(f"{links} not followed, to a folder that is read already ({next(iter(self.circular))})")
        if parts:
            notice(f"{folder} has {' and '.join(parts)}.")


def kinds(files: Sequence[Path]) -> str:
    """Files counted by suffix: "3 .heic, 1 without suffix, such as a.heic"."""
    counts = collections.Counter(file.suffix.lower() or "without suffix" for file in files)
    shown = [f"{count} {suffix}" for suffix, count in counts.most_common(_MOST_KINDS)]
    more = ", ..." if len(counts) > len(shown) else ""
    return f"{', '.join(shown)}{more}, such as {files[0].name}"


def files_below(folder: Path, suffixes: Collection[str]) -> Listing:
    """The files at any depth; names that start with a dot are left out.

    Linked folders are followed after all others, so that each folder on the disk is read once, under its own name where
    it has one here. A link that leads to a folder above it is not followed.

    Args:
        folder: where to look.
        suffixes: in lower case, with their dots; a file's suffix may have capitals.

    Raises:
        UserError: a folder cannot be listed.
    """
    found: list[Path] = []
    ignored: list[Path] = []
    circular: list[Path] = []
    seen: set[tuple[int, int]] = set()
    above = {_identity(each) for each in (*folder.absolute().parents, *folder.resolve().parents)}
    queue = [folder]
    while queue:
        links: list[Path] = []
        for start in sorted(queue):
            identity = _identity(start)
            if identity in seen or identity in above:
                circular.append(start)
                continue
            seen.add(identity)
            for parent, folders, names in os.walk(start, onerror=_refuse):
                inside = [Path(parent, name) for name in folders if not name.startswith(".")]
                links += [each for each in inside if each.is_symlink()]
                own = {each.name: _identity(each) for each in inside if not each.is_symlink()}
                folders[:] = [name for name, of in own.items() if of not in seen]
                seen.update(own.values())
                for name in names:
                    if not name.startswith("."):
                        file = Path(parent, name)
                        (found if file.suffix.lower() in suffixes and file.is_file() else ignored).append(file)
        queue = links
    return Listing(tuple(sorted(found)), tuple(sorted(ignored)), tuple(sorted(circular)))


def entries(folder: Path) -> list[Path]:
    """What is directly in a folder, sorted, but names that start with a dot.

    Raises:
        UserError: it cannot be listed.
    """
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror or error}.") from error


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror or error}.") from error
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> None:
    raise UserError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error
