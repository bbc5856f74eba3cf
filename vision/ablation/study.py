"""The study directory: it stores the plan of a comparison, so that every later start is consistent.

``study.json`` holds the plan. A study only grows: points and seeds may be added by a later command, but nothing is ever
changed, since its trials were trained with it.

    study.json          experiment, options, points with all their values, seeds
    trials/POINT/seed-S       a work directory as any run leaves it; seeds-0-2 where three seeds are one program
    trials/POINT/seed-S.log   what the trial printed, at all its starts
    trials/POINT/seed-S.json  how it ended
    claims/             who is running what, see ``claims.py``
    report.html, tables/, figures/
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vision.ablation.plan import BASELINE, Point, written
from vision.atomic import write_atomically
from vision.errors import UserError
from vision.launch.run_folder import flat

FILE = "study.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Study:
    """The plan of a study."""

    experiment: str
    module: str
    """The experiment's module for ``python -m``."""
    arguments: tuple[str, ...]
    """Options of the experiment for all points."""
    points: tuple[Point, ...]
    """The baseline first."""
    programs: tuple[tuple[int, ...], ...]
    """The seeds; each tuple is trained as one program."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds in order."""
        return tuple(sorted(seed for program in self.programs for seed in program))

    def point(self, name: str) -> Point:
        """The point of that name."""
        return next(point for point in self.points if point.name == name)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The unit that is started, claimed and repeated: a point with a seed, or with several seeds as one program."""

    point: Point
    seeds: tuple[int, ...]
    arguments: tuple[str, ...]
    """The command line of the experiment, without its work directory."""
    module: str
    unit: str
    """Its path below ``trials/``, and its name among the claims: ``baseline/seed-0``."""

    @property
    def title(self) -> str:
        """A title: ``baseline, seed 0``."""
        return f"{self.point.name}, seed{'s' if len(self.seeds) > 1 else ''} {spelled(self.seeds)}"

    def workdir(self, folder: Path) -> Path:
        """Its work directory in the study directory ``folder``."""
        return folder / "trials" / self.unit

    def beside(self, folder: Path, suffix: str) -> Path:
        """The file next to its work directory: ``.log`` or ``.json``."""
        workdir = self.workdir(folder)
        return workdir.with_name(workdir.name + suffix)

    def replica(self, folder: Path, seed: int) -> Path:
        """Where the metrics and samples of one seed are."""
        return self.workdir(folder) / "replicas" / f"seed-{seed}" if len(self.seeds) > 1 else self.workdir(folder)

    def command(self, folder: Path) -> tuple[str, ...]:
        """The command, from ``-m`` on."""
        return ("-m", self.module, *self.arguments, "--workdir", str(self.workdir(folder)))

    def typed(self, folder: Path) -> str:
        """The command as typed in a shell."""
        return shlex.join(["python", *self.command(folder)])


def spelled(seeds: Sequence[int]) -> str:
    """Readable seeds: ``0-2`` or ``5, 7``."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def trials(study: Study, points: Sequence[str], seeds: Sequence[int]) -> tuple[Trial, ...]:
    """The trials of some points and seeds. Seeds vary slowest, so that the first seed of all points comes first.

    A program of several seeds is a trial when any of its seeds is requested.
    """
    found = []
    for program in study.programs:
        for point in study.points:
            if point.name in points and set(program) & set(seeds):
                count = len(program)
                several = ("--seeds", str(count)) if count > 1 else ()
                last = f"seeds-{program[0]}-{program[-1]}" if several else f"seed-{program[0]}"
                found.append(
                    Trial(
                        point=point,
                        seeds=program,
                        arguments=(*study.arguments, *point.arguments, "--seed", str(program[0]), *several),
                        module=study.module,
                        unit=f"{point.name}/{last}",
                    )
                )
    return tuple(found)


def divided(
    seeds: Sequence[int], *, vectorized: bool, existing: Sequence[Sequence[int]] = ()
) -> tuple[tuple[int, ...], ...]:
    """How seeds are divided into programs: one each, or all new ones as one.

    Args:
      seeds: all requested seeds.
      vectorized: train those that are new as one program, which counts its seeds up.
      existing: existing programs, whose seeds are not new.

    Raises:
      UserError: seeds to be trained as one program that are not consecutive.
    """
    known = {seed for program in existing for seed in program}
    new = sorted(set(seeds) - known)
    if vectorized and new:
        if new != list(range(new[0], new[-1] + 1)):
            raise UserError(
                f"--vectorized trains seeds that follow each other, and {spelled(new)} do not: choose others, or leave "
                "--vectorized out"
            )
        return (*map(tuple, existing), tuple(new))
    return (*map(tuple, existing), *((seed,) for seed in new))


def read(folder: Path) -> Study | None:
    """The study in ``folder``; None where there is none.

    Raises:
      UserError: study.json cannot be read.
    """
    path = folder / FILE
    try:
        stored = json.loads(path.read_bytes())
        if stored["format"] != _FORMAT:
            raise UserError(f"{path} has format {stored['format']}, not {_FORMAT}: choose another --workdir")
        points = tuple(Point(**{**point, "arguments": tuple(point["arguments"])}) for point in stored["points"])
        return Study(
            experiment=stored["experiment"],
            module=stored["module"],
            arguments=tuple(stored["arguments"]),
            points=points,
            programs=tuple(map(tuple, stored["programs"])),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it, or choose another --workdir") from error


def write(folder: Path, study: Study) -> None:
    """Write study.json; the caller holds the claim of it."""
    content = {
        "format": _FORMAT,
        "experiment": study.experiment,
        "module": study.module,
        "arguments": list(study.arguments),
        "programs": [list(program) for program in study.programs],
        "points": [
            {
                "name": point.name,
                "arguments": list(point.arguments),
                "changes": dict(point.changes),
                "config": dict(point.config),
                "budget": point.budget,
            }
            for point in study.points
        ],
    }
    write_atomically(folder / FILE, (json.dumps(content, indent=1) + "\n").encode())


def grown(stored: Study, points: Sequence[Point], folder: Path) -> tuple[Study, list[str]]:
    """``stored`` with the points that it lacks, and the names of the requested points in it.

    Args:
      stored: the stored study.
      points: the requested points, the baseline first.
      folder: named in errors.

    Raises:
      UserError: the baseline, or a point of the same name, has other values there.
    """
    differ = different(stored.points[0], points[0])
    if differ:
        raise UserError(f"{folder} holds a study with another baseline: {differ}: choose another --workdir")
    names, all_points = [], list(stored.points)
    for point in points:
        same = next((other for other in all_points if other.config == point.config), None)
        if same is None:
            taken = next((other for other in all_points if other.name.casefold() == point.name.casefold()), None)
            if taken is not None:
                raise UserError(
                    f"{folder} has another point {point.name}: {different(taken, point)}: choose another --workdir"
                )
            all_points.append(point)
            same = point
        names.append(same.name)
    return replace(stored, points=tuple(all_points)), names


def different(there: Point, here: Point) -> str:
    """A description of the values in which a stored point differs from the requested one; empty if none does."""
    before, now = flat(there.config), flat(here.config)
    found = [
        f"{key} is {_value(before, key)} there and {_value(now, key)} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, _ABSENT) != now.get(key, _ABSENT)
    ]
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    return "; ".join(found[:3]) + more


_ABSENT = object()


def _value(values: Mapping[str, Any], key: str) -> str:
    return written(values[key]) if key in values else "absent"


def baseline_of(study: Study) -> Point:
    """The point that all are compared with."""
    return study.point(BASELINE)
