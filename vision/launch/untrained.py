"""An experiment at step 0, with the weights that ``--init-from`` names: to evaluate or predict without training."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from vision.errors import UserError
from vision.home import expanded
from vision.launch.devices import compiler_of
from vision.launch.experiment_module import PACKAGE, find_experiment
from vision.launch.frozen import load_frozen
from vision.launch.load_run import LoadedRun
from vision.launch.options import option_of
from vision.parallel.sharding import path_name
from vision.train.class_names import class_names
from vision.train.kept import restore
from vision.train.state import attach_frozen
from vision.types import TrainState

_TAKEN = ("quick", "config", "processes")  # run options that say what the experiment is; the others are of training


def untrained_run(name: str, arguments: Sequence[str], *, package: str = PACKAGE) -> LoadedRun:
    """The experiment ``name`` with the weights that ``--init-from`` names.

    Args:
      name: of the experiment.
      arguments: its own options.
      package: where experiments are.

    Raises:
      UserError: an option is unknown or one of training, there is no ``--init-from``, or it does not give a recogniser
        all its parameters, so that what it says would be random.
    """
    module = find_experiment(name, package=package)
    parsed = module.parse(arguments)
    for field in dataclasses.fields(parsed.run):
        if field.name not in _TAKEN and getattr(parsed.run, field.name) != field.default:
            raise UserError(f"{option_of(field.name)} is an option of training, and {name} is not trained here")
    experiment = module.build(parsed.config)
    start_from = experiment.starts_from
    if start_from is None or experiment.initial_values is None:
        raise UserError(
            f"{name} has random weights until it is trained: name a file of weights with --init-from, or the folder of "
            f"a run in place of {name}"
        )
    start_from = expanded(start_from)
    of_run = start_from.parent if start_from.name == "checkpoints" else start_from
    if experiment.tokenizer is not None and of_run.is_dir():
        restore(of_run, experiment.tokenizer)
    compiler = compiler_of(experiment)
    values = experiment.initial_values()
    state = compiler.init(experiment.init, key=jax.random.key(experiment.seed), initial=values)
    if experiment.prediction is not None or experiment.inference is not None:
        _check_complete(state, list(values), start_from)
    frozen = load_frozen(experiment.frozen, None, compiler, begun=False, read_only=True)
    return LoadedRun(
        name=name,
        folder=None,
        config=parsed.config,
        experiment=experiment,
        compiler=compiler,
        state=attach_frozen(state, frozen),
        class_names=class_names(of_run) if of_run.is_dir() else None,
    )


def _check_complete(state: TrainState, given: Sequence[str], path: Path) -> None:
    """Raise ``UserError`` unless all parameters are among the paths ``given``."""
    paths = [f"params/{path_name(path)}" for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    random = sorted(set(paths) - set(given))
    if random:
        more = f" and {len(random) - 1} more" if len(random) > 1 else ""
        raise UserError(
            f"{path} gives no values for {random[0]}{more}, which would be random: train first, or name weights of "
            "exactly these classes"
        )
