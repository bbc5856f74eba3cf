"""The command line of the ablation runner: points, seeds, directory, and what to do."""

import argparse
import contextlib
import dataclasses
import errno
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vision.ablation import claims, study
from vision.ablation.devices import Share, probe, shares, usable_cores
from vision.ablation.narration import Narrator
from vision.ablation.outcomes import final_numbers, metrics
from vision.ablation.plan import Point, plan, planned_again, read_axis
from vision.ablation.results import status_of
from vision.ablation.runner import FAILED, KILLED, UNFINISHED, Runner
from vision.ablation.study import Study, Trial
from vision.errors import UserError
from vision.launch.experiment_module import ExperimentModule, find_experiment
from vision.launch.options import command_line, flatten, unknown_name
from vision.launch.run_folder import default_workdir
from vision.parallel.processes import ProcessOptions
from vision.parallel.processes import plan as plan_processes
from vision.units import value

DESCRIPTION = """\
Compare changes of an experiment over several seeds, and write the table.

  python -m experiments.ablate diffusion_cifar --quick --vary sampling.guidance 1,2,4 --seeds 3
  python -m experiments.ablate diffusion_cifar --named epsilon,v --parallel 4 -- --data.dir ~/tensorflow_datasets
  python -m experiments.ablate diffusion_cifar --grid model.width 32,64 --grid model.attention '16 8,8,()'

What follows -- are options of the experiment for all points, the baseline included. To continue, run the same command,
on as many machines as share the directory. With --workdir of a study that exists, what is not given is taken from it.
Exit codes: 0 all finished; 1 some failed; 2 wrong options; 75 stopped, or some are running elsewhere.
"""

_SEEDS = (0, 1, 2)
_ON_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def main(arguments: Sequence[str], *, package: str) -> int:
    """Run the ablation runner; returns the exit code.

    Args:
      arguments: the command line.
      package: where the experiments are.
    """
    narrator = Narrator()
    try:
        own, shared = _divided(arguments)
        return run(_parsed(own, package), shared, package=package, narrator=narrator)
    except UserError as error:
        narrator.say(f"error: {' '.join(str(error).split())}")
        return error.code
    except KeyboardInterrupt:
        narrator.say("stopped; nothing was started")
        return KILLED
    except OSError as error:
        if error.errno not in _ON_DISK:
            raise
        narrator.say(f"error: {error.filename or 'the study directory'} cannot be written: {error.strerror}")
        return 4


def _divided(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The runner's arguments, and those after ``--``, which are the experiment's."""
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    own = words[:at]
    # values such as -1,2 would be parsed as an option; the space is ignored later
    own = [f" {word}" if own[max(i - 2, 0)] in ("--vary", "--grid") else word for i, word in enumerate(own)]
    return own, words[at + 1 :]


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m experiments.ablate",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("experiment", help="name of a module in experiments/")
    points = parser.add_argument_group("points").add_argument
    pair = {"nargs": 2, "action": "append", "default": [], "metavar": ("FIELD", "VALUES")}
    points("--vary", **pair, help="change one field at a time: commas between values, spaces within a tuple, () empty")
    points("--grid", **pair, help="every combination of the values of all fields given so")
    points("--named", default="", metavar="NAMES", help="changes from the experiment's ABLATIONS: all, or epsilon,v")
    points("--quick", action="store_true", help="start from the experiment's quick configuration")
    add("--seeds", metavar="N", help="a number of seeds (3 is 0,1,2) or the seeds (5,6,7); 3 if not given")
    add("--vectorized", action="store_true", help="train the seeds of a point as one program")
    add("--workdir", type=Path, help="the study directory; by default named after the baseline")
    add("--parallel", type=int, default=1, metavar="N", help="trials at a time, each with its share of the devices")
    add("--metric", help="the final number that leads in the report")
    add("--retry-failed", action="store_true", help="try failed trials again")
    add("--stale", type=float, default=300.0, metavar="SECONDS", help="take over from runners silent for so long (300)")
    instead = parser.add_argument_group("instead of running all").add_mutually_exclusive_group().add_argument
    instead("--index", type=int, metavar="I", help="run only the I-th trial of the list, from 1")
    instead("--list", action="store_true", help="print all trials with index, state and command")
    instead("--report", action="store_true", help="renew the report")
    return parser


def _parsed(arguments: Sequence[str], package: str) -> argparse.Namespace:
    parser = _parser()
    options, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
        first = unknown[0]
        name = first.split("=")[0].lstrip("-").replace("-", "_")
        if not first.startswith("-"):
            raise UserError(f"{first} is one argument too many: values are one word, in quotes where they have spaces")
        if name in flatten(find_experiment(options.experiment, package=package).config):
            raise UserError(f"{first} is an option of the experiment: write it after --, behind all others")
        raise UserError(unknown_name("option", first, known, "--help lists all options"))
    if options.stale < 1:
        raise UserError(f"--stale is at least 1 second, not {options.stale:g}")
    if options.index is not None and options.parallel != 1:
        raise UserError("--index runs one trial: leave --parallel out")
    return options


def seeds_of(text: str) -> tuple[int, ...]:
    """``3`` as (0, 1, 2); ``5,6,7`` as those; ``5,`` as seed 5 alone. Raises ``UserError``."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if "," not in text:
        numbers = list(range(numbers[0])) if numbers else []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds is a number of seeds, or different seeds separated by commas, not {text!r}")
    return tuple(numbers)


def run(options: argparse.Namespace, shared: Sequence[str], *, package: str, narrator: Narrator) -> int:
    """Do what a parsed command line asks for; returns the exit code."""
    recipe = find_experiment(options.experiment, package=package)
    arguments = (*(["--quick"] if options.quick else []), *shared)
    folder = options.workdir or _default_folder(recipe, arguments)
    stored = study.read(folder)
    if stored is not None and stored.experiment != recipe.name:
        raise UserError(f"{folder} holds a study of {stored.experiment}, not {recipe.name}: choose another --workdir")
    if options.report:
        if stored is None:
            raise UserError(f"{folder} holds no study: name its directory with --workdir")
        _report(stored, folder, options)
        narrator.say(f"report: {folder / 'report.html'}")
        return 0
    requested, messages = _requested(recipe, stored, arguments, options)
    for text in messages:
        narrator.say(text)
    seeds = seeds_of(options.seeds) if options.seeds else stored.seeds if stored is not None else _SEEDS
    grown, names, _ = _grown(recipe, folder, stored, arguments, requested, seeds, vectorized=options.vectorized)
    trials = study.trials(grown, names, seeds)
    if options.list:
        _list(trials, folder, options.stale)
        return 0
    if options.index is not None and not 1 <= options.index <= len(trials):
        raise UserError(f"--index counts from 1 to {len(trials)}, not {options.index}")
    divided = shares(options.parallel, ask=probe, environment=os.environ, cores=usable_cores())
    # nothing has been written so far
    kept, names = _kept(recipe, folder, arguments, requested, seeds, options=options, narrator=narrator)
    trials = study.trials(kept, names, seeds)
    if options.index is not None:
        trials = trials[options.index - 1 : options.index]
    return _run(kept, trials, folder, divided, options, narrator)


def _default_folder(recipe: ExperimentModule, arguments: Sequence[str]) -> Path:
    parsed = recipe.parse(arguments)
    return default_workdir(
        f"ablate/{recipe.name}", quick=parsed.run.quick, config=parsed.config, default=parsed.default
    )


def _requested(
    recipe: ExperimentModule, stored: Study | None, arguments: Sequence[str], options: argparse.Namespace
) -> tuple[tuple[Point, ...], list[str]]:
    """The validated points of the command, and messages about them."""
    if stored is not None and options.workdir is not None and not arguments:
        arguments = stored.arguments
    if options.vary or options.grid or options.named:
        return plan(
            recipe,
            arguments,
            named=[name.strip() for name in options.named.split(",")] if options.named else [],
            vary=[read_axis(field, text, option="--vary") for field, text in options.vary],
            grid=[read_axis(field, text, option="--grid") for field, text in options.grid],
        )
    if stored is None:
        known = f" (names are {', '.join(recipe.ablations)})" if recipe.ablations else ""
        raise UserError(f"there is nothing to compare: give --vary, --grid or --named{known}")
    if arguments == stored.arguments:
        return planned_again(recipe, arguments, stored.points), []
    first, messages = plan(recipe, arguments)
    study.grown(stored, first, options.workdir or Path("the study directory"))  # equal to another point
    return planned_again(recipe, stored.arguments, stored.points), messages


def _grown(
    recipe: ExperimentModule,
    folder: Path,
    stored: Study | None,
    arguments: Sequence[str],
    points: Sequence[Point],
    seeds: Sequence[int],
    *,
    vectorized: bool,
) -> tuple[Study, list[str], list[str]]:
    """The study with the command's additions, the names of the command's points, and messages about what is new."""
    if stored is None:
        new = Study(
            experiment=recipe.name,
            module=recipe.module,
            arguments=tuple(arguments),
            points=tuple(points),
            programs=study.divided(seeds, vectorized=vectorized),
        )
        return new, [point.name for point in points], []
    grown, names = study.grown(stored, points, folder)
    grown = dataclasses.replace(grown, programs=study.divided(seeds, vectorized=vectorized, existing=stored.programs))
    added = [point.name for point in grown.points[len(stored.points) :]]
    new_seeds = sorted(set(grown.seeds) - set(stored.seeds))
    messages = [f"new in this study: {', '.join(added)}"] if added else []
    messages += [f"new in this study: seeds {study.spelled(new_seeds)}"] if new_seeds else []
    other_points, other_seeds = len(grown.points) - len(names), len(set(grown.seeds) - set(seeds))
    more = [f"{n} {noun}{'s' * (n > 1)}" for n, noun in ((other_points, "point"), (other_seeds, "seed")) if n]
    if more:
        messages.append(f"the study also has {' and '.join(more)} that this command does not name: they are not run")
    return grown, names, messages


def _kept(
    recipe: ExperimentModule,
    folder: Path,
    arguments: Sequence[str],
    points: Sequence[Point],
    seeds: Sequence[int],
    *,
    options: argparse.Namespace,
    narrator: Narrator,
) -> tuple[Study, list[str]]:
    """Write the study or the command's additions; one runner at a time."""
    if folder.is_dir() and study.read(folder) is None:
        strange = sorted(entry.name for entry in folder.iterdir() if entry.name not in ("claims", ".study.json.tmp"))
        if strange:
            raise UserError(f"{folder} has files in it ({strange[0]}) but no {study.FILE}: choose another --workdir")
    with claims.waited(folder / "claims", "study", stale=options.stale):
        stored = study.read(folder)  # again: another runner may have been faster
        kept, names, messages = _grown(recipe, folder, stored, arguments, points, seeds, vectorized=options.vectorized)
        if kept != stored:
            study.write(folder, kept)
    for text in messages:
        narrator.say(text)
    return kept, names


def _list(trials: Sequence[Trial], folder: Path, stale: float) -> None:
    """Print the trials on standard output."""
    statuses = [status_of(trial, folder, stale=stale) for trial in trials]
    width = max(len(status.state) for status in statuses)
    for index, status in enumerate(statuses, start=1):
        print(f"{index:{len(str(len(trials)))}}  {status.state:{width}}  {status.trial.typed(folder)}")


def _report(kept: Study, folder: Path, options: argparse.Namespace, tend=lambda: None) -> None:
    from vision.ablation.report import write_report  # scipy and matplotlib take seconds to import

    write_report(kept, folder, stale=options.stale, metric=options.metric, tend=tend)


def _run(
    kept: Study,
    trials: Sequence[Trial],
    folder: Path,
    divided: Sequence[Share],
    options: argparse.Namespace,
    narrator: Narrator,
) -> int:
    launcher_options = _launcher_options(kept.arguments)
    narrator.say(
        f"{kept.experiment}: {len(kept.points)} points, {len(kept.seeds)} seeds, in {folder}"
        + (
            f"; each trial with {shlex.join(launcher_options)}, since it is a separate process"
            if launcher_options
            else ""
        )
    )

    def headline(trial: Trial) -> str:
        found = [final_numbers(metrics(trial.replica(folder, seed)), trial.point.budget) for seed in trial.seeds]
        name = options.metric if options.metric in found[0] else next(iter(found[0]), None)
        numbers = [value(each[name]) for each in found if name in each] if name is not None else []
        return f"{name} {', '.join(numbers)}" if numbers else ""

    runner = Runner(
        trials,
        folder,
        shares=divided,
        stale=options.stale,
        retry_failed=options.retry_failed,
        report=lambda tend: _report(study.read(folder) or kept, folder, options, tend),
        narrator=narrator,
        headline=headline,
        extra=launcher_options,
    )
    code = runner.run()
    if (folder / "report.html").exists():
        narrator.say(f"report: {folder / 'report.html'}")
    if code == FAILED:
        narrator.say("to try the failed ones again, add --retry-failed")
    elif code != 0:
        where = "" if code == UNFINISHED else " (the trials were killed)"
        narrator.say(f"to continue{where}, run the same command:\n  {command_line()}")
    return code


def _launcher_options(arguments: Sequence[str]) -> tuple[str, ...]:
    """The option that keeps trials from joining each other where a cluster's launcher has started several runners."""
    if any(argument.startswith("--processes.") for argument in arguments):
        return ()
    with contextlib.suppress(UserError):
        if plan_processes(ProcessOptions(), os.environ).arguments is None:
            return ()
    return ("--processes.launcher", "none")
