"""A run by its folder: the experiment that config.json names, its configuration, its newest checkpoint."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.errors import UserError
from vision.home import expanded
from vision.launch.devices import abstract_state, compiler_of
from vision.launch.experiment_module import PACKAGE, ExperimentModule, experiment_paths, find_experiment
from vision.launch.frozen import load_frozen
from vision.launch.inputs import DATA, paths_of
from vision.launch.options import changes, config_of, flatten, option_of, parse_fields, unknown_name
from vision.launch.replicas import ReplicaOptions, vectorized
from vision.launch.run_folder import CONFIG, flat, read_config
from vision.parallel.agreement import is_first
from vision.train.checkpoint import Checkpoints
from vision.train.class_names import class_names
from vision.train.compile import Compiler
from vision.train.experiment import Experiment
from vision.train.kept import restore
from vision.train.loop import steps_taken
from vision.train.state import attach_frozen
from vision.types import TrainState

MESH = "mesh."
"""Fields that say on which devices, and change nothing of what is computed."""


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """What config.json of a run folder stands for, built; without its checkpoint."""

    folder: Path
    module: ExperimentModule
    config: Any
    """As stored, with the overrides."""
    experiment: Experiment

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.module.name


@dataclass(frozen=True, kw_only=True)
class LoadedRun:
    """An experiment and a state of it, ready to be evaluated."""

    name: str
    """Of the experiment."""
    folder: Path | None
    """The run folder; None for a state that no run of this project trained."""
    config: Any
    experiment: Experiment
    compiler: Compiler
    state: TrainState
    """With the variables of frozen networks attached."""
    class_names: tuple[str, ...] | None
    """The classes that the run is trained on; None where it has kept none."""

    @property
    def images(self) -> int:
        """Training images so far."""
        return steps_taken(self.state) * self.experiment.batch_size


def to_stderr(text: str) -> None:
    """Print a note on standard error, on the first process."""
    if is_first():
        print(text, file=sys.stderr)


def open_run(
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    package: str = PACKAGE,
    report: Callable[[str], None] = to_stderr,
    known: Sequence[str] = (),
) -> StoredRun:
    """Build what a run folder's config.json stands for; touches neither data nor devices.

    Args:
      folder: the run folder.
      overrides: options of the experiment, ``["--detector.iou", "0.5"]``. Only fields that change how a state is
        evaluated or sampled from, where data and frozen networks are read from, and the mesh may differ.
      package: where experiments are.
      report: called with the fields that the run was trained without, since the experiment gained them later.
      known: other options, which a message about an unknown one may suggest.

    Raises:
      UserError: there is no run, no such experiment, its configuration has other fields now, or an override is not
        allowed.
    """
    folder = expanded(folder)
    if not (folder / CONFIG).exists():
        what = "is no run folder: it has no config.json" if folder.is_dir() else "is no run folder: there is none"
        raise UserError(f"{folder} {what}. Train first, or name the folder of a run")
    stored = read_config(folder)
    names = list(experiment_paths(package))
    if stored.experiment not in names:
        unknown = unknown_name("experiment", stored.experiment, names, f"there are {', '.join(names)}")
        raise UserError(f"{folder} is a run of another project or version: {unknown}")
    module = find_experiment(stored.experiment, package=package)
    unfitting = f"the configuration of {folder} does not fit {module.name} as it is now"
    try:
        config = config_of(stored.config, origin=folder / CONFIG, default=module.config)
    except UserError as error:
        raise UserError(f"{unfitting}: {error}") from error
    missing = sorted(set(flatten(config)) - set(flat(stored.config)))
    if missing:
        report(f"{folder} was trained before {module.name} had {', '.join(missing)}: assuming the defaults")
    changed = parse_fields(f"python -m {module.module}", base=config, arguments=overrides, known=known)
    experiment = _built(module, changed, stored.replicas, unfitting if not overrides else "")
    places = [*experiment.places] + [name for name in paths_of(changed) if name.startswith(DATA)]
    allowed = (*experiment.evaluation_only, MESH)
    refused = [name for name in changes(changed, config) if not name.startswith(allowed) and name not in places]
    if refused:
        may = [f"{prefix}{'*' * prefix.endswith(('.', '_'))}" for prefix in allowed] + places
        raise UserError(
            f"{option_of(refused[0])} is part of what the run in {folder} is ({refused[0]} = "
            f"{flatten(config)[refused[0]]}): only {', '.join(map(option_of, may))} may differ from it"
        )
    return StoredRun(folder=folder, module=module, config=changed, experiment=experiment)


def load_run(
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    package: str = PACKAGE,
    report: Callable[[str], None] = to_stderr,
    known: Sequence[str] = (),
) -> LoadedRun:
    """The newest checkpoint of a finished or running run, read-only; arguments and errors as :func:`open_run`.

    Raises:
      UserError: also where there is no checkpoint yet, or a frozen network is gone or another.
    """
    stored = open_run(folder, overrides=overrides, package=package, report=report, known=known)
    experiment, folder = stored.experiment, stored.folder
    compiler = compiler_of(experiment)
    if experiment.tokenizer is not None:
        restore(folder, experiment.tokenizer)
    checkpoints_folder = folder / "checkpoints"
    state = None
    if checkpoints_folder.is_dir():
        with Checkpoints(checkpoints_folder, read_only=True) as checkpoints:
            state = checkpoints.restore(abstract_state(experiment, compiler), report=report)
    if state is None:
        raise UserError(f"{folder} has no checkpoint yet: wait for the run to save one")
    frozen = load_frozen(experiment.frozen, folder, compiler, begun=True, read_only=True)
    return LoadedRun(
        name=stored.name,
        folder=folder,
        config=stored.config,
        experiment=experiment,
        compiler=compiler,
        state=attach_frozen(state, frozen),
        class_names=class_names(folder),
    )


def _built(module: ExperimentModule, config: Any, replicas: Any, unfitting: str) -> Experiment:
    options = ReplicaOptions(
        replicas.get("seeds", 0),
        tuple((name, tuple(map(float, numbers))) for name, numbers in replicas.get("sweep", {}).items()),
    )
    try:
        return vectorized(module.build, config, options) if options else module.build(config)
    except UserError as error:
        raise UserError(f"{unfitting}: {error}" if unfitting else str(error), code=error.code) from error
