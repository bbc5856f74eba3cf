"""The results of a study so far, read from the work directories of its trials."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vision.ablation import outcomes
from vision.ablation.claims import Owner, holder
from vision.ablation.outcomes import Outcome
from vision.ablation.plan import Point
from vision.ablation.statistics import Difference, Summary, holm, paired, summary
from vision.ablation.study import Study, Trial, baseline_of, trials
from vision.errors import UserError
from vision.launch.options import unknown_name
from vision.launch.run_folder import flat

State = Literal["waiting", "running", "interrupted", "failed", "finished"]


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of a trial."""

    trial: Trial
    state: State
    outcome: Outcome | None
    """How its latest start ended; for a running trial, the previous one."""
    owner: Owner | None
    """Who is running it."""
    images: int
    """Images seen."""

    @property
    def text(self) -> str:
        """A description: ``failed: exit 3: error: ...``."""
        if self.state == "running":
            return f"running: {self.owner}"
        if self.state == "failed" and self.outcome is not None:
            return f"failed: {self.outcome.reason}"
        return self.state


@dataclass(frozen=True, kw_only=True)
class Run:
    """A seed of a point, trained to its budget."""

    point: str
    seed: int
    lines: Sequence[Mapping[str, Any]]
    """Its metrics, one mapping per line."""
    final: Mapping[str, float]
    """Its ``eval/`` numbers at the budget, by name without ``eval/``."""
    folder: Path
    """Where its metrics and samples are."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """The data of a report."""

    study: Study
    folder: Path
    statuses: tuple[Status, ...]
    runs: Mapping[str, Mapping[int, Run]]
    """Finished runs by point and seed; every point is there."""
    metrics: tuple[str, ...]
    """Names of the final numbers, the leading one first."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one point."""

    point: Point
    values: Mapping[int, float]
    """By seed."""
    summary: Summary | None
    """None where no seed has the number."""
    difference: Difference | None
    """To the baseline; None for the baseline, and where no seed has both numbers."""
    p_holm: float | None
    """The paired test's p-value after Holm's adjustment over all rows."""


def status_of(trial: Trial, folder: Path, *, stale: float) -> Status:
    """The state of a trial, from the study directory."""
    outcome = outcomes.read(trial.beside(folder, ".json"))
    held = holder(folder / "claims", trial.unit, stale=stale)
    ended = outcome.ending if outcome is not None else None
    state: State = "waiting"
    if held is not None and ended != "finished":
        state = "running"
    elif ended is not None:
        state = ended
    return Status(
        trial=trial,
        state=state,
        outcome=outcome,
        owner=held.owner if held is not None else None,
        images=outcomes.images_seen(trial, folder),
    )


def collect(study: Study, folder: Path, *, stale: float, metric: str | None = None) -> Results:
    """Read all trials of a study.

    Args:
      study: the plan.
      folder: the study directory.
      stale: seconds without a sign of life after which a claim is ignored.
      metric: the leading metric; None for the first one of the last line of metrics.

    Raises:
      UserError: there are numbers, and ``metric`` is none of them; metrics of a finished trial are damaged.
    """
    all_trials = trials(study, [point.name for point in study.points], study.seeds)
    statuses = tuple(status_of(trial, folder, stale=stale) for trial in all_trials)
    runs: dict[str, dict[int, Run]] = {point.name: {} for point in study.points}
    for status in statuses:
        if status.state != "finished":
            continue
        trial = status.trial
        for seed in trial.seeds:
            lines = outcomes.metrics(trial.replica(folder, seed))
            final = outcomes.final_numbers(lines, trial.point.budget)
            if final:
                runs[trial.point.name][seed] = Run(
                    point=trial.point.name, seed=seed, lines=lines, final=final, folder=trial.replica(folder, seed)
                )
    names = list(dict.fromkeys(name for seeds in runs.values() for run in seeds.values() for name in run.final))
    if metric is not None and names:
        plain = metric.removeprefix("eval/")
        if plain not in names:
            raise UserError(unknown_name("metric", plain, names, f"there are {', '.join(names)}"))
        names = [plain, *(name for name in names if name != plain)]
    return Results(study=study, folder=folder, statuses=statuses, runs=runs, metrics=tuple(names))


def rows(results: Results, metric: str) -> tuple[Row, ...]:
    """One row per point, the baseline first; p-values are adjusted over the rows."""
    values = {
        name: {seed: run.final[metric] for seed, run in sorted(seeds.items()) if metric in run.final}
        for name, seeds in results.runs.items()
    }
    baseline = baseline_of(results.study).name
    differences = [
        None if point.name == baseline else paired(values[point.name], values[baseline])
        for point in results.study.points
    ]
    adjusted = holm([None if difference is None else difference.p for difference in differences])
    return tuple(
        Row(
            point=point,
            values=values[point.name],
            summary=summary(list(values[point.name].values())) if values[point.name] else None,
            difference=difference,
            p_holm=p,
        )
        for point, difference, p in zip(results.study.points, differences, adjusted, strict=True)
    )


def latest_samples(run: Run) -> Path | None:
    """The samples of a run after its last evaluation; None if there are none."""
    plots = [path for path in (run.folder / "samples").glob("*-*.png") if re.search(r"-\d+$", path.stem)]
    plots.sort(key=lambda path: (int(path.stem.rpartition("-")[2]), path.stem.startswith("samples-")))
    return plots[-1] if plots else None


def environments(results: Results) -> dict[str, dict[str, int]]:
    """The environments of the trials: for each property, its values and how many trials had each."""
    found: dict[str, dict[str, int]] = {}
    for status in results.statuses:
        try:
            stored = json.loads((status.trial.workdir(results.folder) / "environment.json").read_bytes())
        except (FileNotFoundError, ValueError):
            continue
        for name, value in flat(stored).items() if isinstance(stored, dict) else ():
            if name != "command":
                counts = found.setdefault(name, {})
                counts[str(value)] = counts.get(str(value), 0) + 1
    return found
