"""``python -m experiments``: the experiments by task, read from their sources without importing them."""

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from vision.errors import UserError
from vision.launch.about import About, Task
from vision.launch.exit_code import exit_code
from vision.launch.experiment_module import PACKAGE, experiment_paths, system_paths
from vision.launch.fits import CHIPS, read_fits
from vision.launch.options import HELP, unknown_name


def main(arguments: Sequence[str], *, package: str = PACKAGE) -> int:
    """List the experiments, or print what one of them says of itself; returns the exit code."""
    return exit_code(lambda: print(text(arguments, package=package)))


def text(arguments: Sequence[str], *, package: str = PACKAGE) -> str:
    """The list, or, after the name of an experiment, its docstring.

    Raises ``UserError`` for an unknown name, or options, which belong to the experiment itself.
    """
    paths = {**experiment_paths(package), **system_paths(package)}
    words = [word for word in arguments if word not in HELP]
    if not words:
        return listing(package=package)
    name, *options = words
    if name not in paths:
        raise UserError(unknown_name("experiment", name, list(paths), f"there are {', '.join(paths)}"))
    if options:
        raise UserError(f"options follow the module of an experiment: python -m {package}.{name} {' '.join(options)}")
    return ast.get_docstring(ast.parse(paths[name].read_text())) or f"python -m {package}.{name} --help"


def listing(*, package: str = PACKAGE) -> str:
    """All experiments below their tasks, and systems of several of them.

    Of each its name, the first line of the docstring, the paper, the time of ``--quick``, and what it fits.

    Whether the training step with its defaults fits one accelerator is read from ``fits.json`` in their folder.
    """
    paths = experiment_paths(package)
    found = {name: (about_of(path), _first_line(path)) for name, path in paths.items()}
    fits = read_fits(next(iter(paths.values())).parent) if paths else {}
    lines = [f"python -m {package}.NAME --quick  tries one, python -m {package}.NAME --help  lists its options"]
    for task in get_args(Task):
        names = [name for name, (about, _) in found.items() if about.task == task]
        lines += ["", task] if names else []
        for name in names:
            about, summary = found[name]
            details = [about.paper, f"--quick: {about.quick}" if about.quick else ""]
            lines += [f"  {name:20} {summary}", f"  {'':20} {'; '.join(filter(None, details))}"]
            known = [
                f"{chip}: {fits[name][where].words()}" for where, chip in CHIPS.items() if where in fits.get(name, {})
            ]
            lines += [f"  {'':20} fits {', '.join(known)}"] if known else []
    systems = {name: (about_of(path), _first_line(path)) for name, path in system_paths(package).items()}
    lines += ["", "several of them in turn"] if systems else []
    for name, (about, summary) in systems.items():
        details = [about.paper, f"--quick: {about.quick}" if about.quick else ""]
        lines += [f"  {name:20} {summary}", f"  {'':20} {'; '.join(filter(None, details))}"]
    return "\n".join(lines)


def about_of(path: Path) -> About:
    """``ABOUT`` of an experiment's source file. Raises ``UserError`` where it has none whose values are literals."""
    for node in ast.parse(path.read_text()).body:
        targets = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
        if isinstance(node, ast.Assign) and targets == ["ABOUT"] and isinstance(node.value, ast.Call):
            values = {word.arg: word.value for word in node.value.keywords if word.arg is not None}
            try:
                about = About(**{name: ast.literal_eval(value) for name, value in values.items()})
            except (ValueError, TypeError) as error:
                raise UserError(f"ABOUT of {path} is not About(task=..., paper=..., quick=...): {error}") from error
            if about.task not in get_args(Task):
                raise UserError(f"ABOUT of {path} has no known task: {about.task}")
            return about
    raise UserError(f"{path} has no ABOUT = About(...), which says what is listed of it")


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
