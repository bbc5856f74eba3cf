"""The report of a study: ``report.html`` for reading, ``tables/`` and ``figures/`` for papers."""

import html
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from vision.ablation import claims, figures, tables
from vision.ablation.page import EncodedImage, embedded, page, table
from vision.ablation.plan import written
from vision.ablation.results import Results, Row, Run, State, collect, environments, latest_samples, rows
from vision.ablation.study import Study, baseline_of, spelled
from vision.atomic import write_atomically
from vision.launch.run_folder import flat
from vision.units import count, duration

_MOST_PICTURES = 48  # crops of samples on the page, about 20 kB each
_MOST_SEEDS = 3
_BANDS = (
    "Mean and 95 % t band over seeds, cut off where it is far wider than the seeds lie apart; grey is the baseline."
)
_STATES: tuple[State, ...] = ("finished", "running", "interrupted", "failed", "waiting")


def write_report(
    study: Study,
    folder: Path,
    *,
    stale: float,
    metric: str | None = None,
    tend: Callable[[], None] = lambda: None,
) -> Results:
    """Write the page, the tables and the figures again from the study directory, without running anything.

    One process writes at a time, so that the last one has all results.

    Args:
      study: the plan.
      folder: the study directory.
      stale: seconds without a sign of life after which a claim is ignored.
      metric: the leading metric; None for the first.
      tend: called often meanwhile.

    Raises:
      UserError: there are numbers, and ``metric`` is none of them; or metrics that are damaged.
      OSError: something cannot be written.
    """
    with claims.waited(folder / "claims", "report", stale=stale, tend=tend) as claim:

        def alive() -> None:
            tend()
            claims.renew(claim)

        results = collect(study, folder, stale=stale, metric=metric)
        (folder / "tables").mkdir(exist_ok=True)
        (folder / "figures").mkdir(exist_ok=True)
        write_atomically(folder / "tables" / "values.csv", tables.values_csv(results).encode())
        sections = [_section(results, metric, alive) for metric in results.metrics]
        sections += [_loss_section(results, name, alive) for name in _losses(results)]
        body = _page(results, sections, alive)
        write_atomically(folder / "report.html", body.encode())
    return results


def file_name(name: str, names: Sequence[str]) -> str:
    """A metric's name as that of a file, unlike those of all other ``names``."""
    plain = lambda text: re.sub(r"[^A-Za-z0-9._+-]", "-", text).lstrip(".") or "metric"
    alike = [other for other in names if plain(other).casefold() == plain(name).casefold()]
    return plain(name) if len(alike) == 1 else f"{plain(name)}-{alike.index(name) + 1}"


def _section(results: Results, metric: str, alive: Callable[[], None]) -> str:
    """Write the files of a metric, and return its part of the page."""
    found = rows(results, metric)
    comparisons = {name: _comparisons(rows(results, name)) for name in results.metrics}
    text = tables.caption(results, metric, found, comparisons=comparisons)
    name = file_name(metric, results.metrics)
    stem = results.folder / "tables" / name
    write_atomically(stem.with_name(f"{name}.md"), tables.markdown(found, text).encode())
    write_atomically(stem.with_name(f"{name}.csv"), tables.table_csv(found).encode())
    label = f"{results.study.experiment}-{metric}"
    write_atomically(stem.with_name(f"{name}.tex"), tables.latex(found, text, label=label).encode())
    alive()
    plots = [_saved_figure(results, f"{name}", figures.dots(found, metric), f"{metric} of every point", alive)]
    curves = figures.curves(results, f"eval/{metric}")
    if curves is not None:
        plots.append(_saved_figure(results, f"{name}-curves", curves, f"{metric} over the images seen", alive))
    return "\n".join(
        [
            f"<h2>{html.escape(metric)}</h2>",
            _numbers(found),
            f'<p class="note">{html.escape(text)}</p>',
            *plots[:1],
            *(f'{image}\n<p class="note">{_BANDS}</p>' for image in plots[1:]),
        ]
    )


def _comparisons(found: Sequence[Row]) -> int:
    return sum(row.difference is not None and row.difference.interval is not None for row in found)


def _saved_figure(results: Results, name: str, figure: "figures.Figure", what: str, alive: Callable[[], None]) -> str:
    """Keep a figure as PDF and PNG, and return it for the page."""
    png = figures.as_png(figure)
    write_atomically(results.folder / "figures" / f"{name}.png", png)
    alive()
    write_atomically(results.folder / "figures" / f"{name}.pdf", figures.as_pdf(figure))
    alive()
    return f'<figure class="curves">{embedded(EncodedImage(png, what))}</figure>'


def _losses(results: Results) -> list[str]:
    names = {name for seeds in results.runs.values() for run in seeds.values() for line in run.lines for name in line}
    return sorted(name for name in names if name.startswith("train/") and name.rpartition("/")[2] == "loss")


def _loss_section(results: Results, name: str, alive: Callable[[], None]) -> str:
    figure = figures.curves(results, name)
    if figure is None:
        return ""
    plot = _saved_figure(results, f"{re.sub('[^A-Za-z0-9]', '-', name)}-curves", figure, f"{name} over images", alive)
    return f'<h2>{html.escape(name)}</h2>\n{plot}\n<p class="note">{_BANDS}</p>'


def _numbers(found: Sequence[Row]) -> str:
    places = tables.decimals(found)
    body = []
    for row in found:
        name, *rest = tables.cells(row, places)
        body.append([f"<code>{html.escape(name)}</code>", *map(html.escape, rest)])
    return table(tables.HEAD, body, numbers=range(1, len(tables.HEAD)))


def _page(results: Results, sections: Sequence[str], alive: Callable[[], None]) -> str:
    study, states = results.study, [status.state for status in results.statuses]
    tally = ", ".join(f"{states.count(state)} {state}" for state in _STATES if state in states)
    seconds = sum(status.outcome.seconds for status in results.statuses if status.outcome is not None)
    summary = {
        "trials finished": f"{states.count('finished')} of {len(states)}",
        "points": str(len(study.points)),
        "seeds": spelled(study.seeds),
        "time of all trials": duration(seconds),
    }
    nothing = "<p>No trial has finished yet; the tables appear with the first.</p>"
    again = f"python -m experiments.ablate {study.experiment} --workdir {results.folder}"
    parts = [
        f"<h1>Ablation of {html.escape(study.experiment)}</h1>",
        f'<p class="status">Trials: {html.escape(tally)}</p>',
        '<dl class="summary">',
        *(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in summary.items()),
        "</dl>",
        *([section for section in sections if section] or [nothing]),
        _samples(results, alive),
        _points(results),
        _trials(results),
        "<h2>Commands</h2>\n<p>The whole study, or what is left of it:</p>",
        f"<pre><code>{html.escape(again)}</code></pre>",
        _commands(results),
        _environment(results),
        f"<footer>Written {datetime.now().astimezone():%d %B %Y, %H:%M %Z}</footer>",
    ]
    return page(f"Ablation of {study.experiment}", "\n".join(part for part in parts if part))


def shown_seeds(results: Results) -> list[int]:
    """The seeds whose samples are shown: those that most points have, the lowest first."""
    runs = [seeds for seeds in results.runs.values() if seeds]
    having = {seed: sum(seed in seeds for seeds in runs) for seed in results.study.seeds}
    most = max(having.values(), default=0)
    wanted = [seed for seed in results.study.seeds if most and having[seed] == most]
    return wanted[: max(1, min(_MOST_SEEDS, _MOST_PICTURES // max(len(runs), 1)))]


def _samples(results: Results, alive: Callable[[], None]) -> str:
    seeds, lines, any_image = shown_seeds(results), [], False
    for point in results.study.points:
        cells = [f"<code>{html.escape(point.name)}</code>"]
        for seed in seeds:
            image = _sample(results.runs[point.name].get(seed))
            any_image = any_image or image is not None
            cells.append(embedded(image) if image is not None else '<span class="note">none</span>')
            alive()
        lines.append(cells)
    if not any_image:
        return ""
    note = "The upper left part of each run's last samples, reduced; with equal sampling seeds."
    head = ("point", *(f"seed {seed}" for seed in seeds))
    return f'<h2>Samples</h2>\n{table(head, lines, kind="samples")}\n<p class="note">{note}</p>'


def _sample(run: Run | None) -> EncodedImage | None:
    path = latest_samples(run) if run is not None else None
    if run is None or path is None:
        return None
    try:
        return EncodedImage(figures.sample_crop(path), f"samples of {run.point}, seed {run.seed}")
    except (OSError, SyntaxError):  # Pillow reports some damaged PNG files as a SyntaxError
        return None


def _points(results: Results) -> str:
    """The changes of each point, next to the baseline's values."""
    before = flat(baseline_of(results.study).config)
    lines = []
    for point in results.study.points:
        for field, value in point.changes.items():
            had = written(before[field]) if field in before else "absent"
            lines.append([f"<code>{html.escape(text)}</code>" for text in (point.name, field, had, written(value))])
    return f"<h2>Points</h2>\n{table(('point', 'field', 'baseline', 'here'), lines)}" if lines else ""


def _trials(results: Results) -> str:
    """The state of every trial, its duration, and the reasons of failures."""
    lines, failures = [], []
    for status in results.statuses:
        outcome = status.outcome
        took = duration(outcome.seconds) if outcome is not None else ""
        lines.append(
            [
                f"<code>{html.escape(status.trial.point.name)}</code>",
                html.escape(spelled(status.trial.seeds)),
                html.escape(status.text),
                count(status.images),
                took,
                html.escape(outcome.host) if outcome is not None else "",
            ]
        )
        if status.state == "failed" and outcome is not None:
            tail = html.escape("\n".join(outcome.tail)) or "it printed nothing"
            failures.append(f"<h3>{html.escape(status.trial.title)}</h3>\n<pre><code>{tail}</code></pre>")
    head = ("point", "seed", "state", "images", "time", "host")
    last = '\n<p class="note">The last lines of the trials that failed:</p>\n' if failures else ""
    return f"<h2>Trials</h2>\n{table(head, lines, numbers=(3, 4))}{last}" + "\n".join(failures)


def _commands(results: Results) -> str:
    parts = []
    for point in results.study.points:
        typed = [status.trial.typed(results.folder) for status in results.statuses if status.trial.point is point]
        parts.append(
            f"<details><summary><code>{html.escape(point.name)}</code></summary>\n"
            f"<pre><code>{html.escape(chr(10).join(typed))}</code></pre></details>"
        )
    return "\n".join(parts)


def _environment(results: Results) -> str:
    found = environments(results)
    if not found:
        return ""
    lines = []
    for name, values in found.items():
        shown = [value if len(values) == 1 else f"{value} ({n} trials)" for value, n in values.items()]
        lines.append([f"<code>{html.escape(name)}</code>", "<br>".join(map(html.escape, shown))])
    differ = sorted(name for name, values in found.items() if len(values) > 1)
    note = f"Not all trials ran on the same: they differ in {', '.join(differ)}." if differ else ""
    return f"<h2>Environment</h2>\n{f'<p>{html.escape(note)}</p>' if note else ''}{table(('', 'of the trials'), lines)}"
