"""The one place that compiles: ``jax.jit`` with shardings and donation; a training step ahead of time, traced once."""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key

from vision.errors import UserError
from vision.parallel.mesh import batch_sharding, batch_shards, replicated
from vision.parallel.sharding import Rules, shardings
from vision.train.state import TrainState
from vision.train.step import Batch, Scalars, Step


@functools.cache
def compiler_options() -> dict[str, str | bool]:
    """XLA options for this backend, where its version knows them.

    On CPUs XLA hands convolutions, matrix products and reductions to a library whose convolutions are slower than
    XLA's own: without those, a training step takes 0.7 of the time for the quick UNet and 0.9 for the published one
    (``benchmarks/xla_cpu_options.py``).
    """
    if jax.default_backend() != "cpu":
        return {}
    options: dict[str, str | bool] = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    }
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:  # this XLA has no such option
        return {}
    return options


def abstract(tree: Any) -> Any:
    """Shapes and dtypes of a tree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@dataclass
class CompiledStep:
    """A step, compiled once for each shape of batch, at most ``shapes`` times.

    Call it as the step itself; the state that goes in is donated and must not be used again.
    """

    step: Step
    state_shardings: Any
    batch_sharding: NamedSharding
    shapes: int = 1
    traces: int = 0
    """How often the step was traced."""
    compile_seconds: float = 0.0
    _programs: dict[Any, Any] = field(default_factory=dict)

    def program(self, state: Any, batch: Any) -> Any:
        """The ``jax.stages.Compiled`` for these arrays or ShapeDtypeStructs; compiles at first sight.

        Raises ``RuntimeError`` at a batch shape beyond the number allowed, naming both shapes.
        """
        signature = tuple((name, leaf.shape, str(leaf.dtype)) for name, leaf in sorted(batch.items()))
        if signature not in self._programs:
            if len(self._programs) >= self.shapes:
                raise RuntimeError(
                    f"the step was compiled for {list(self._programs)} and is given {signature}: batches must keep "
                    f"their shape, or the experiment must declare more than {self.shapes} batch shapes"
                )
            started = time.monotonic()

            def traced(state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
                self.traces += 1
                return self.step(state, batch)

            mesh = self.batch_sharding.mesh
            jitted = jax.jit(
                traced,
                in_shardings=(self.state_shardings, self.batch_sharding),
                out_shardings=(self.state_shardings, NamedSharding(mesh, P())),
                donate_argnums=0,
            )
            lowered = jitted.lower(abstract(state), abstract(batch))
            self._programs[signature] = lowered.compile(compiler_options=compiler_options())
            self.compile_seconds += time.monotonic() - started
        return self._programs[signature]

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Take a step; ``state`` is donated."""
        return self.program(state, batch)(state, batch)


@dataclass(frozen=True)
class Compiler:
    """Compiles functions for one mesh and one table of sharding rules."""

    mesh: Mesh
    rules: Rules = ()

    def state_shardings(self, init: Callable[..., TrainState]) -> tuple[TrainState, TrainState]:
        """(abstract state, shardings) of what ``init(key)`` makes, without making it."""
        shape = jax.eval_shape(init, jax.random.key(0))
        return shape, shardings(shape, mesh=self.mesh, rules=self.rules)

    def init(self, init: Callable[..., TrainState], *, key: Key[Array, ""]) -> TrainState:
        """``init(key)`` with every array born in its shards."""
        _, placed = self.state_shardings(init)
        return jax.jit(init, out_shardings=placed)(jax.device_put(key, replicated(self.mesh)))

    def step(self, step: Step, init: Callable[..., TrainState], *, dispatch: int = 1, shapes: int = 1) -> CompiledStep:
        """The compiled form of ``step`` for states made by ``init``; ``dispatch`` > 1 for a ``repeated`` step."""
        _, placed = self.state_shardings(init)
        return CompiledStep(step, placed, self.batch_placement(dispatch=dispatch), shapes=shapes)

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` under jit, with outputs replicated so that every process can fetch them.

        Give it arrays that are placed already: parameters of a state, :meth:`replicate`, :meth:`shard`.
        """
        return jax.jit(function, out_shardings=replicated(self.mesh), compiler_options=compiler_options())

    def batch_placement(self, *, dispatch: int = 1) -> NamedSharding:
        """Where a batch lives; with ``dispatch`` > 1 the sample axis is the second."""
        return batch_sharding(self.mesh) if dispatch == 1 else NamedSharding(self.mesh, P(None, ("data", "fsdp")))

    def replicate(self, tree: Any) -> Any:
        """Put host values on every device."""
        return jax.device_put(tree, replicated(self.mesh))

    def shard(self, batch: Mapping[str, Any], *, dispatch: int = 1) -> dict[str, Array]:
        """Put this process's share of a batch on its devices, as a part of the global batch."""
        placement = self.batch_placement(dispatch=dispatch)
        return {name: jax.make_array_from_process_local_data(placement, leaf) for name, leaf in batch.items()}

    def check_batch_size(self, batch_size: int, *, microbatches: int = 1) -> None:
        """Raise ``UserError`` unless every device gets an equal share of every microbatch."""
        shards = batch_shards(self.mesh) * microbatches
        if batch_size % shards:
            raise UserError(
                f"a batch of {batch_size} cannot be shared equally by {batch_shards(self.mesh)} devices "
                f"in {microbatches} microbatches: choose a multiple of {shards}"
            )
