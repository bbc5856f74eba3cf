"""The run folder: one configuration, one run, one writer."""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from vision.atomic import write_atomically
from vision.errors import UserError
from vision.launch.options import changes, command_line, nested
from vision.train.snapshots import FOLDER as SNAPSHOTS

# Fields that change where and how often, never what is computed: a run may come back with others.
BOOKKEEPING = ("mesh.", "intervals.")

CONFIG = "config.json"

# Of a run that did not reach its first step, besides config.json.
LEFT_BY_A_FAILED_START = (
    *("frozen.json", "inputs.json", "class_names.json", "tokenizer.json", "environment.json", "starts.jsonl"),
)

# All that a run leaves which is killed before it has written config.json.
LEFT_BY_A_KILL = (".lock", ".config.json.tmp")


def identity(
    config: Any, default: Any, *, free: tuple[str, ...] = BOOKKEEPING, places: Sequence[str] = ()
) -> dict[str, Any]:
    """The changes that make it another experiment.

    Fields that start with one of ``free`` do not, nor do ``places``: fields that say where frozen networks are read
    from, which are known by their content (``vision.launch.frozen``). Of other paths the last part counts, since what
    is there is known by its content, too (``vision.launch.inputs``).
    """
    return {
        name: value.name if isinstance(value, Path) else value
        for name, value in changes(config, default).items()
        if not name.startswith(free) and name not in places
    }


def default_workdir(
    name: str,
    *,
    quick: bool,
    config: Any,
    default: Any,
    replicas: Mapping[str, Any] | None = None,
    places: Sequence[str] = (),
) -> Path:
    """``runs/NAME/quick,model.width=64,seeds=8``: the differences from the defaults, hashed where they are long."""
    parts = ["quick"] if quick else []
    several = {name: tuple(value) if isinstance(value, list) else value for name, value in flat(replicas or {}).items()}
    for field, value in sorted({**identity(config, default, places=places), **several}.items()):
        shown = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append(f"{field}={re.sub(r'[^A-Za-z0-9._+-]', '-', shown)}")
    folder = ",".join(parts) or "default"
    if len(folder) > 120:
        folder = f"{folder[:100]},{hashlib.sha256(folder.encode()).hexdigest()[:12]}"
    return Path("runs") / name / folder


def claim(
    workdir: Path, name: str, config: Any, *, replicas: Mapping[str, Any] | None = None, places: Sequence[str] = ()
) -> int:
    """Make ``workdir`` this run's: write config.json, or check that the one there is the same; lock it.

    Args:
      workdir: created when missing.
      name: the experiment.
      config: its configuration.
      replicas: the runs that are trained as one program, as config.json keeps them; none for a single run.
      places: fields that say where something is read from, which may differ from those there. The file keeps
        the old ones until :func:`write_config`, when the content is known to be the same.

    Returns the lock's file descriptor, which holds until the process ends.

    A run that failed or was killed before it saved or recorded anything leaves nothing to protect: its folder is taken
    over by any other.

    Raises ``UserError`` when another configuration or experiment lives there (naming what differs), when it is no
    run folder but has files in it, when another process is writing to it, or when it cannot be written.
    """
    path = workdir / CONFIG
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists() and any(entry.name not in LEFT_BY_A_KILL for entry in workdir.iterdir()):
            raise UserError(f"{workdir} has files in it but no {CONFIG}: choose an empty or new --workdir")
        lock = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"the run folder {workdir} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise UserError(
            f"another process is training in {workdir}: wait for it, stop it, or choose another --workdir"
        ) from error
    try:
        if path.exists() and (read_config(workdir) and has_begun(workdir)):
            check_same(workdir, name, config, replicas=replicas, places=places)
        else:
            for left in LEFT_BY_A_FAILED_START:
                (workdir / left).unlink(missing_ok=True)
            write_config(workdir, name, config, replicas=replicas)
    except BaseException:
        os.close(lock)
        raise
    return lock


def newest_checkpoint(workdir: Path) -> int | None:
    """The step of the newest checkpoint in a run folder; None where there is none."""
    folder = workdir / "checkpoints"
    steps = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()] if folder.is_dir() else []
    return max(steps, default=None)


def has_begun(workdir: Path) -> bool:
    """Whether the run in a folder has saved or recorded anything."""
    records = workdir / "metrics.jsonl"
    recorded = (records.exists() and records.stat().st_size > 0) or (workdir / SNAPSHOTS).exists()
    return recorded or newest_checkpoint(workdir) is not None


def write_config(workdir: Path, name: str, config: Any, *, replicas: Mapping[str, Any] | None = None) -> None:
    """Write config.json: the experiment, its configuration and its replicas."""
    content = {"experiment": name, "config": nested(config), **({"replicas": replicas} if replicas else {})}
    write_atomically(workdir / CONFIG, (json.dumps(content, indent=2) + "\n").encode())


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What config.json says."""

    experiment: str
    """The experiment's name."""
    config: Mapping[str, Any]
    """Its configuration, nested."""
    replicas: Mapping[str, Any]
    """{"seeds": 8, "sweep": {"optimizer.lr": [0.1, 0.2]}} or parts of it; {} for a single run."""


def read_config(workdir: Path) -> Stored:
    """Read config.json of a run folder; raises ``UserError`` where that is impossible."""
    try:
        content = json.loads((workdir / CONFIG).read_text())
        if not isinstance(content["experiment"], str):
            raise TypeError("its experiment is no name")
        stored = Stored(
            experiment=content["experiment"], config=dict(content["config"]), replicas=dict(content.get("replicas", {}))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{workdir / CONFIG} cannot be read ({error}): restore it, or choose another run folder"
        ) from error
    return stored


def check_same(
    workdir: Path, name: str, config: Any, *, replicas: Mapping[str, Any] | None = None, places: Sequence[str] = ()
) -> None:
    """Raise ``UserError`` unless config.json in ``workdir`` is of this experiment, configuration and replicas.

    Of the fields in ``places`` it only matters whether they are set.
    """
    stored = read_config(workdir)
    if stored.experiment != name:
        raise UserError(
            f"{workdir} belongs to the experiment {stored.experiment}, not {name}: choose another --workdir"
        )
    before = {**flat(stored.config), **flat(stored.replicas)}
    now = {**flat(nested(config)), **flat(replicas or {})}
    for place in places:
        if before.get(place) is not None:
            before[place] = now.get(place)
    different = [
        f"{key} is {before.get(key, 'absent')} there and {now.get(key, 'absent')} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(BOOKKEEPING)
    ]
    if different:
        more = f" (and {len(different) - 3} more)" if len(different) > 3 else ""
        raise UserError(
            f"{workdir} belongs to another configuration: {'; '.join(different[:3])}{more}: "
            "choose another --workdir, or none"
        )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names to values, of a configuration as JSON keeps it."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found.update(flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return found


def environment(
    packages: Sequence[str] = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
) -> dict:
    """Versions, devices, git commit and command line of this process."""
    device = jax.devices()[0]
    return {
        "command": command_line(),
        "python": sys.version.split()[0],
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "processes": jax.process_count(),
        "host": platform.platform(),
        "cpus": os.cpu_count(),
        "git": _git(),
    }


def _git() -> dict[str, Any] | str:
    """Commit of the source tree and whether it has uncommitted changes."""
    root = Path(__file__).resolve().parents[2]
    run = lambda *words: subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
    ).stdout.strip()
    try:
        return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return "not a git checkout"


def write_environment(workdir: Path) -> dict[str, Any]:
    """Write environment.json, and keep one line a start in starts.jsonl, since a run may come back elsewhere."""
    found = environment()
    write_atomically(workdir / "environment.json", (json.dumps(found, indent=2) + "\n").encode())
    with (workdir / "starts.jsonl").open("a") as file:
        file.write(json.dumps(found) + "\n")
    return found
