"""``--seeds 8`` and ``--sweep optimizer.lr 1e-4,3e-4``: several runs of one configuration as one program.

The replicas share everything but their seed and a few plain numbers: the shapes, the program, the data. Their states
are stacked along a leading axis (``OverSeeds``), so that one program takes a step of all.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np

from vision.errors import UserError
from vision.launch.options import flatten, unknown_name
from vision.ranges import NonNegativeInt
from vision.train.compile import Compiler
from vision.train.experiment import Evaluation, Experiment, Replica, Sample
from vision.train.state import attach_frozen, detach_frozen
from vision.train.step import OverSeeds
from vision.types import SampleRequest, Samples, TrainState

By = Literal["auto", "vmap", "sequential"]


@dataclass(frozen=True)
class ReplicaOptions:
    """Which runs are trained vectorized."""

    seeds: NonNegativeInt = 0
    """Number of seeds, counted up from the configuration's own; 0 for a single run."""
    sweep: tuple[tuple[str, tuple[float, ...]], ...] = ()
    """Fields and the numbers they take; of several fields, every combination."""
    by: By = "auto"
    """How the replicas of one device are computed: vectorized ("vmap") or one after another ("sequential"); by default
    what is fastest on the backend. Changes rounding, nothing else."""

    def __bool__(self) -> bool:
        return self.seeds != 0 or bool(self.sweep)

    def stored(self) -> dict[str, Any]:
        """What config.json keeps of them; {} for a single run."""
        sweep = {name: list(numbers) for name, numbers in self.sweep}
        return {**({"seeds": self.seeds} if self.seeds else {}), **({"sweep": sweep} if sweep else {})}


def parse_sweep(arguments: Sequence[str]) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """``["optimizer.lr", "1e-4,3e-4"]`` as ``(("optimizer.lr", (1e-4, 3e-4)),)``."""
    if len(arguments) % 2:
        raise UserError(f"--sweep takes a field and its numbers, as in 'optimizer.lr 1e-4,3e-4', not {arguments[-1]}")
    found = []
    for name, text in zip(arguments[::2], arguments[1::2], strict=True):
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            raise UserError(f"--sweep {name} takes numbers separated by commas, not {text!r}") from None
        if len(set(numbers)) < len(numbers):
            raise UserError(f"--sweep {name} names a number twice: {text}")
        found.append((name.replace("-", "_"), numbers))
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        raise UserError(f"--sweep names a field twice: {' '.join(names)}")
    return tuple(found)


def replaced(config: Any, values: Mapping[str, Any]) -> Any:
    """``config`` with dotted fields replaced."""
    for name, value in values.items():
        first, _, rest = name.partition(".")
        inner = replaced(getattr(config, first), {rest: value}) if rest else value
        config = replace(config, **{first: inner})
    return config


def listed(options: ReplicaOptions, config: Any) -> list[tuple[Replica, dict[str, float]]]:
    """The replicas in order, each with the numbers it has of its own; seeds vary fastest.

    Raises ``UserError`` where a swept field does not exist or is no plain number.
    """
    fields = flatten(config)
    for name, _ in options.sweep:
        if name not in fields:
            raise UserError(unknown_name("field to sweep", name, list(fields)))
        if type(fields[name]) is not float:
            raise UserError(
                f"{name} = {fields[name]} is no plain number, so that its values cannot share one program: "
                "compare them with 'python -m experiments.ablate' instead"
            )
    if options.seeds < 0:
        raise UserError(f"--seeds is a positive number of runs, not {options.seeds}")
    seeds = range(config.seed, config.seed + max(options.seeds, 1))
    names = [name for name, _ in options.sweep]
    replicas = []
    for values in itertools.product(*(numbers for _, numbers in options.sweep)):
        numbers = dict(zip(names, values, strict=True))
        group = ",".join(f"{name}={value:g}" for name, value in numbers.items())
        replicas += [(Replica(",".join(filter(None, (group, f"seed-{s}"))), s, group), numbers) for s in seeds]
    return replicas


def vectorized(build: Callable[[Any], Experiment], config: Any, options: ReplicaOptions) -> Experiment:
    """The experiment that trains all replicas at once.

    Args:
      build: configuration -> experiment of one run.
      config: of the first replica; has a field ``seed``.
      options: which replicas.

    Returns:
      An experiment with ``replicas``, whose states and batches have a leading axis. Its evaluation gives arrays of
      numbers, and each replica's own ``Evaluation``.

    Raises:
      UserError: from ``build``, for any replica; or a swept field is none, or steers the program itself.
    """
    replicas = listed(options, config)
    # every replica is built once with plain numbers, which checks them; those that differ only in the seed share one
    groups = {replica.group: build(replaced(config, numbers)) for replica, numbers in replicas}
    base = next(iter(groups.values()))
    count = len(replicas)
    swept = {name: np.asarray([numbers[name] for _, numbers in replicas], np.float32) for name, _ in options.sweep}

    def with_numbers(state: TrainState, batch: Any, numbers: Mapping[str, jax.Array]) -> Any:
        try:
            return build(replaced(config, numbers)).step(state, batch)
        except jax.errors.ConcretizationTypeError as error:
            raise UserError(
                f"one of {', '.join(numbers)} decides what the program is, not only what it computes, so that its "
                "values cannot share one program: compare them with 'python -m experiments.ablate' instead"
            ) from error

    sequential = {"auto": None, "vmap": False, "sequential": True}[options.by]
    step = OverSeeds(with_numbers if swept else base.step, count, swept, sequential=sequential)
    seeds = np.asarray([replica.seed for replica, _ in replicas], np.uint32)

    def init(key: jax.Array, *initial: Mapping[str, jax.Array]) -> TrainState:
        del key  # every replica starts from the key of its own seed, as a single run does
        return jax.vmap(lambda seed: base.init(jax.random.key(seed), *initial))(seeds)

    def replica_states(
        state: TrainState, compiler: Compiler, replica_of: Callable[[TrainState, int], TrainState]
    ) -> Iterator[TrainState]:
        """The state of each replica; all have the same frozen networks."""
        stacked, frozen = detach_frozen(state)
        frozen = jax.tree.map(jax.device_put, frozen, compiler.single_run().shardings(frozen))
        return (attach_frozen(replica_of(stacked, index), frozen) for index in range(count))

    def evaluation(compiler: Compiler):
        replica_of = compiler.replica(init)
        evaluations = {group: one.evaluation(compiler.single_run()) for group, one in groups.items()}

        def evaluate(state: TrainState) -> Evaluation:
            states = replica_states(state, compiler, replica_of)
            found = [evaluations[r.group](own) for (r, _), own in zip(replicas, states, strict=True)]
            scalars = {name: np.asarray([each.scalars[name] for each in found]) for name in found[0].scalars}
            return Evaluation(scalars, found[0].images, found[0].protocol, replicas=tuple(found))

        return evaluate

    def sampling(compiler: Compiler) -> Sample:
        replica_of = compiler.replica(init)
        samplers = {g: each.sampling(compiler.single_run()) for g, each in groups.items() if each.sampling is not None}

        def sample(state: TrainState, request: SampleRequest) -> Samples:
            """What is requested of each replica, from the same noise."""
            images, captions = [], []
            states = replica_states(state, compiler, replica_of)
            for (replica, _), own in zip(replicas, states, strict=True):
                samples = samplers[replica.group](own, request)
                images.append(samples.images)
                captions += [f"{replica.name} {caption}" for caption in samples.captions or [""] * request.count]
            return Samples(images=np.concatenate(images), captions=tuple(captions))

        return sample

    return replace(
        base,
        init=init,
        step=step,
        evaluation=evaluation,
        sampling=sampling if base.sampling is not None else None,
        replicas=tuple(replica for replica, _ in replicas),
    )
