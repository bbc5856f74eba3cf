"""An experiment by its name: the module that has ``Config``, ``QUICK`` and ``build``."""

import ast
import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vision.errors import UserError
from vision.launch.options import Parsed, parse, unknown_name

PACKAGE = "experiments"
"""Where experiments are unless a caller says otherwise."""


@dataclass(frozen=True, kw_only=True)
class ExperimentModule:
    """A module that defines an experiment."""

    name: str
    """Names its run folders."""
    module: str
    """What ``python -m`` runs: "experiments.finetune"."""
    config: Any
    """The default configuration, a frozen dataclass with a field ``seed``."""
    quick: Any
    """The configuration of ``--quick``."""
    build: Callable[[Any], Any]
    """Configuration -> ``vision.train.experiment.Experiment``."""
    description: str = ""
    """The module's docstring."""
    ablations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Named changes: dotted fields and their values."""

    def parse(self, arguments: Sequence[str]) -> Parsed[Any]:
        """Parse a command line of the experiment; raises ``UserError``."""
        return parse(
            f"python -m {self.module}",
            default=self.config,
            quick=self.quick,
            description=self.description,
            arguments=arguments,
        )


def experiment_paths(package: str = PACKAGE) -> dict[str, Path]:
    """The experiments of a package by name, sorted, with their files; nothing but the package itself is imported."""
    places = importlib.import_module(package).__path__
    files = sorted(path for place in places for path in Path(place).glob("*.py"))
    return {path.stem: path for path in files if {"build", "Config", "QUICK"} <= _top_level_names(path)}


def system_paths(package: str = PACKAGE) -> dict[str, Path]:
    """The systems of a package, which are experiments in turn (``vision.launch.stages``), by name, with their files."""
    places = importlib.import_module(package).__path__
    files = sorted(path for place in places for path in Path(place).glob("*.py"))
    return {path.stem: path for path in files if {"ABOUT", "stages"} <= _top_level_names(path)}


def find_experiment(
    name: str, *, package: str = PACKAGE, among: Collection[str] = (), kind: str = "experiment"
) -> ExperimentModule:
    """Import the experiment ``name``.

    Args:
      name: of a module in ``package``.
      package: where experiments are.
      among: the names to choose from; all experiments if empty.
      kind: what those are, "detection experiment".

    Raises:
      UserError: there is no such experiment.
    """
    names = list(among or experiment_paths(package))
    if name not in names:
        listed = f"choose one of {', '.join(names)}"
        raise UserError(f"there is no {kind} {name}: {listed}" if among else unknown_name(kind, name, names, listed))
    module = importlib.import_module(f"{package}.{name}")
    return ExperimentModule(
        name=name,
        module=module.__name__,
        config=module.Config(),
        quick=module.QUICK,
        build=module.build,
        description=module.__doc__ or "",
        ablations=getattr(module, "ABLATIONS", {}),
    )


def _top_level_names(path: Path) -> set[str]:
    """Names that a source file defines at its top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names
