"""Which sampler is best at how many network evaluations? A table, a page and a picture, a line for each sampler.

    python -m experiments.compare_samplers --run runs/flow_cifar/default
    python -m experiments.compare_samplers --run RUN --methods ddim heun dpm_solver unipc --evaluations 5 10 20 50
    python -m experiments.compare_samplers --run RUN_OF_SEED_0 RUN_OF_SEED_1 RUN_OF_SEED_2 -- --metrics.features auto

Every sampler starts from the same noise, and a guided evaluation counts as two. What follows ``--`` are options of the
run's experiment that change evaluation and sampling only. With several runs, which differ in their seed, means have 95
% intervals, and so have the paired differences from the first method at as many evaluations; that method is evaluated
at every number that another one takes. The features of real images are computed once for all. samplers.json,
samplers.png and samplers.html are written to ``--out``, by default samplers/ in the folder of the first run.
"""

import html
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

from vision.ablation.page import EncodedImage, embedded, page, table
from vision.ablation.statistics import Difference, Summary, paired, summary
from vision.atomic import write_atomically
from vision.errors import UserError
from vision.home import expanded
from vision.launch.exit_code import exit_code
from vision.launch.load_run import LoadedRun, load_run
from vision.launch.run_folder import identity
from vision.parallel.agreement import is_first
from vision.ranges import PositiveInt, check_ranges
from vision.recipes.diffusion import DiffusionRunConfig, evaluation_of_samplers
from vision.report.lines import LinePlot, line_plots
from vision.tasks.diffusion import make_process
from vision.tasks.sampling import Method, SamplingConfig, network_evaluations, with_evaluations
from vision.train.experiment import Evaluation


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
    """Folder for samplers.json, .png and .html. Default: samplers/ in the folder of the first run."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A sampler at a number of evaluations: its numbers, by seed of the run."""

    method: Method
    evaluations: int
    """Of the network for an image."""
    seeds: Mapping[int, Mapping[str, float]]

    def summary(self, name: str) -> Summary:
        """Of a number over the runs."""
        return summary([numbers[name] for numbers in self.seeds.values()])

    def difference(self, name: str, baseline: "Row") -> Difference | None:
        """Of a number from that of the baseline, paired by seed."""
        values = lambda row: {seed: numbers[name] for seed, numbers in row.seeds.items()}
        return paired(values(self), values(baseline))


def compare(config: Config, overrides: Sequence[str]) -> Path:
    """Evaluate every sampler at every number of evaluations; prints a table and returns the folder of the results.

    Raises ``UserError`` where a run is of another kind of experiment, or runs differ in more than their seed.
    """
    check_ranges(config)
    runs = [load_run(path, overrides=overrides) for path in config.run]
    _check(runs)
    first = runs[0]
    evaluation_of = evaluation_of_samplers(first.config)
    rows, found = [], Evaluation()
    for sampling, used in _samplers(config, first.config):
        evaluate = evaluation_of(sampling)(first.compiler)
        seeds = {}
        for run in runs:
            found = evaluate(run.state)
            seeds[run.config.seed] = {name: float(value) for name, value in found.scalars.items()}
        rows.append(Row(method=sampling.method, evaluations=used, seeds=seeds))
        if is_first():
            print(f"{sampling.method}, {used} evaluations: {_words(rows[-1])}", flush=True)
    assert first.folder is not None
    out = expanded(config.out) if config.out is not None else first.folder / "samplers"
    if is_first():
        out.mkdir(parents=True, exist_ok=True)
        _write(out, rows, [run.folder for run in runs], found.protocol)
    return out


def _check(runs: Sequence[LoadedRun]) -> None:
    first = runs[0]
    seeds: dict[int, Path | None] = {}
    for run in runs:
        if not isinstance(run.config, DiffusionRunConfig):
            raise UserError(f"{run.folder} is a run of {run.name}, which has no choice of samplers: name another run")
        differing = identity(run.config, first.config, places=(*run.experiment.places, "seed"))
        if differing or run.name != first.name:
            what = next(iter(differing), "the experiment")
            raise UserError(f"{run.folder} and {first.folder} differ in {what}: name runs that differ in their seed")
        if run.config.seed in seeds:
            raise UserError(
                f"{run.folder} and {seeds[run.config.seed]} both have seed {run.config.seed}: name runs of different "
                "seeds"
            )
        seeds[run.config.seed] = run.folder


def _samplers(config: Config, run: DiffusionRunConfig) -> list[tuple[SamplingConfig, int]]:
    """Samplers with their evaluations; the first method at every number that another one takes, where it can."""
    process, conditional = make_process(run.diffusion), run.model.classes > 0
    used = lambda sampling: network_evaluations(process, sampling, conditional=conditional)
    of = lambda method, most: with_evaluations(run.sampling, method, most, run.diffusion, conditional=conditional)
    chosen: dict[Method, dict[int, SamplingConfig]] = {method: {} for method in config.methods}
    for method in (*config.methods[1:], config.methods[0]):
        taken = {count for counts in chosen.values() for count in counts} if method == config.methods[0] else set()
        for most in sorted({*config.evaluations, *taken}):
            sampling = of(method, most)
            if sampling is not None:
                chosen[method][used(sampling)] = sampling
    found = [(sampling, count) for counts in chosen.values() for count, sampling in sorted(counts.items())]
    if not found:
        raise UserError("no sampler has as few evaluations: add larger numbers to --evaluations")
    return found


def _names(rows: Sequence[Row]) -> list[str]:
    """The numbers that samplers are compared by."""
    return [name for name in next(iter(rows[0].seeds.values())) if not name.endswith(("_floor", "_deviation"))]


def _words(row: Row) -> str:
    return ", ".join(f"{name} {row.summary(name).mean:.4g}" for name in _names([row]))


def _baseline(rows: Sequence[Row], row: Row) -> Row | None:
    """The row of the first method at as many evaluations; None for that method itself, and where there is none."""
    method = rows[0].method
    if row.method == method:
        return None
    return next((each for each in rows if (each.method, each.evaluations) == (method, row.evaluations)), None)


def _write(out: Path, rows: Sequence[Row], runs: Sequence[Path | None], protocol: Mapping[str, str]) -> None:
    """samplers.json, samplers.png, samplers.html, and the table on the terminal."""
    names, stated = _names(rows), []
    for row in rows:
        base = _baseline(rows, row)
        entry: dict[str, Any] = {
            "method": row.method,
            "evaluations": row.evaluations,
            "runs": [{"seed": seed, **numbers} for seed, numbers in row.seeds.items()],
        }
        for name in names:
            entry[name] = {"mean": row.summary(name).mean, "half_width": _half_width(row.summary(name))}
            difference = row.difference(name, base) if base is not None else None
            if difference is not None:
                entry[name]["difference"] = asdict(difference)
        stated.append(entry)
    write_atomically(out / "samplers.json", (json.dumps(stated, indent=1) + "\n").encode())
    encoded = io.BytesIO()
    Image.fromarray(line_plots([_plot(rows, name) for name in names])).save(encoded, format="png")
    write_atomically(out / "samplers.png", encoded.getvalue())
    tables = {name: _table(rows, name) for name in names}
    for name, lines in tables.items():
        print(f"\n{name}\n" + "\n".join(" | ".join(line) for line in (_head(rows), *lines)), flush=True)
    picture = embedded(EncodedImage(encoded.getvalue(), "each number against network evaluations"))
    sections = [
        f"<h2>{html.escape(name)}</h2>\n{table(_head(rows), lines, numbers=range(1, 4))}\n"
        f'<p class="note">{html.escape(protocol.get(name, ""))}</p>'
        for name, lines in tables.items()
    ]
    count = len(runs)
    how = f"{count} runs, 95 % intervals over their seeds" if count > 1 else "one run, so without intervals"
    body = "\n".join(
        [
            "<h1>Samplers at equal network evaluations</h1>",
            f'<p class="status">{how}: {html.escape(", ".join(str(run) for run in runs))}</p>',
            f"<figure>{picture}</figure>",
            "<p>A guided evaluation counts as two. All samplers start from the same noise.</p>",
            *sections,
        ]
    )
    write_atomically(out / "samplers.html", page("Samplers compared", body).encode())


def _half_width(of: Summary) -> float | None:
    return None if of.interval is None else (of.interval[1] - of.interval[0]) / 2


def _head(rows: Sequence[Row]) -> tuple[str, ...]:
    return "sampler", "evaluations", "mean", f"difference from {rows[0].method} at as many"


def _table(rows: Sequence[Row], name: str) -> list[list[str]]:
    """A line for each row: sampler, evaluations, mean, difference; each with its interval, where there is one."""
    lines = []
    for row in rows:
        of, base = row.summary(name), _baseline(rows, row)
        half = _half_width(of)
        difference = row.difference(name, base) if base is not None else None
        apart = "-"
        if difference is not None:
            apart = f"{difference.mean:+.4g}"
            if difference.interval is not None:
                apart += " [{:.4g}, {:.4g}]".format(*difference.interval)
        mean = f"{of.mean:.4g}" + ("" if half is None else f" ± {half:.2g}")
        lines.append([row.method, str(row.evaluations), mean, apart])
    return lines


def _plot(rows: Sequence[Row], name: str) -> LinePlot:
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        of = row.summary(name)
        lines.setdefault(row.method, []).append((row.evaluations, of.mean, _half_width(of) or 0.0))
    values = [point[1] for points in lines.values() for point in points]
    distance = "distance" in name or name.endswith("frechet") or "fid" in name.lower()
    floor = next(iter(rows[0].seeds.values())).get(f"{name}_floor")
    return LinePlot(
        lines=lines,
        title=name.replace("_", " "),
        x="network evaluations an image",
        y="",
        x_log=True,
        y_log=distance and min(values) > 0 and not any(map(math.isnan, values)),
        levels={} if floor is None else {"test images": floor},
    )


def main(arguments: Sequence[str]) -> int:
    """Parse and compare; returns the exit code."""
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    config = tyro.cli(Config, args=words[:place], description=__doc__)
    return exit_code(lambda: print(compare(config, words[place + 1 :])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
