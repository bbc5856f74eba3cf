"""The one place that compiles: ``jax.jit`` with shardings and donation; a training step ahead of time, traced once."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key, Num

from vision.errors import UserError
from vision.parallel.gathering import traced_on, whole
from vision.parallel.mesh import batch_shards, replicated, undivided
from vision.parallel.sharding import ShardingRules, shardings
from vision.platform import of_mesh, traced_for
from vision.train.compiling import Notice
from vision.train.flops import Flops, flops_of
from vision.train.step import OverSeeds, with_frozen
from vision.types import Batch, Scalars, Step, TrainState


@functools.cache
def compiler_options(backend: str) -> dict[str, str | bool]:
    """XLA options for a platform, where this version knows them.

    On CPUs XLA hands convolutions, matrix products and reductions to a library whose convolutions are slower than
    XLA's own: without those, a training step takes 0.7 of the time for the quick UNet and 0.9 for the published one
    (``benchmarks/xla_cpu_options.py``).
    """
    if backend != "cpu":
        return {}
    options: dict[str, str | bool] = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    }
    try:
        with jax.default_device(jax.devices(backend)[0]):
            jax.jit(lambda x: x).lower(0.0).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:  # this XLA has no such option
        return {}
    return options


def abstract(tree: Any) -> Any:
    """Shapes and dtypes of a tree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


Running = TrainState | tuple[TrainState, ...]
"""A state between two steps; of replicas that go in turn, one part for each turn."""


@dataclass(frozen=True)
class Program:
    """A step, compiled for one shape of batch."""

    compiled: jax.stages.Compiled
    flops: Flops
    """Operations of one dispatch, over all replicas and devices."""


@dataclass
class CompiledStep:
    """A step, compiled once for each shape of batch, at most ``shapes`` times.

    Call it as the step itself; the state that goes in is donated and must not be used again. Replicas that go in turn
    (:class:`OverSeeds`) share one program, dispatched once for each.
    """

    step: Step
    state_shardings: Any
    batch_sharding: NamedSharding
    rules: ShardingRules = ()
    shapes: int = 1
    frozen: Mapping[str, Any] = field(default_factory=dict)
    """Variables of frozen networks, on the devices, or ShapeDtypeStructs with shardings where the step is not run."""
    traces: int = 0
    """How often the step was traced."""
    compile_seconds: float = 0.0
    _programs: dict[Any, Program] = field(default_factory=dict)
    _rounds: list[Array] = field(default_factory=list)

    def program(self, state: Any, batch: Any) -> Program:
        """The program for these arrays or ShapeDtypeStructs; compiles at first sight.

        Raises ``RuntimeError`` at a batch shape beyond the number allowed, naming both shapes.
        """
        signature = _signature(batch)
        if signature not in self._programs:
            if len(self._programs) >= self.shapes:
                raise RuntimeError(
                    f"the step was compiled for {list(self._programs)} and is given {signature}: batches must keep "
                    f"their shape, or the experiment must declare more than {self.shapes} batch shapes"
                )
            started = time.monotonic()

            mesh = self._mesh
            everywhere = NamedSharding(mesh, P())
            state = jax.eval_shape(self._join, list(state)) if isinstance(state, tuple) else abstract(state)
            frozen, arguments, placed = dict(self.frozen), [state, abstract(batch)], []
            if (rounds := self._count_rounds(state, batch)) > 1:
                assert isinstance(self.step, OverSeeds)
                self._rounds = [jax.device_put(np.int32(turn), everywhere) for turn in range(rounds)]
                part = jax.eval_shape(functools.partial(self.step.split, rounds=rounds), state)[0]
                arguments, placed = [part, arguments[1], jax.ShapeDtypeStruct((), jnp.int32)], [everywhere]

            def traced(frozen: Mapping[str, Any], *arguments: Any) -> tuple[TrainState, Scalars]:
                self.traces += 1
                step: Any = with_frozen(self.step, frozen)
                return step.turn(*arguments) if rounds > 1 else step(*arguments)

            where = jax.tree.map(lambda leaf: leaf.sharding, frozen)
            jitted = jax.jit(
                traced_on(mesh, self.rules, traced),
                in_shardings=(where, self.state_shardings, self.batch_sharding, *placed),
                out_shardings=(self.state_shardings, everywhere),
                donate_argnums=1,
            )
            staged = jitted.trace(abstract(frozen), *arguments)
            compiled = staged.lower().compile(compiler_options=compiler_options(of_mesh(mesh)))
            self._programs[signature] = Program(compiled, flops_of(staged.jaxpr).times(max(len(self._rounds), 1)))
            self.compile_seconds += time.monotonic() - started
        return self._programs[signature]

    @property
    def _mesh(self) -> Mesh:
        mesh = self.batch_sharding.mesh
        assert isinstance(mesh, Mesh)
        return mesh

    def is_compiled(self, batch: Any) -> bool:
        """Whether the step was compiled for batches of this shape."""
        return _signature(batch) in self._programs

    def __call__(self, state: Running, batch: Batch) -> tuple[Running, Scalars]:
        """Take a step; ``state`` is donated. What comes out goes into the next call, or into :meth:`merged`."""
        program, frozen = self.program(state, batch).compiled, dict(self.frozen)
        if not self._rounds:
            return program(frozen, state, batch)
        assert isinstance(self.step, OverSeeds)
        parts, collected = list(state if isinstance(state, tuple) else self._split(state)), []
        for index, turn in enumerate(self._rounds):
            parts[index], scalars = program(frozen, parts[index], batch, turn)
            collected.append(scalars)
        return tuple(parts), self._join_scalars(collected)

    def _count_rounds(self, state: Any, batch: Any) -> int:
        """How many replicas of a device go in turn; 1 for a single run."""
        counts: list[int] = []
        if isinstance(self.step, OverSeeds):
            # what a step computes may depend on the shapes of frozen variables, which are abstract here
            rounds = lambda step: step.rounds(state, batch)
            counted = lambda frozen: counts.append(rounds(with_frozen(self.step, frozen)))
            jax.eval_shape(traced_on(self._mesh, self.rules, counted), abstract(dict(self.frozen)))
        return counts[0] if counts else 1

    def flops(self, batch: Batch) -> Flops:
        """What a dispatch of a batch of this shape, which was seen before, costs over all replicas and devices."""
        return self._programs[_signature(batch)].flops

    def merged(self, state: Running) -> TrainState:
        """The state as a checkpoint holds it: replicas that go in turn are kept apart between steps."""
        return self._join(list(state)) if isinstance(state, tuple) else state

    @functools.cached_property
    def _split(self) -> Callable[..., Any]:
        apart = lambda state: self.step.split(state, len(self._rounds))  # pyright: ignore[reportAttributeAccessIssue]
        return jax.jit(apart, out_shardings=(self.state_shardings,) * len(self._rounds))

    @functools.cached_property
    def _join(self) -> Callable[..., Any]:
        return jax.jit(self.step.joined, out_shardings=self.state_shardings)  # pyright: ignore[reportAttributeAccessIssue]

    @functools.cached_property
    def _join_scalars(self) -> Callable[..., Any]:
        everywhere = NamedSharding(self.batch_sharding.mesh, P())
        return jax.jit(self.step.joined, out_shardings=everywhere)  # pyright: ignore[reportAttributeAccessIssue]


def _signature(batch: Mapping[str, Any]) -> Any:
    return tuple((name, leaf.shape, str(leaf.dtype)) for name, leaf in sorted(batch.items()))


@functools.lru_cache(maxsize=8)
def _from_bits(mesh: Mesh, init: Callable[..., TrainState]) -> Callable[..., TrainState]:
    """``init`` of the bits of a key, which several processes can share; one function, which JAX traces once."""
    return traced_for(mesh, lambda bits, *initial: init(jax.random.wrap_key_data(bits), *initial))


@dataclass(frozen=True)
class Compiler:
    """Compiles functions for one mesh and one table of sharding rules."""

    mesh: Mesh
    rules: ShardingRules = ()
    replicas: int = 0
    """Number of runs trained as one program, the leading axis of state and batches; 0 for a single run without one."""

    def single_run(self) -> "Compiler":
        """The compiler for one replica by itself, on the same devices."""
        return self if not self.replicas else dataclasses.replace(self, mesh=undivided(self.mesh), replicas=0)

    def state_shardings(self, init: Callable[..., TrainState]) -> tuple[TrainState, TrainState]:
        """(abstract state, shardings) of what ``init(key)`` makes, without making it."""
        bits = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        shape = jax.eval_shape(_from_bits(self.mesh, init), bits)
        if not self.replicas:
            return shape, shardings(shape, mesh=self.mesh, rules=self.rules)
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shape)
        placed = shardings(one, mesh=self.mesh, rules=self.rules)
        return shape, jax.tree.map(lambda where: NamedSharding(self.mesh, P("seeds", *where.spec)), placed)

    def init(
        self, init: Callable[..., TrainState], *, key: Key[Array, ""], initial: Mapping[str, np.ndarray] | None = None
    ) -> TrainState:
        """``init(key)``, or ``init(key, initial)``, with every array born in its shards."""
        _, placed = self.state_shardings(init)
        values = [dict(initial)] if initial else []
        return jax.jit(_from_bits(self.mesh, init), out_shardings=placed)(np.asarray(jax.random.key_data(key)), *values)

    def step(
        self,
        step: Step,
        init: Callable[..., TrainState],
        *,
        dispatch: int = 1,
        shapes: int = 1,
        frozen: Mapping[str, Any] | None = None,
    ) -> CompiledStep:
        """The compiled form of ``step`` for states made by ``init``.

        Args:
          step: a training step, or ``OverSeeds``.
          init: makes the states.
          dispatch: steps in one dispatch, for a ``repeated`` step.
          shapes: how many batch shapes may occur.
          frozen: variables of frozen networks by name, see :meth:`place`.
        """
        _, placed = self.state_shardings(init)
        if isinstance(step, OverSeeds):
            step = dataclasses.replace(step, mesh=self.mesh)
        return CompiledStep(
            step, placed, self.batch_placement(dispatch=dispatch), self.rules, shapes=shapes, frozen=frozen or {}
        )

    def shardings(self, variables: Any) -> Any:
        """Shardings of the variables of one network, by the sharding rules."""
        return shardings(abstract(variables), mesh=self.mesh, rules=self.rules)

    def place(self, variables: Any) -> Any:
        """Variables of a frozen network, the same on every process, on the devices, divided by the sharding rules.

        Of ShapeDtypeStructs, the same with shardings.
        """
        placed = self.shardings(variables)

        def put(leaf: Any, where: NamedSharding) -> Any:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
            host = np.asarray(leaf)
            return jax.make_array_from_callback(host.shape, where, lambda index: host[index])

        return jax.tree.map(put, variables, placed)

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` under jit, with outputs replicated so that every process can fetch them.

        Give it arrays that are placed already: parameters of a state, :meth:`replicate`, :meth:`shard`. Parameters that
        ``fsdp`` divides are gathered once for a call, however often it uses them (``parallel.gathering``). Where
        compilation takes long, that is said, see ``vision.train.compiling``.
        """
        notice = Notice()

        def traced(*arguments: Any, **keywords: Any) -> Any:
            notice.begin()
            return function(*arguments, **keywords)

        jitted = self.jitted(traced)

        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            try:
                return jitted(self.specs(arguments), *arguments, **keywords)
            finally:
                notice.end()

        return call

    def jitted(self, function: Callable[..., Any]) -> jax.stages.Wrapped:
        """:meth:`function` of one argument more, before the others: their :meth:`specs`, which are static."""

        def on_whole(specs: tuple[P | None, ...], *arguments: Any, **keywords: Any) -> Any:
            leaves, structure = jax.tree.flatten(arguments)
            placed = (
                leaf
                if spec is None or whole(spec) == spec
                else jax.lax.with_sharding_constraint(leaf, NamedSharding(self.mesh, whole(spec)))
                for leaf, spec in zip(leaves, specs, strict=True)
            )
            return function(*jax.tree.unflatten(structure, placed), **keywords)

        return jax.jit(
            traced_on(self.mesh, self.rules, on_whole),
            static_argnums=0,
            out_shardings=replicated(self.mesh),
            compiler_options=compiler_options(of_mesh(self.mesh)),
        )

    def specs(self, arguments: Any) -> tuple[P | None, ...]:
        """How each leaf is divided; all are None where there is no ``fsdp``, which is all that matters of it."""
        leaves = jax.tree.leaves(arguments)
        if self.mesh.shape["fsdp"] == 1:
            return (None,) * len(leaves)
        return tuple(getattr(getattr(leaf, "sharding", None), "spec", None) for leaf in leaves)

    def replica(self, init: Callable[..., TrainState]) -> Callable[[TrainState, int], TrainState]:
        """A function (state of all, index) -> the state of one replica, placed as :meth:`single_run` would place it.

        ``init`` makes the state of all.
        """
        shape, _ = self.state_shardings(init)
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shape)
        placed = shardings(one, mesh=self.single_run().mesh, rules=self.rules)
        chosen = jax.jit(lambda state, index: jax.tree.map(lambda x: x[index], state), out_shardings=placed)
        return lambda state, index: chosen(state, np.int32(index))

    def batch_placement(self, *, dispatch: int = 1) -> NamedSharding:
        """Where a batch lives. Before the axis of samples come that of replicas and that of steps in a dispatch."""
        lead = ("seeds",) if self.replicas else ()
        steps = (None,) if dispatch > 1 else ()
        return NamedSharding(self.mesh, P(*lead, *steps, ("data", "fsdp")))

    def batch_shape(self, batch: Mapping[str, jax.ShapeDtypeStruct], *, dispatch: int = 1) -> dict:
        """The abstract batch of one dispatch of all replicas, from that of one step of one run."""
        lead = ((self.replicas,) if self.replicas else ()) + ((dispatch,) if dispatch > 1 else ())
        return {name: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype) for name, leaf in batch.items()}

    def replicate(self, tree: Any) -> Any:
        """Put host values, the same on every process, on every device."""
        everywhere = replicated(self.mesh)

        def put(leaf: Any) -> Array:
            if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
            host = np.asarray(leaf)
            return jax.make_array_from_callback(host.shape, everywhere, lambda index: host[index])

        return jax.tree.map(put, tree)

    def shard(self, batch: Mapping[str, Any], *, dispatch: int = 1) -> dict[str, Array]:
        """Put this process's share of a batch on its devices, as a part of the global batch."""
        placement = self.batch_placement(dispatch=dispatch)
        return {name: jax.make_array_from_process_local_data(placement, leaf) for name, leaf in batch.items()}

    def rounded_up(self, count: int) -> int:
        """The least multiple of the devices that share a batch which is ``count`` or more."""
        shards = batch_shards(self.mesh)
        return -(-count // shards) * shards

    def shard_padded(self, samples: Num[np.ndarray, "n ..."]) -> Num[Array, "padded ..."]:
        """Divide ``samples``, the same on every process, among the devices that share a batch.

        Repeats samples from the start where the number does not divide: whoever uses them drops the surplus.
        """
        rows = np.arange(self.rounded_up(len(samples))) % len(samples)
        padded = samples[rows]
        return jax.make_array_from_callback(padded.shape, self.batch_placement(), lambda index: padded[index])

    def check_batch_size(self, batch_size: int, *, microbatches: int = 1) -> None:
        """Raise ``UserError`` unless devices get equal shares of every microbatch, here and in :meth:`single_run`."""
        for mesh, parts in ((self.mesh, microbatches), (self.single_run().mesh, 1)):
            if batch_size % (batch_shards(mesh) * parts):
                raise UserError(
                    f"a batch of {batch_size} cannot be shared equally by {batch_shards(mesh)} devices "
                    f"in {parts} microbatches: choose a multiple of {batch_shards(mesh) * parts}"
                )
