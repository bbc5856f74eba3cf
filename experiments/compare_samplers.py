"""Which sampler is best at how many network evaluations? A table and a plot, a line for each sampler.

    python -m experiments.compare_samplers --run runs/flow_cifar/default
    python -m experiments.compare_samplers --run RUN --methods ddim heun dpm_solver unipc --evaluations 5 10 20 50
    python -m experiments.compare_samplers --run RUN_OF_SEED_0 RUN_OF_SEED_1 RUN_OF_SEED_2 -- --metrics.features auto

Every sampler starts from the same noise, and a guided evaluation counts as two. What follows ``--`` are options of the
run's experiment that change evaluation and sampling only. With several runs, which differ in their seed, means have 95
% intervals, and so have paired differences from the first method. samplers.json and a plot of each number are written
to ``--out``, by default samplers/ in the folder of the first run.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from vision.ablation.statistics import paired, summary
from vision.atomic import write_atomically
from vision.errors import UserError
from vision.home import expanded
from vision.launch.exit_code import exit_code
from vision.launch.load_run import LoadedRun, load_run
from vision.parallel.agreement import is_first
from vision.ranges import PositiveInt, check_ranges
from vision.recipes.diffusion import DiffusionRunConfig, diffusion
from vision.report.grid import save_png
from vision.report.lines import line_plot
from vision.tasks.diffusion import make_process
from vision.tasks.sampling import Method, SamplingConfig, network_evaluations, with_evaluations


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared."""

    run: tuple[Path, ...]
    """Folders of runs of a diffusion experiment; several are of one configuration and differ in their seed."""
    methods: tuple[Method, ...] = ("ddim", "heun", "dpm_solver", "unipc")
    """Samplers; differences are from the first."""
    evaluations: tuple[PositiveInt, ...] = (5, 8, 10, 20, 50)
    """Network evaluations an image, at most; a guided one counts as two."""
    out: Path | None = None
    """Folder for samplers.json and the plots. Default: samplers/ in the folder of the first run."""


def compare(config: Config, overrides: Sequence[str]) -> Path:
    """Evaluate every sampler at every number of evaluations; prints a table and returns the folder of the results.

    Raises ``UserError`` where a run is of another kind of experiment.
    """
    check_ranges(config)
    runs = [load_run(path, overrides=overrides) for path in config.run]
    for run in runs:
        if not isinstance(run.config, DiffusionRunConfig):
            raise UserError(f"{run.folder} is a run of {run.name}, which has no choice of samplers: name another run")
    rows: list[dict[str, Any]] = []
    conditional = runs[0].config.model.classes > 0
    for method in config.methods:
        for budget in config.evaluations:
            sampling = with_evaluations(
                runs[0].config.sampling, method, budget, runs[0].config.diffusion, conditional=conditional
            )
            if sampling is None:
                continue
            used = network_evaluations(make_process(runs[0].config.diffusion), sampling, conditional=conditional)
            found = [_evaluated(run, sampling) for run in runs]
            rows.append({"method": method, "evaluations": used, "budget": budget, "runs": found})
            if is_first():
                print(f"{method}, {used} evaluations: {_words(found)}", flush=True)
    if not rows:
        raise UserError("no sampler has as few evaluations: add larger numbers to --evaluations")
    first = runs[0].folder
    assert first is not None
    out = expanded(config.out) if config.out is not None else first / "samplers"
    if is_first():
        out.mkdir(parents=True, exist_ok=True)
        _write(out, rows, config.methods, floors=_floors(rows))
    return out


def _evaluated(run: LoadedRun, sampling: SamplingConfig) -> dict[str, float]:
    """The numbers of a run's evaluation under another sampler."""
    experiment = diffusion(dataclasses.replace(run.config, sampling=sampling))
    evaluation = experiment.evaluation(run.compiler)(run.state)
    return {name: float(value) for name, value in evaluation.scalars.items() if not name.startswith("mse")}


def _words(found: Sequence[Mapping[str, float]]) -> str:
    of = lambda name: summary([run[name] for run in found]).mean
    return ", ".join(f"{name} {of(name):.4g}" for name in found[0] if not name.endswith("_floor"))


def _floors(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    first = rows[0]["runs"][0]
    return {name.removesuffix("_floor"): value for name, value in first.items() if name.endswith("_floor")}


def _write(
    out: Path, rows: Sequence[Mapping[str, Any]], methods: Sequence[str], *, floors: Mapping[str, float]
) -> None:
    """samplers.json, a plot of each number, and a table of differences on the terminal."""
    names = [name for name in rows[0]["runs"][0] if not name.endswith("_floor")]
    stated: list[dict[str, Any]] = []
    for row in rows:
        entry = {key: row[key] for key in ("method", "evaluations", "budget", "runs")}
        for name in names:
            of = summary([run[name] for run in row["runs"]])
            half = None if of.interval is None else (of.interval[1] - of.interval[0]) / 2
            entry[name] = {"mean": of.mean, "half_width": half}
            base = next((r for r in rows if r["method"] == methods[0] and r["budget"] == row["budget"]), None)
            if base is not None and base is not row:
                values = lambda of, name=name: {seed: run[name] for seed, run in enumerate(of["runs"])}
                difference = paired(values(row), values(base))
                if difference is not None:
                    entry[name]["difference"] = dataclasses.asdict(difference)
        stated.append(entry)
    write_atomically(out / "samplers.json", (json.dumps(stated, indent=1) + "\n").encode())
    for name in names:
        lines = {
            method: [
                (row["evaluations"], row[name]["mean"], row[name]["half_width"] or 0.0)
                for row in stated
                if row["method"] == method
            ]
            for method in methods
        }
        values = [point[1] for points in lines.values() for point in points]
        distance = "distance" in name or "fid" in name.lower()
        plot = line_plot(
            {method: points for method, points in lines.items() if points},
            title=name.replace("_", " "),
            x="network evaluations an image",
            y=name.rpartition("/")[2].replace("_", " "),
            x_log=True,
            y_log=distance and min(values) > 0 and not any(map(math.isnan, values)),
            levels={"test images": floors[name]} if name in floors else None,
        )
        save_png(out / f"{name.replace('/', '_')}.png", plot)


def main(arguments: Sequence[str]) -> int:
    """Parse and compare; returns the exit code."""
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    config = tyro.cli(Config, args=words[:place], description=__doc__)
    return exit_code(lambda: print(compare(config, words[place + 1 :])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
