"""``--help`` of an experiment: the options of a day, and what can be done with a run. ``--help-all`` is the rest."""

import textwrap
from collections.abc import Callable
from typing import Any

from vision.launch.field_doc import field_doc
from vision.launch.options import RunOptions, choices, flatten, option_of
from vision.launch.verbs import VERBS
from vision.train.experiment import Experiment

WIDTH = 120

RUN = ("quick", "config", "workdir", "dry_run", "seeds", "sweep")
"""Options of every experiment that are no fields of its configuration."""

DAILY: dict[str, tuple[str, ...]] = {
    "run": ("images", "batch_size", "init_from", "seed"),
    "data": ("data.name", "data.dir", "data.resolution", "data.labels_per_class"),
    "model": ("model.classes", "model.width", "model.widths", "model.depth", "model.depths", "model.latent"),
    "optimization": ("optimizer.name", "optimizer.lr", "optimizer.warmup", "optimizer.weight_decay", "ema"),
    "evaluation": (
        *("samples", "metrics.features", "metrics.samples", "sampling.steps", "sampling.guidance", "truncation"),
        *("detector.confidence", "detector.iou", "evaluation_batch", "intervals.evaluate"),
    ),
    "hardware": ("mesh.data", "mesh.fsdp", "mesh.tensor", "model.dtype", "microbatches", "dispatch"),
}
"""Fields by heading; an experiment shows those that it has."""


def short_help(name: str, *, config: Any, build: Callable[[Any], Experiment], description: str) -> str:
    """The text of ``python -m experiments.NAME --help``, at most 60 lines.

    Args:
      name: of the experiment.
      config: its configuration, whose values are shown.
      build: configuration -> experiment, which says what can be done with a run.
      description: the experiment's docstring, of which the first line is shown.

    Raises ``UserError`` where ``build`` does.
    """
    fields, experiment = flatten(config), build(config)
    summary = description.strip().splitlines()[0] if description.strip() else ""
    lines = [f"python -m experiments.{name} [options]", *([summary] if summary else [])]
    for heading, names in DAILY.items():
        rows = [(option_of(each), shown(fields[each]), field_doc(config, each)) for each in names if each in fields]
        if heading == "run":
            defaults = flatten(RunOptions())
            rows = [(option_of(each), shown(defaults[each]), field_doc(RunOptions(), each)) for each in RUN] + rows
        if heading == "model":
            named = ((f"--{field}", "NAME", f"one of {', '.join(table)}") for field, table in choices(config).items())
            rows = [*named, *rows]
        if rows:
            lines += ["", heading, *map(_row, rows)]
    lines += ["", "with a run, RUN being its folder"]
    lines += [
        f"  {f'python -m vision {verb.name} {verb.operands}':44} {verb.summary}"
        for verb in VERBS.values()
        if verb.offered(experiment)
    ]
    lines += ["", f"--help-all lists all {len(fields) + len(flatten(RunOptions()))} options."]
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A value as it is typed after its option; "" for switches that are off and for what is left out."""
    if value is None or value is False or value == ():
        return ""
    return "on" if value is True else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _row(row: tuple[str, str, str]) -> str:
    """Option, default, and what fits on the line of the first sentence about it."""
    option, value, text = row
    value = value if len(value) <= 20 else f"{value[:17]}..."
    start = f"  {f'{option} {value}':34} "
    sentence = text.split(". ")[0].rstrip(".")
    return (start + textwrap.shorten(sentence, WIDTH - len(start), placeholder=" ...")).rstrip()
