"""What a run reads from elsewhere, known by its content and not by its path: its data set, and the files of options.

A run folder has inputs.json: {"files": {option: {"sha256", "path"}}, "data": [{"step", "train", "test"}, ...]}. A run
may come back with its data or files in another place, where the content is the same. Where the files of the data set
itself have changed, the run goes on, which is reported and stated on its page.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vision.atomic import write_atomically
from vision.errors import UserError
from vision.home import expanded
from vision.launch.options import flatten, option_of
from vision.launch.run_folder import CONFIG, flat, newest_checkpoint, read_config
from vision.types import Content

FILE = "inputs.json"
DATA = "data."
"""Fields that say where the data set is."""


@dataclass(frozen=True)
class DataAtStep:
    """What the data set consisted of from a step on."""

    step: int
    splits: Mapping[str, Content]


@dataclass(frozen=True)
class Inputs:
    """inputs.json."""

    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """(SHA-256, path) of files, by option."""
    data: Sequence[DataAtStep] = ()
    """What the data set consisted of when the run began, and after each change."""


def paths_of(config: Any) -> dict[str, Path]:
    """The dotted fields of a configuration that hold a path."""
    return {name: value for name, value in flatten(config).items() if isinstance(value, Path)}


def read_inputs(folder: Path) -> Inputs:
    """inputs.json of a run folder, empty where there is none. Raises ``UserError`` where it cannot be read."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text())
        files = {str(name): (str(each["sha256"]), str(each["path"])) for name, each in content["files"].items()}
        data = [
            DataAtStep(int(each["step"]), {name: Content(**each[name]) for name in each if name != "step"})
            for each in content["data"]
        ]
    except FileNotFoundError:
        return Inputs()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it, or choose another --workdir") from error
    return Inputs(files, data)


def keep_inputs(
    folder: Path,
    config: Any,
    *,
    elsewhere: Sequence[str],
    contents: Mapping[str, Content],
    step: int,
    report: Callable[[str], None],
) -> None:
    """Compare what a run reads with what it began with, and keep what it is. The first process calls it.

    Args:
      folder: the run folder, whose config.json still has the paths of the process before, if there was one.
      config: the configuration.
      elsewhere: fields that are known by their content in another way (``vision.launch.frozen``).
      contents: of the data, by split.
      step: steps that the run has taken.
      report: called with what has changed.

    Raises:
      UserError: a path is another one and what is there differs, or cannot be read.
    """
    before, now = read_inputs(folder), {n: p for n, p in paths_of(config).items() if n not in elsewhere}
    stored = flat(read_config(folder).config)
    moved = [name for name, path in now.items() if stored.get(name) != str(path)] if step else []
    files = {}
    for name, path in now.items():
        if name.startswith(DATA):
            continue
        if step and name not in moved and name in before.files:
            files[name] = before.files[name]  # which the run needs no longer: its content is in the checkpoint
            continue
        known = before.files.get(name)
        try:
            files[name] = (file_hash(path, name), str(path))
        except UserError:
            if name in moved:
                raise
            continue  # who reads it says more
        if name in moved and (known is None or known[0] != files[name][0]):
            raise UserError(
                f"{name} is {stored.get(name)} there and {path} here, and the content differs: choose another "
                "--workdir, or name a copy of the same"
            )
    data = list(before.data) if step else []
    if contents and not (data and data[-1].splits == contents):
        if data and any(name.startswith(DATA) for name in moved):
            raise UserError(
                f"{_moved(moved, stored, now)}, and it is not the data that the run in {folder} began with "
                f"({_difference(data[-1].splits, contents)}): choose another --workdir, or name a copy of the same data"
            )
        if data:
            report(f"the data has changed since the run was started: {_difference(data[-1].splits, contents)}")
        data.append(DataAtStep(step, contents))
    elif moved:
        report(f"{_moved(moved, stored, now)}, with the same content")
    if (found := Inputs(files, data)) != before:
        _write(folder, found)


def data_changes(folder: Path) -> list[str]:
    """A sentence about each change of the data set since the run began, for its page."""
    entries = read_inputs(folder).data
    return [
        f"after step {new.step:,}: {_difference(old.splits, new.splits)}" for old, new in itertools.pairwise(entries)
    ]


def check_data(folder: Path, config: Any, contents: Mapping[str, Content]) -> None:
    """Raise ``UserError`` unless ``contents`` are what the run last read; for data that was moved and is evaluated."""
    data, stored = read_inputs(folder).data, flat(read_config(folder).config)
    moved = [name for name, path in paths_of(config).items() if stored.get(name) != str(path)]
    if data and contents and data[-1].splits != contents and any(name.startswith(DATA) for name in moved):
        raise UserError(
            f"{_moved(moved, stored, paths_of(config))}, and it is not the data of the run in {folder} "
            f"({_difference(data[-1].splits, contents)}): name a copy of the same data"
        )


def file_hash(path: Path, option: str) -> str:
    """SHA-256 of a file; of a run folder, that of its configuration and its newest checkpoint's number.

    Raises ``UserError`` where there is none.
    """
    path = expanded(path)
    if path.is_dir():
        run = path.parent if path.name == "checkpoints" else path
        path = run / CONFIG
        said = str(newest_checkpoint(run)).encode()
    else:
        said = b""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise UserError(f"{option_of(option)} names {path}, which cannot be read: {error.strerror}") from error
    digest.update(said)
    return digest.hexdigest()


def _difference(before: Mapping[str, Content], now: Mapping[str, Content]) -> str:
    """What differs, in words: 90 training images where there were 81, the same test images."""
    words = []
    for name in sorted(before.keys() | now.keys(), reverse=True):
        called = {"train": "training", "test": "test"}.get(name, name)
        old, new = before.get(name), now.get(name)
        if old == new:
            words.append(f"the same {called} images")
        elif old is None or new is None or old.count != new.count:
            count = lambda content: "none" if content is None else f"{content.count:,}"
            words.append(f"{count(new)} {called} images where there were {count(old)}")
        else:
            words.append(f"{new.count:,} {called} images as before, but not the same files or labels")
    return ", ".join(words)


def _moved(moved: Sequence[str], stored: Mapping[str, Any], now: Mapping[str, Path]) -> str:
    return "; ".join(f"{name} was {stored.get(name)} and is {now[name]}" for name in moved)


def _write(folder: Path, inputs: Inputs) -> None:
    content = {
        "files": {name: {"sha256": digest, "path": path} for name, (digest, path) in inputs.files.items()},
        "data": [
            {"step": each.step, **{name: asdict(content) for name, content in each.splits.items()}}
            for each in inputs.data
        ],
    }
    write_atomically(folder / FILE, (json.dumps(content, indent=2) + "\n").encode())
