"""``--extend RUN --images N``: a finished run made longer, as a run of its own that starts from the other's state.

That is what the same recipe with a budget of N from the start would have been, to the last bit, if no schedule depends
on the budget. Whether one does is found by tracing the training step with both budgets. Where it does, as with a
learning rate that falls to zero at the end, the longer run would have been another one from its first step, and
extending is refused.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vision.errors import UserError
from vision.home import expanded
from vision.launch import run_folder as work
from vision.launch.frozen import FILE as FROZEN
from vision.launch.frozen import frozen_shapes
from vision.launch.inputs import FILE as INPUTS
from vision.launch.inputs import paths_of
from vision.launch.options import flatten
from vision.train.class_names import CLASS_NAMES
from vision.train.compile import Compiler, abstract
from vision.train.experiment import Experiment
from vision.train.kept import TOKENIZER
from vision.train.snapshots import FOLDER as SNAPSHOTS
from vision.train.step import with_frozen

_RECORDS = (INPUTS, FROZEN, CLASS_NAMES, TOKENIZER, SNAPSHOTS, "samples", "replicas", "metrics.jsonl")
"""What the longer run continues, besides the checkpoint."""


def check_extends(
    source: Path,
    name: str,
    config: Any,
    *,
    replicas: Mapping[str, Any],
    build: Callable[[Any], Experiment],
    compiler: Compiler,
) -> int:
    """The step that a finished run has reached, from which it can be made longer.

    Args:
      source: its folder.
      name: the experiment.
      config: the configuration with the larger budget.
      replicas: as config.json keeps them.
      build: configuration -> experiment with these replicas.
      compiler: of the experiment.

    Raises:
      UserError: the run is of another experiment or configuration, is not finished, is not shorter, or has a schedule
        that depends on its budget.
    """
    source = expanded(source)
    stored = work.read_config(source)
    images = stored.config.get("images")
    if not isinstance(images, int) or "images" not in flatten(config):
        raise UserError(f"{source} has no budget of images that could be larger")
    before = replace(config, images=images)
    try:
        work.check_same(source, name, before, replicas=replicas, places=list(paths_of(config)))
    except UserError as error:
        raise UserError(f"--extend takes the same recipe with a larger budget alone: {error}") from error
    if config.images <= images:
        raise UserError(
            f"{source} has {images:,} images already: set --images to more than that, not {config.images:,}"
        )
    short, long = build(before), build(config)
    step = work.newest_checkpoint(source)
    if step is None or step < short.total_steps:
        raise UserError(
            f"{source} is at step {step or 0:,} of {short.total_steps:,}: finish it first, by its own command, or "
            "leave out --extend"
        )
    if _program(short, compiler) != _program(long, compiler):
        raise UserError(
            f"a schedule of {name} depends on the budget, so that {source} would have been another run from its first "
            f"step with {config.images:,} images: train anew without --extend, or start from its weights with "
            f"--init-from {source}"
        )
    return step


def extend(source: Path, folder: Path, step: int) -> None:
    """Begin the longer run in ``folder`` with the checkpoint and the records of ``source``; a kill leaves no half.

    Raises ``UserError`` where the disk is full or the folder cannot be written.
    """
    source = expanded(source)
    checkpoints = folder / "checkpoints"
    partial = checkpoints / f"{step}.orbax-checkpoint-tmp"  # by this name the next start would clean it up
    try:
        checkpoints.mkdir(exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source / "checkpoints" / str(step), partial)
        for name in _RECORDS:
            if (source / name).is_dir():
                shutil.copytree(source / name, folder / name, dirs_exist_ok=True)
            elif (source / name).exists():
                shutil.copyfile(source / name, folder / name)
        partial.rename(checkpoints / str(step))
    except OSError as error:
        raise UserError(f"{source} cannot be copied to {folder}: {error.strerror or error}", code=4) from error


def _program(experiment: Experiment, compiler: Compiler) -> tuple[str, list[tuple[Any, ...]]]:
    """What the training step computes, as text, and the constants in it."""
    state = jax.eval_shape(experiment.init, jax.random.key(0))
    batch = compiler.batch_shape(experiment.batch, dispatch=experiment.dispatch)
    frozen = abstract(frozen_shapes(experiment.frozen, compiler))
    closed = jax.make_jaxpr(lambda frozen, *of: with_frozen(experiment.step, frozen)(*of))(frozen, state, batch)
    constants = [(np.shape(each), np.asarray(each).tobytes()) for each in closed.consts]
    return re.sub(r"0x[0-9a-f]+", "", str(closed.jaxpr)), constants
