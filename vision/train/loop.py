"""The training loop. It knows a step, where batches come from, and when to log, evaluate and save; no more.

Between log lines and checkpoints the host does not wait for the device: the scalars of a step are fetched after the
next one is dispatched, input is prefetched, checkpoints are written in the background, and inside the loop no transfer
happens that is not written down (``jax.transfer_guard("disallow")``).
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jax
import numpy as np

from vision.data.pipeline import prefetch
from vision.errors import UserError
from vision.train.checkpoint import Checkpoints
from vision.train.compile import CompiledStep, Compiler
from vision.train.experiment import Evaluation, Experiment
from vision.train.interruption import Interrupted, Interruption
from vision.train.progress import Progress
from vision.train.records import Records
from vision.train.state import TrainState


@dataclass(frozen=True)
class Outputs:
    """Where a run's results go, and who may stop it."""

    checkpoints: Checkpoints
    records: Records
    progress: Progress
    interruption: Interruption
    on_evaluation: Callable[[int, int, Evaluation], None]
    """(step, images, evaluation): keep pictures, renew curves and report."""


class Clock:
    """Seconds spent in each of the loop's activities since the last call of :meth:`shares`."""

    def __init__(self):
        self._spent: dict[str, float] = {}
        self._started = time.monotonic()

    def add(self, activity: str, since: float) -> None:
        """Count the time since the moment ``since`` for ``activity``."""
        self._spent[activity] = self._spent.get(activity, 0.0) + time.monotonic() - since

    def shares(self) -> dict[str, float]:
        """Seconds by activity, and ``elapsed``; starts again from zero."""
        shares = {**self._spent, "elapsed": time.monotonic() - self._started}
        self.__init__()
        return shares


def train(
    state: TrainState,
    experiment: Experiment,
    *,
    step: CompiledStep,
    compiler: Compiler,
    evaluate: Callable[[TrainState], Evaluation],
    evaluated: frozenset[int],
    outputs: Outputs,
) -> TrainState:
    """Run from ``state`` to the experiment's budget.

    Args:
      state: where to begin; donated.
      experiment: batches, budget and intervals.
      step: the compiled step, of ``experiment.dispatch`` training steps.
      compiler: places batches on devices.
      evaluate: state -> evaluation.
      evaluated: steps whose evaluation is on record already. A run that was killed between a checkpoint and its
        evaluation makes up for it.
      outputs: checkpoints, records, progress, interruption.

    Returns:
      The final state, saved and evaluated.

    Raises:
      Interrupted: after a request to stop, when everything is saved.
      UserError: a scalar is not finite; the data, the disk or a checkpoint failed.
    """
    every, size, total = experiment.intervals, experiment.batch_size, experiment.total_steps
    taken = int(jax.device_get(state.step))
    clock = Clock()
    window = Window(size, taken)

    def due(interval: int, before: int, now: int) -> bool:
        return now >= total or crosses(interval, before * size, now * size)

    def look(now: int) -> None:
        since = time.monotonic()
        evaluation = evaluate(state)
        named = {f"eval/{name}": value for name, value in evaluation.scalars.items()}
        outputs.records.write_scalars(now, now * size, named)
        outputs.records.write_images(now, now * size, dict(evaluation.pictures))
        outputs.progress.log(now * size, named)
        outputs.on_evaluation(now, now * size, evaluation)
        clock.add("evaluation", since)

    def save(now: int) -> None:
        since = time.monotonic()
        window.settle(None, outputs)  # never save a state whose last step has not been seen to be finite
        outputs.records.flush()
        # Orbax fetches by np.asarray, which accelerators count as an implicit transfer
        with jax.transfer_guard_device_to_host("allow"):
            outputs.checkpoints.save(state, now)
        clock.add("checkpoint", since)

    def log(now: int) -> None:
        window.settle(None, outputs)
        shares = clock.shares()
        rate = window.images / max(shares["elapsed"] - shares.get("evaluation", 0.0), 1e-9)
        timing = {
            "time/images_per_second": rate,
            **{f"time/{name}_share": s / shares["elapsed"] for name, s in shares.items() if name != "elapsed"},
        }
        means = {f"train/{name}": value for name, value in window.means().items()}
        outputs.records.write_scalars(now, now * size, {**means, **timing})
        outputs.progress.log(now * size, means)

    if taken > 0 and taken not in evaluated and due(every.evaluate, taken - experiment.dispatch, taken):
        look(taken)
    if taken >= total:
        return state
    with _open_batches(experiment, compiler, taken) as batches, jax.transfer_guard("disallow"):
        while taken < total:
            if outputs.interruption.requested:
                save(taken)
                outputs.checkpoints.wait()
                raise Interrupted(taken)
            since = time.monotonic()
            batch = next(batches)
            clock.add("input", since)
            before, taken = taken, taken + experiment.dispatch
            traces = step.traces
            state, scalars = step(state, batch)
            if step.traces > traces:
                outputs.progress.message(f"compiled the step in {step.compile_seconds:.1f} s")
                clock = Clock()
            window.settle((taken, scalars), outputs)
            if due(every.log, before, taken):
                log(taken)
            if due(every.save, before, taken):
                save(taken)
            if due(every.evaluate, before, taken):
                with jax.transfer_guard("allow"):
                    look(taken)
    outputs.checkpoints.wait()
    return state


def crosses(interval: int, before: int, now: int) -> bool:
    """Whether a multiple of ``interval`` lies in (before, now]; never for an interval of 0."""
    return interval > 0 and now // interval > before // interval


class Window:
    """The scalars since the last log line, with those of the newest step still on the device."""

    def __init__(self, batch_size: int, start_step: int):
        self._size = batch_size
        self._since = start_step
        self._last = start_step
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._values: list[Mapping[str, np.ndarray]] = []

    @property
    def images(self) -> int:
        """Images whose scalars have arrived since the last call of :meth:`means`."""
        return (self._last - self._since) * self._size

    def settle(self, newest: tuple[int, Mapping[str, jax.Array]] | None, outputs: Outputs) -> None:
        """Fetch the scalars of the step before ``newest``, which by then is at work; None fetches all.

        Raises ``UserError`` when one of them is not finite.
        """
        pending, self._pending = self._pending, newest
        if pending is None:
            return
        step, on_device = pending
        scalars = jax.device_get(dict(on_device))
        bad = [name for name, value in scalars.items() if not math.isfinite(value)]
        bad.sort(key=lambda name: "loss" not in name)  # the loss first: that is what everybody knows
        if bad:
            good = outputs.checkpoints.latest
            first, last = self._last + 1, step
            raise UserError(
                f"{bad[0]} became {float(scalars[bad[0]])} in "
                f"{f'step {last}' if first == last else f'steps {first} to {last}'} "
                f"(images {(first - 1) * self._size} to {last * self._size}); the last good checkpoint is "
                f"{good or 'none yet'}. The same command would take the same step again: lower the learning rate "
                "or clip gradients, in another work directory",
                code=3,
            )
        self._values.append(scalars)
        self._last = step
        outputs.progress.update(step * self._size, {f"train/{k}": float(v) for k, v in scalars.items()})

    def means(self) -> dict[str, float]:
        """Means of all scalars since the last call; starts again."""
        names = self._values[-1].keys() if self._values else ()
        means = {name: float(np.mean([v[name] for v in self._values], dtype=np.float64)) for name in names}
        self._values, self._since = [], self._last
        return means


def _open_batches(experiment: Experiment, compiler: Compiler, start_step: int):
    host = experiment.batches(
        start_step=start_step, process_index=jax.process_index(), process_count=jax.process_count()
    )
    dispatch = experiment.dispatch
    return prefetch(
        host if dispatch == 1 else _stacked(host, dispatch),
        lambda batch: compiler.shard(batch, dispatch=dispatch),
    )


def _stacked(batches: Iterator[Mapping[str, np.ndarray]], count: int) -> Iterator[dict[str, np.ndarray]]:
    while True:
        group = [next(batches) for _ in range(count)]
        yield {name: np.stack([batch[name] for batch in group]) for name in group[0]}
