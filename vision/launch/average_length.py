"""A run with an average of another length in place of its own: ``--average-length``.

What evaluates and samples takes the average "ema" of a state. Here it is replaced by one reconstructed from the run's
snapshots (``vision.train.snapshots``), so that a finished run can be evaluated, sampled from, and compared with itself
at any length.
"""

import dataclasses
from collections.abc import Callable, Sequence

from vision.errors import UserError
from vision.launch.load_run import LoadedRun, to_stderr
from vision.train.experiment import Evaluation
from vision.train.loop import steps_taken
from vision.train.snapshots import FOLDER, reconstructed


def with_average(run: LoadedRun, length: float, *, report: Callable[[str], None] = to_stderr) -> tuple[LoadedRun, str]:
    """The run with the average of this length as "ema", and how it was reconstructed, in words.

    Args:
      run: with a folder that has snapshots.
      length: relative length sigma_rel.
      report: called with what cannot be read.

    Raises:
      UserError: the run has kept no snapshots, or none can be read, or it has no average "ema".
    """
    if run.folder is None or "ema" not in run.state.ema:
        raise UserError(f"{run.name} has no average to replace: --average-length is of runs with snapshots")
    found = reconstructed(
        run.folder / FOLDER,
        run.experiment.snapshots,
        run.state,
        length,
        now=steps_taken(run.state),
        report=report,
    )
    state = run.state.replace(ema={**run.state.ema, "ema": found.average})
    words = (
        f'"ema" is the average of relative length {length:g}, of {found.snapshots} '
        f"{'snapshots' if found.snapshots > 1 else 'snapshot'} (relative error of its profile {found.error:.2g})"
    )
    return dataclasses.replace(run, state=state), words


def scanned(run: LoadedRun, lengths: Sequence[float]) -> dict[float, tuple[Evaluation, str]]:
    """The evaluation with the average of each length, and how each was reconstructed, in words.

    Raises ``UserError`` as :func:`with_average`.
    """
    evaluate = run.experiment.evaluation(run.compiler)
    found = {}
    for length in lengths:
        changed, words = with_average(run, length)
        found[length] = evaluate(changed.state), words
    return found
