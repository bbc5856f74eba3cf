"""Networks with fixed weights that a run uses: read from their files, known by their content, kept out of checkpoints.

A run folder has frozen.json, {name: {"sha256", "path", "option"}}. The hash says which network the run began with; the
path is a hint. A run that comes back, and whoever evaluates it, reads the variables anew from the place that the
configuration names, or the option on the command line, and compares. What only sampling uses is "optional": it is
compared where it is read from the same place.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.atomic import write_atomically
from vision.errors import UserError
from vision.home import expanded
from vision.launch.options import option_of
from vision.parallel.agreement import check_equal, first_alone
from vision.train.compile import Compiler
from vision.train.content_hash import content_hash
from vision.train.experiment import FrozenPart

FILE = "frozen.json"


@dataclass(frozen=True, kw_only=True)
class FrozenRecord:
    """What frozen.json keeps of a network."""

    sha256: str
    """Of its content, see :func:`vision.train.content_hash.content_hash`."""
    path: str
    """Where it was read from when the run began."""
    option: str
    """The configuration field that names its place."""
    optional: bool = False
    """Whether the run may come back with another one, or without."""


def read_records(folder: Path) -> dict[str, FrozenRecord] | None:
    """frozen.json of a run folder; None where there is none. Raises ``UserError`` where it cannot be read."""
    path = folder / FILE
    try:
        return {name: FrozenRecord(**record) for name, record in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it") from error


def load_frozen(
    parts: Mapping[str, FrozenPart],
    folder: Path | None,
    compiler: Compiler,
    *,
    begun: bool,
    read_only: bool = False,
) -> dict[str, Any]:
    """Read the networks, compare them with those that the run began with, and put those that the step uses on devices.

    Every process calls it.

    Args:
      parts: what the experiment uses, by name.
      folder: the run folder; None where there is no run, and nothing to compare with.
      compiler: with the mesh that they are placed on.
      begun: whether the run has a checkpoint. One that has none and no frozen.json begins here, and the file is
        written.
      read_only: write nothing.

    Returns:
      Variables by name, of the parts that the step uses, in the form that ``Compiler.step(frozen=...)`` and
      ``attach_frozen`` take.

    Raises:
      UserError: a network is not where the option says, cannot be read, or is not the one that the run began with.
    """
    records = read_records(folder) if folder is not None else None
    needed = {name: part for name, part in parts.items() if not part.optional}
    if records is None and begun and needed:
        raise UserError(
            f"the run in {folder} has no {FILE}, which says with what {_listed(needed)} it began: restore the file, or "
            "choose another --workdir"
        )
    kept = {name: record for name, record in (records or {}).items() if not record.optional}
    if records is not None and set(kept) != set(needed):
        raise UserError(
            f"the run in {folder} uses {_listed(kept)} and the experiment {_listed(needed)}: use the code and "
            "options that began it, or choose another --workdir"
        )
    placed: dict[str, Any] = {}
    found: dict[str, FrozenRecord] = {}
    for name, part in parts.items():
        before = (records or {}).get(name)
        if part.optional and before is not None and before.path != str(part.path):
            before = None
        variables = _read(name, part, before, folder)
        digest = content_hash(variables)
        check_equal(f"the content of the frozen {_called(name)}", digest)
        if before is not None and before.sha256 != digest:
            raise UserError(
                f"the {_called(name)} of {folder} (sha256 {before.sha256[:12]}...) is not what is in {part.path} now "
                f"(sha256 {digest[:12]}...): put it back, name its new place with {option_of(part.option)}, or "
                "choose another --workdir"
            )
        found[name] = FrozenRecord(sha256=digest, path=str(part.path), option=part.option, optional=part.optional)
        if part.in_step:
            placed[name] = compiler.place(variables)
    if records is None and parts and folder is not None and not read_only:
        first_alone(lambda: _write(folder, found))
    return placed


def frozen_shapes(parts: Mapping[str, FrozenPart], compiler: Compiler) -> dict[str, Any]:
    """Shapes, dtypes and shardings of what :func:`load_frozen` returns; reads nothing."""
    return {name: compiler.place(part.shapes) for name, part in parts.items() if part.in_step}


def _read(name: str, part: FrozenPart, before: FrozenRecord | None, folder: Path | None) -> Any:
    if not expanded(part.path).exists():
        if before is None:
            raise UserError(f"there is no {part.path}, where {option_of(part.option)} says that the {_called(name)} is")
        moved = "" if before.path == str(part.path) else f" and is not in {part.path}"
        gone = ", where there is nothing now" if not moved else ""
        raise UserError(
            f"the {_called(name)} of {folder} (sha256 {before.sha256[:12]}...) was read from {before.path}{gone}"
            f"{moved}: name its new place with {option_of(part.option)}"
        )
    try:
        return part.load()
    except UserError as error:
        raise UserError(f"the {_called(name)} cannot be read from {part.path}: {error}", code=error.code) from error


def _write(folder: Path, records: Mapping[str, FrozenRecord]) -> None:
    plain = lambda record: {key: value for key, value in vars(record).items() if key != "optional" or value}
    content = {name: plain(record) for name, record in records.items()}
    write_atomically(folder / FILE, (json.dumps(content, indent=2) + "\n").encode())


def _called(name: str) -> str:
    """The name of a part in a sentence: perceptual network, first stage."""
    words = name.replace("_", " ")
    return words if len(words.split()) > 1 else f"{words} network"


def _listed(names: Mapping[str, Any]) -> str:
    return f"the frozen {' and '.join(map(_called, names))}" if names else "no frozen networks"
