"""From an experiment to the devices: its compiler, the shapes and shardings of its state, the cache of programs."""

from collections.abc import Sequence
from typing import Any

import jax

from vision.home import cache_folder
from vision.parallel.mesh import make_mesh
from vision.train.compile import Compiler
from vision.train.experiment import Experiment
from vision.types import TrainState


def compiler_of(experiment: Experiment, devices: Sequence[Any] = ()) -> Compiler:
    """The compiler for the experiment's mesh, sharding rules and replicas.

    Args:
      experiment: what is compiled.
      devices: of the mesh; those that JAX sees if empty.

    Raises ``UserError`` where the mesh does not fit the devices, or the batch the mesh.
    """
    chosen = {"devices": devices} if devices else {}
    compiler = Compiler(
        make_mesh(experiment.mesh, replicas=max(len(experiment.replicas), 1), **chosen),
        experiment.rules,
        replicas=len(experiment.replicas),
    )
    compiler.check_batch_size(experiment.batch_size, microbatches=experiment.microbatches)
    return compiler


def abstract_state(experiment: Experiment, compiler: Compiler) -> TrainState:
    """The state's shapes, dtypes and shardings, which restoring a checkpoint takes."""
    shape, placed = compiler.state_shardings(experiment.init)
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shape, placed)


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, unless JAX is configured to already: a resumed run starts at once.

    Also those that take less than a second, of which a start has a dozen or two.
    """
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("vision-jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
