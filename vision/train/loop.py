"""The training loop. It knows a step, where batches come from, and when to log, evaluate and save; no more.

Between log lines and checkpoints the host does not wait for the device: the scalars of a step are fetched after the
next one is dispatched, input is prefetched, checkpoints are written in the background, and inside the loop no transfer
happens that is not written down (``jax.transfer_guard("disallow")``).

Several processes run the same loop; all that decides its course (steps, notices to stop) is the same on each.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from vision.errors import UserError
from vision.train.checkpoint import Checkpoints
from vision.train.compile import CompiledStep, Compiler, Running
from vision.train.compiling import compiling_for
from vision.train.experiment import Evaluation, Experiment, Replica
from vision.train.interruption import Interrupted, Interruption
from vision.train.peaks import peak_flops, utilisation
from vision.train.prefetch import prefetch
from vision.train.profile import Profile
from vision.train.progress import Progress
from vision.train.records import Records
from vision.train.replicas import ReplicaRecords, combined
from vision.train.snapshots import Snapshots
from vision.types import Scalars, TrainState


@dataclass(frozen=True)
class Outputs:
    """Where a run's results go, and who may stop it."""

    checkpoints: Checkpoints
    records: Records | ReplicaRecords
    progress: Progress
    interruption: Interruption
    profile: Profile
    on_evaluation: Callable[[int, int, Evaluation], None]
    """(step, images, evaluation): keep images, renew curves and report."""
    snapshots: Snapshots | None = None
    """Of averages; None for a run that keeps none."""


@dataclass
class Work:
    """Operations since the last log line, and what the devices could do, for the utilisation there."""

    done: int = 0
    """Floating-point operations, over all replicas and devices."""
    peak: float | None = None
    """Peak of one device, FLOP/s; None where it is not known."""

    def utilisation(self, seconds: float, devices: int) -> dict[str, float]:
        """The share of the peak that was reached, if there is one to be known; starts again from zero."""
        done, self.done = self.done, 0
        return {"time/utilisation": utilisation(done, seconds, self.peak, devices)} if done and self.peak else {}


class Clock:
    """Seconds spent in each of the loop's activities since the last :meth:`restart`; what is left is the step's."""

    def __init__(self):
        self._spent: dict[str, float] = {}
        self._started = time.monotonic()

    def add(self, activity: str, since: float) -> None:
        """Count the time since the moment ``since`` for ``activity``."""
        self._spent[activity] = self._spent.get(activity, 0.0) + time.monotonic() - since

    def compiled(self, seconds: float) -> None:
        """Count ``seconds`` that went into compiling."""
        self._spent["compilation"] = self._spent.get("compilation", 0.0) + seconds

    def leave_out(self, since: float) -> None:
        """Count the time since the moment ``since`` for nothing."""
        self._started += time.monotonic() - since

    def restart(self) -> tuple[float, dict[str, float]]:
        """(seconds since the last restart without compilation, seconds by activity); starts again from zero."""
        now = time.monotonic()
        spent = self._spent
        elapsed = now - self._started - spent.get("compilation", 0.0)
        others = sum(seconds for name, seconds in spent.items() if name != "compilation")
        found = {"step": max(elapsed - others, 0.0), **spent}
        self._spent, self._started = {}, now
        return elapsed, {f"{name}_seconds": seconds for name, seconds in found.items()}


def train(
    state: Running,
    experiment: Experiment,
    *,
    step: CompiledStep,
    compiler: Compiler,
    evaluate: Callable[[TrainState], Evaluation],
    evaluated: bool,
    recorded: bool = False,
    outputs: Outputs,
) -> TrainState:
    """Run from ``state`` to the experiment's budget.

    Args:
      state: where to begin; donated.
      experiment: batches, budget and intervals.
      step: the compiled step, of ``experiment.dispatch`` training steps.
      compiler: places batches on devices.
      evaluate: state -> evaluation.
      evaluated: whether an evaluation of ``state`` is complete already: on record, with its images. A run that was
        killed between a checkpoint and the end of its evaluation makes up for it.
      recorded: whether its numbers are on record.
      outputs: checkpoints, records, progress, interruption, profile.

    Returns:
      The final state, saved and evaluated.

    Raises:
      Interrupted: after a request to stop, when everything is saved.
      UserError: a scalar is not finite; the data, the disk or a checkpoint failed.
    """
    every, size, total = experiment.intervals, experiment.batch_size, experiment.total_steps
    replicas = experiment.replicas
    runs = max(len(replicas), 1)
    start = taken = steps_taken(step.merged(state))
    clock, work = Clock(), Work()
    window = Window(size, taken, replicas)

    def due(interval: int, before: int, now: int) -> bool:
        return now >= total or crosses(interval, before * size, now * size)

    def look(now: int, *, record: bool = True) -> None:
        since = time.monotonic()
        with compiling_for("the evaluation", outputs.progress.message):
            evaluation = evaluate(step.merged(state))
        named = {f"eval/{name}": value for name, value in evaluation.scalars.items()}
        if record:
            outputs.records.write_scalars(now, now * size, named)
            outputs.records.write_images(now, now * size, evaluation.images)
            if isinstance(outputs.records, ReplicaRecords):
                outputs.records.write_replica_images(now, now * size, evaluation.replicas)
        outputs.progress.log(now * size * runs, combined(named, replicas))
        outputs.on_evaluation(now, now * size, evaluation)
        clock.add("evaluation", since)

    def save(now: int) -> None:
        since = time.monotonic()
        window.settle(None, outputs)  # never save a state whose last step has not been seen to be finite
        outputs.records.flush()
        # Orbax fetches by np.asarray, which accelerators count as an implicit transfer
        with jax.transfer_guard_device_to_host("allow"):
            outputs.checkpoints.save(step.merged(state), now)
        clock.add("checkpoint", since)

    def keep_averages(snapshots: Snapshots, now: int) -> None:
        since = time.monotonic()
        window.settle(None, outputs)
        with jax.transfer_guard("allow"):
            snapshots.save(step.merged(state), now)
        clock.add("snapshot", since)

    def log(now: int) -> None:
        window.settle(None, outputs)
        elapsed, spent = clock.restart()
        working = elapsed - spent.get("evaluation_seconds", 0.0)
        timing = {"time/images_per_second": window.images * runs / max(working, 1e-9)}
        timing.update(work.utilisation(working, compiler.mesh.devices.size))
        means = {f"train/{name}": value for name, value in window.means().items()}
        outputs.records.write_scalars(now, now * size, {**means, **timing, **named_times(spent)})
        outputs.progress.log(now * size * runs, {**combined(means, replicas), **timing})

    def stop_clock(now: int) -> None:
        _, spent = clock.restart()
        if spent:
            outputs.records.write_scalars(now, now * size, named_times(spent))

    def compile_step(batch: Mapping[str, Any]) -> None:
        outputs.progress.message("compiling the step")
        seconds = step.compile_seconds
        step.program(state, batch)
        clock.compiled(step.compile_seconds - seconds)
        outputs.progress.message(f"compiled the step in {step.compile_seconds - seconds:.1f} s")

    def measure_peak(batch: Mapping[str, Any], scalars: Scalars) -> None:
        jax.block_until_ready(scalars)  # the peak of a CPU is measured, with nothing else running
        since = time.monotonic()
        work.peak = peak_flops(jax.local_devices()[0], step.flops(batch).dtype)
        clock.compiled(time.monotonic() - since)

    if taken > 0 and not evaluated and due(every.evaluate, taken - experiment.dispatch, taken):
        look(taken, record=not recorded)
    if taken >= total:
        return step.merged(state)
    with _open_batches(experiment, compiler, taken) as batches, jax.transfer_guard("disallow"):
        clock.restart()
        if experiment.batch_shapes == 1:  # the first batch is read in the meantime
            compile_step(compiler.batch_shape(experiment.batch, dispatch=experiment.dispatch))
        while taken < total:
            if outputs.interruption.requested(taken // experiment.dispatch):
                stop_clock(taken)
                save(taken)
                outputs.checkpoints.wait()
                raise Interrupted(taken)
            since = time.monotonic()
            batch = next(batches)
            before, taken = taken, taken + experiment.dispatch
            if before == start:
                clock.leave_out(since)  # the wait for the first batch says nothing of the pace
            else:
                clock.add("input", since)
            outputs.profile.before_dispatch()
            if not step.is_compiled(batch):
                compile_step(batch)
            state, scalars = step(state, batch)
            if before == start:
                measure_peak(batch, scalars)
            work.done += step.flops(batch).matrix
            if traced := outputs.profile.after_dispatch(scalars):
                outputs.progress.message(f"a trace of a few steps is in {traced}")
            window.settle((taken, scalars), outputs)
            if due(every.log, before, taken):
                log(taken)
            # before a checkpoint, so that a run that comes back has all snapshots up to its state
            if outputs.snapshots is not None and due(experiment.snapshots.interval, before, taken):
                keep_averages(outputs.snapshots, taken)
            if due(every.save, before, taken):
                save(taken)
            if due(every.evaluate, before, taken):
                with jax.transfer_guard("allow"):
                    look(taken)
    since = time.monotonic()
    outputs.checkpoints.wait()
    clock.add("checkpoint", since)
    stop_clock(taken)
    return step.merged(state)


def steps_taken(state: TrainState) -> int:
    """Steps taken so far, by every replica alike."""
    return int(np.max(jax.device_get(state.step)))


def named_times(spent: Mapping[str, float]) -> dict[str, float]:
    """Seconds by activity under the names of metrics."""
    return {f"time/{name}": seconds for name, seconds in spent.items()}


def crosses(interval: int, before: int, now: int) -> bool:
    """Whether a multiple of ``interval`` lies in (before, now]; never for an interval of 0."""
    return interval > 0 and now // interval > before // interval


class Window:
    """The scalars since the last log line, with those of the newest step still on the device."""

    def __init__(self, batch_size: int, start_step: int, replicas: tuple[Replica, ...] = ()):
        self._size = batch_size
        self._replicas = replicas
        self._lost = np.zeros(max(len(replicas), 1), bool)
        self._last = self._since = start_step
        self._values: list[Mapping[str, np.ndarray]] = []
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None

    @property
    def images(self) -> int:
        """Images of each run whose scalars were fetched since the last call of :meth:`means`."""
        return (self._last - self._since) * self._size

    def settle(self, newest: tuple[int, Mapping[str, jax.Array]] | None, outputs: Outputs) -> None:
        """Fetch the scalars of the step before ``newest``, which by then is at work; None fetches all.

        Raises ``UserError`` when one of them is not finite. Of several replicas, those that diverge are named and the
        others go on; it is an error when none is left.
        """
        pending, self._pending = self._pending, newest
        if pending is None:
            return
        step, on_device = pending
        scalars = {name: np.asarray(value) for name, value in jax.device_get(dict(on_device)).items()}
        self._check_finite(scalars, step, outputs)
        self._values.append(scalars)
        self._last = step
        runs = max(len(self._replicas), 1)
        shown = {f"train/{name}": float(value.mean()) for name, value in scalars.items()}
        outputs.progress.update(step * self._size * runs, shown)

    def _check_finite(self, scalars: Mapping[str, np.ndarray], step: int, outputs: Outputs) -> None:
        finite = {name: np.isfinite(np.atleast_1d(value)) for name, value in scalars.items()}
        lost = ~np.all(list(finite.values()), axis=0)
        if not lost.any():
            return
        bad = [name for name, values in finite.items() if not values.all()]
        bad.sort(key=lambda name: "loss" not in name)  # the loss first: that is what everybody knows
        value = float(np.atleast_1d(scalars[bad[0]])[~finite[bad[0]]][0])
        first, last = self._last + 1, step
        when = (
            f"in {f'step {last}' if first == last else f'steps {first} to {last}'} "
            f"(images {(first - 1) * self._size} to {last * self._size})"
        )
        if lost.all():
            whose = f" of all {len(self._replicas)} replicas" if self._replicas else ""
            raise UserError(
                f"{bad[0]}{whose} became {value} {when}; the last good checkpoint is "
                f"{outputs.checkpoints.latest or 'none yet'}. The same command would take the same step again: lower "
                "the learning rate or clip gradients, in another work directory",
                code=3,
            )
        for index in np.flatnonzero(lost & ~self._lost):
            name = self._replicas[index].name
            outputs.progress.message(f"{name} diverged: {bad[0]} became {value} {when}; the other replicas go on")
        self._lost |= lost

    def means(self) -> dict[str, np.ndarray]:
        """Means of all scalars since the last call, of each replica; starts again."""
        names = self._values[-1].keys() if self._values else ()
        means = {name: np.mean([v[name] for v in self._values], axis=0, dtype=np.float64) for name in names}
        self._values, self._since = [], self._last
        return {name: np.asarray(value) for name, value in means.items()}


def _open_batches(experiment: Experiment, compiler: Compiler, start_step: int):
    dispatch = experiment.dispatch
    streams = [
        experiment.batches(
            seed=seed, start_step=start_step, process_index=jax.process_index(), process_count=jax.process_count()
        )
        for seed in ([replica.seed for replica in experiment.replicas] or [experiment.seed])
    ]
    streams = [stream if dispatch == 1 else _stacked(stream, dispatch) for stream in streams]
    host = _abreast(streams) if experiment.replicas else streams[0]
    return prefetch(host, lambda batch: compiler.shard(batch, dispatch=dispatch))


def _stacked(batches: Iterator[Mapping[str, np.ndarray]], count: int) -> Iterator[dict[str, np.ndarray]]:
    while True:
        group = [next(batches) for _ in range(count)]
        yield {name: np.stack([batch[name] for batch in group]) for name in group[0]}


def _abreast(streams: list[Iterator[Mapping[str, np.ndarray]]]) -> Iterator[dict[str, np.ndarray]]:
    """One batch of every replica, stacked along a leading axis."""
    while True:
        group = [next(stream) for stream in streams]
        yield {name: np.stack([batch[name] for batch in group]) for name in group[0]}
