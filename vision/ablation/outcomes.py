"""Outcomes of trials: the meaning of exit codes, and the small file next to each work directory that stores it."""

import contextlib
import json
import re
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vision.ablation.study import Trial
from vision.atomic import write_atomically
from vision.errors import UserError
from vision.launch.run_folder import BOOKKEEPING, flat
from vision.train.records import read_metrics

Ending = Literal["finished", "failed", "interrupted"]

STUCK = 3
"""How often in a row a trial may be killed without progress before that counts as its failure."""

_TAIL_LINES = 20
_TAIL_BYTES = 65_536
_TEMPORARY = 75  # EX_TEMPFAIL: stopped and saved, see vision/train/interruption.py
_STOPPED_AT_ONCE = 130
# Signals from outside; any other signal is the trial's failure.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the latest start of a trial ended."""

    ending: Ending
    code: int
    """The exit code; negative for a signal."""
    reason: str = ""
    """One line with the reason why it is not finished."""
    tail: tuple[str, ...] = ()
    """The last lines of its log if it failed."""
    seconds: float = 0.0
    """Running time over all its starts."""
    starts: int = 0
    images: int = 0
    """Images seen."""
    stuck: int = 0
    """How often in a row it was killed without progress."""
    host: str = ""
    """The host of its last start."""


def read(path: Path) -> Outcome | None:
    """The outcome in a file; None if there is none.

    Raises:
      UserError: it cannot be read.
    """
    try:
        stored = json.loads(path.read_bytes())
        return Outcome(**{**stored, "tail": tuple(stored["tail"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it, and the trial is checked again") from error


def write(path: Path, outcome: Outcome) -> None:
    """Store an outcome; the caller holds the claim of its trial."""
    write_atomically(path, (json.dumps(asdict(outcome), indent=1) + "\n").encode())


def exit_outcome(
    trial: Trial,
    folder: Path,
    code: int,
    *,
    before: Outcome | None,
    seconds: float,
    host: str,
    log_start: int,
    stop_requested: bool = False,
) -> Outcome:
    """The outcome of a trial that has exited.

    Exit 75 and signals from outside (kill, out of memory, the end of a job) leave it to be resumed, unless that happens
    ``STUCK`` times without progress. Any other exit code except 0 is a failure, and so is 0 without final numbers.

    Args:
      trial: which.
      folder: the study directory.
      code: its exit code, negative for a signal.
      before: its outcome so far.
      seconds: running time of this start.
      host: where.
      log_start: offset in bytes of this start in its log.
      stop_requested: whether the runner had requested it to stop, which is not a failure.
    """
    images = images_seen(trial, folder)
    before = before or Outcome(ending="interrupted", code=0)
    tail = last_lines(trial.beside(folder, ".log"), log_start)
    ending, reason, stuck = "interrupted", "", 0
    if code == 0:
        ending, reason = "finished", ""
        for seed in trial.seeds:
            problem = problem_of(trial, folder, seed)
            if problem:
                ending, reason = "failed", problem
    elif code in (_TEMPORARY, _STOPPED_AT_ONCE) or -code in _FROM_OUTSIDE:
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else "stopped and saved"
        further = images > before.images or not before.starts
        stuck = (0 if further else before.stuck) + (not stop_requested)
        if stuck >= STUCK:
            hint = " (out of memory?)" if code == -signal.SIGKILL else ""
            ending, reason = "failed", f"{reason}, {stuck} times at the same place{hint}"
    else:
        ending = "failed"
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        reason = f"{how}: {_telling(tail)}" if tail else how
    return Outcome(
        ending=ending,
        code=code,
        reason=reason,
        tail=tuple(tail) if ending == "failed" else (),
        seconds=before.seconds + seconds,
        starts=before.starts + 1,
        images=images,
        stuck=stuck,
        host=host,
    )


def images_seen(trial: Trial, folder: Path) -> int:
    """Images at the last line of metrics that a trial wrote; of each seed, where several are one program."""
    try:
        with (trial.replica(folder, trial.seeds[0]) / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        # a line truncated at either end, or one that is not what a run writes
        with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return int(json.loads(line)["images"])
    return 0


def metrics(replica: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in a folder; none if there is no such file.

    Raises:
      UserError: a line is damaged.
    """
    try:
        return read_metrics(replica / "metrics.jsonl")
    except FileNotFoundError:
        return []


def final_numbers(lines: Sequence[dict[str, Any]], budget: int) -> dict[str, float]:
    """The ``eval/`` numbers of the last line that has any, at the budget; {} if the run has not reached it."""
    for line in reversed(lines):
        found = {name.removeprefix("eval/"): float(x) for name, x in line.items() if name.startswith("eval/")}
        if found:
            return found if line["images"] >= budget else {}
    return {}


def problem_of(trial: Trial, folder: Path, seed: int) -> str:
    """Why a seed's run cannot be in the table; empty if it can."""
    found = foreign_value(trial, folder)
    if found:
        return found
    budget = trial.point.budget
    try:
        lines = metrics(trial.replica(folder, seed))
    except UserError as error:
        return str(error)
    if not final_numbers(lines, budget):
        return f"seed {seed} has no evaluation after {budget:,} images"
    return ""


def foreign_value(trial: Trial, folder: Path) -> str:
    """A value in which the work directory's config.json is not the point's; empty if there is none, or no file."""
    path = trial.workdir(folder) / "config.json"
    try:
        stored = flat(json.loads(path.read_bytes())["config"])
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path} cannot be read ({error})"
    expected = {**flat(trial.point.config), "seed": trial.seeds[0]}
    for key in sorted(stored.keys() | expected.keys()):
        if not key.startswith(BOOKKEEPING) and stored.get(key) != expected.get(key):
            return f"it was trained with {key} = {stored.get(key)}, and the point has {expected.get(key)}"
    return ""


def last_lines(log: Path, start: int = 0) -> list[str]:
    """The last lines of a log from byte ``start`` on, as a terminal would show them; none if there is no log."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line) for line in lines if line][-_TAIL_LINES:]


def _telling(tail: Sequence[str]) -> str:
    """The line with the error message: the last that starts with "error:", else the last one."""
    return next((line for line in reversed(tail) if line.startswith("error:")), tail[-1])[:300]
