"""A compiler for devices that are not there: what it compiles is reported, and its functions return ones.

An evaluation or a sampler is Python around compiled functions. With this compiler the Python runs on the host as it
always does, on ones (counts of zero would be refused), and every function that it calls is compiled for the devices.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Num

from vision.launch.program_report import ProgramReport, report_of
from vision.parallel.mesh import replicated
from vision.train.compile import Compiler
from vision.train.flops import flops_of
from vision.types import TrainState


@dataclass(frozen=True, eq=False)
class RecordingCompiler(Compiler):
    """Compiles functions, reports them, and stands in for running them. States are ShapeDtypeStructs with shardings."""

    available: int = field(default=0, kw_only=True)
    """Bytes of a device that a program may have."""
    programs: list[ProgramReport] = field(default_factory=list, kw_only=True, compare=False)
    """A report of each program, as they are first called."""

    # functions that are kept for a compiler report to that one
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, compiled and reported where its arguments have new shapes; its results are ones."""
        jitted, known = self.jitted(function), dict[Any, Any]()

        def called(*arguments: Any) -> Any:
            shapes = self.replicate(arguments)
            leaves, structure = jax.tree.flatten(shapes)
            signature = structure, tuple((leaf.shape, str(leaf.dtype), leaf.sharding) for leaf in leaves)
            if signature not in known:
                traced = jitted.trace(self.specs(shapes), *shapes)
                known[signature] = traced.out_info
                compile_ = lambda: (traced.lower().compile(), flops_of(traced.jaxpr))
                self.programs.append(
                    report_of(_name(function), compile_, available=self.available, least=lambda flops: {})
                )
            return jax.tree.map(_ones, known[signature])

        return called

    def replica(self, init: Callable[..., TrainState]) -> Callable[[TrainState, int], TrainState]:
        """(state of all, index) -> the shapes of the state of one."""
        single = self.single_run()
        del init
        one = lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

        def chosen(state: TrainState, index: int) -> TrainState:
            del index
            return single.place(jax.tree.map(one, state))

        return chosen

    def place(self, variables: Any) -> Any:
        """Shapes of ``variables`` with shardings."""
        return super().place(jax.tree.map(_shape, variables))

    def replicate(self, tree: Any) -> Any:
        """Shapes of what is on the host, on every device; shapes with shardings as they are."""
        everywhere = replicated(self.mesh)
        return jax.tree.map(lambda leaf: _placed(leaf, everywhere), tree)

    def shard(self, batch: Mapping[str, Any], *, dispatch: int = 1) -> dict[str, Any]:
        """Shapes of a batch, which is the whole one: there is one process here."""
        placement = self.batch_placement(dispatch=dispatch)
        return {name: _placed(leaf, placement) for name, leaf in batch.items()}

    def shard_padded(self, samples: Num[np.ndarray, "n ..."]) -> Any:
        """Shapes of samples, as many as the devices can share equally."""
        shape = (self.rounded_up(len(samples)), *samples.shape[1:])
        return jax.ShapeDtypeStruct(shape, samples.dtype, sharding=self.batch_placement())


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype, allow_extended_dtype=True))


def _placed(leaf: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.sharding is not None:
        return leaf
    shape = _shape(leaf)
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)


def _ones(info: Any) -> Any:
    if jnp.issubdtype(info.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), info.shape)
    return np.ones(info.shape, info.dtype)


def _name(function: Callable[..., Any]) -> str:
    """Where a function is made: "held_out.held_out_loss"."""
    function = function.func if isinstance(function, functools.partial) else function
    made = getattr(function, "__qualname__", type(function).__name__).split(".<locals>")[0]
    return f"{getattr(function, '__module__', '').rpartition('.')[2]}.{made}"
