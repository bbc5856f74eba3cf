"""Training in a run folder, from where it stands."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vision.errors import UserError
from vision.launch import run_folder as work
from vision.launch.devices import abstract_state
from vision.launch.frozen import load_frozen
from vision.launch.inputs import keep_inputs
from vision.launch.options import Parsed
from vision.launch.page import Page
from vision.parallel.agreement import first_alone, from_first, is_first
from vision.train.checkpoint import Checkpoints
from vision.train.class_names import keep_class_names
from vision.train.compile import Compiler
from vision.train.experiment import Experiment
from vision.train.interruption import Interrupted, Interruption
from vision.train.kept import keep, restore
from vision.train.loop import Outputs, steps_taken, train
from vision.train.profile import Profile
from vision.train.progress import Progress
from vision.train.records import Records, read_metrics
from vision.train.replicas import ReplicaRecords
from vision.train.snapshots import FOLDER as SNAPSHOTS
from vision.train.snapshots import Snapshots
from vision.train.state import attach_frozen


def fit(
    name: str,
    experiment: Experiment,
    compiler: Compiler,
    folder: Path,
    parsed: Parsed[Any],
    description: str,
    *,
    after_check: Callable[[], None],
) -> None:
    """Train in ``folder``, from where it stands.

    Args:
      name: of the experiment.
      experiment: what is trained.
      compiler: for its mesh.
      folder: the run folder, which this process has claimed.
      parsed: the command line.
      description: of the experiment, for the report.
      after_check: called on the first process once the frozen networks are known to be those of the run.
    """
    first_process = is_first()
    say = lambda text: print(text, file=sys.stderr) if first_process else None
    say(f"{name} in {folder}")
    for notice in experiment.notices:
        say(f"notice: {notice}")
    environment = work.write_environment(folder) if first_process else {}
    if experiment.class_names is not None:
        names = experiment.class_names()
        first_alone(lambda: keep_class_names(folder, names))
    steps_of = lambda images: max(1, images // experiment.batch_size) if images else 0
    intervals, runs = experiment.intervals, max(len(experiment.replicas), 1)
    with _unless_deleted(folder), contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        checkpoints = stack.enter_context(
            Checkpoints(folder / "checkpoints", keep=intervals.keep, keep_every_steps=steps_of(intervals.keep_every))
        )
        state = checkpoints.restore(abstract_state(experiment, compiler), report=say)
        first = steps_taken(state) if state is not None else 0
        frozen = load_frozen(experiment.frozen, folder, compiler, begun=state is not None)
        first_alone(
            lambda: keep_inputs(
                folder,
                parsed.config,
                elsewhere=experiment.places,
                contents=experiment.contents(),
                step=first,
                report=say,
            )
        )
        if (tokenizer := experiment.tokenizer) is not None:
            first_alone(lambda: keep(folder, tokenizer, begun=state is not None))
            restore(folder, tokenizer)
        first_alone(after_check)
        if state is None:
            initial = experiment.initial_values() if experiment.initial_values is not None else None
            state = compiler.init(experiment.init, key=jax.random.key(experiment.seed), initial=initial)
        if first:
            say(f"resuming after step {first} ({first * experiment.batch_size:,} images)")
        snapshots = None
        if experiment.snapshots.interval:
            snapshots = Snapshots(folder / SNAPSHOTS, experiment.snapshots)
            say(snapshots.disk_use(state, images=experiment.total_steps * experiment.batch_size))
        records = stack.enter_context(open_records(experiment, folder, first, write=first_process))
        progress = Progress(
            experiment.total_steps * experiment.batch_size * runs,
            first * experiment.batch_size * runs,
            stream=None if first_process else stack.enter_context(open(os.devnull, "w")),  # noqa: PTH123
        )
        stack.callback(progress.close)
        page = Page(name, folder, parsed, description, environment, experiment)
        recorded = first_process and first in evaluated_steps(folder)
        evaluated = recorded and page.is_complete(first)
        recorded, evaluated = map(bool, from_first(np.asarray([recorded, evaluated], np.int32)))
        step = compiler.step(
            experiment.step,
            experiment.init,
            dispatch=experiment.dispatch,
            shapes=experiment.batch_shapes,
            frozen=frozen,
        )
        evaluation = functools.cache(lambda: experiment.evaluation(compiler))
        if first < experiment.total_steps or not evaluated:
            evaluation()  # raises for impossible settings and missing files before the first step
        try:
            state = train(
                state,
                experiment,
                step=step,
                compiler=compiler,
                evaluate=lambda state: evaluation()(attach_frozen(state, frozen)),
                recorded=recorded,
                evaluated=evaluated,
                outputs=Outputs(
                    checkpoints,
                    records,
                    progress,
                    interruption,
                    Profile(folder / "profile" if parsed.run.profile else None),
                    page.write,
                    snapshots,
                ),
            )
        except Interrupted:
            page.finish()  # with the evaluations since it was last renewed
            raise
    if first_process:
        page.finish()
        final = page.summary()
        print(f"finished: {', '.join(f'{k} {v}' for k, v in final.items())}\nreport: {folder / 'report.html'}")


@contextlib.contextmanager
def _unless_deleted(folder: Path) -> Iterator[None]:
    """Turn what goes wrong in a run folder that somebody has deleted into one sentence."""
    try:
        yield
    except Exception as error:  # of any type: Orbax's threads raise what they find missing
        if (folder / work.CONFIG).exists():
            raise
        raise UserError(
            f"the run folder {folder} was deleted or unmounted while the run was writing to it: bring it back, and run "
            "the same command again, which otherwise starts from the beginning",
            code=4,
        ) from error


def open_records(experiment: Experiment, folder: Path, first: int, *, write: bool) -> Records | ReplicaRecords:
    """The records of a run that starts after step ``first``, or of its replicas."""
    if experiment.replicas:
        return ReplicaRecords(folder, first, write, replicas=experiment.replicas)
    return Records(folder, first, write)


def evaluated_steps(folder: Path) -> frozenset[int]:
    """Steps at which metrics.jsonl has an evaluation."""
    path = folder / "metrics.jsonl"
    lines = read_metrics(path) if path.exists() else []
    return frozenset(line["step"] for line in lines if any(name.startswith("eval/") for name in line))
