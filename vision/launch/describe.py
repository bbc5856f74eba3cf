"""``--dry-run``: what a configuration would do, without data, without a run folder, without a step.

The mesh may be larger than the machine: its devices are then simulated on the CPU, which is enough to partition and
compile the step, and so to say what it holds and moves.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from jax.extend.backend import clear_backends

from vision.errors import UserError
from vision.launch.frozen import frozen_shapes
from vision.launch.options import changes, flatten
from vision.launch.prove import proof_text, prove
from vision.launch.recording import RecordingCompiler
from vision.parallel.collectives import collectives, summary
from vision.parallel.sharding import bytes_per_device, path_name
from vision.parallel.topology import Topology
from vision.platform import of_mesh
from vision.train.compile import Compiler, abstract
from vision.train.experiment import Experiment
from vision.train.flops import count_flops
from vision.train.step import with_frozen

COMPILE_LIMIT = 512
"""Meshes of more devices are described without compiling the step."""


def simulate_devices(count: int) -> None:
    """Make JAX see at least ``count`` devices: the machine's own where they are enough, else simulated ones.

    The simulated ones are CPU devices, also on a machine with accelerators. Call it before arrays or compiled
    functions exist: they would belong to devices that are gone.

    Raises:
      UserError: JAX is in use already, with fewer devices.
    """
    if count <= 1:
        return
    try:  # JAX refuses to change this once it is in use
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        if len(jax.devices()) >= count:
            return
        raise UserError(
            f"{count} devices cannot be simulated: JAX is in use with {len(jax.devices())}. Describe the configuration "
            "in a process of its own, with --dry-run"
        ) from error
    if len(jax.devices()) < count:  # accelerators, but too few
        clear_backends()
        jax.config.update("jax_platforms", "cpu")


def describe(
    experiment: Experiment, compiler: Compiler, *, config: Any, default: Any, compile_limit: int = COMPILE_LIMIT
) -> str:
    """The text of ``--dry-run``.

    Args:
      experiment: what would be run.
      compiler: with the mesh it would run on, of real or simulated devices.
      config: the resolved configuration.
      default: what it is compared with.
      compile_limit: on more devices the step is not compiled, and its activations and communication are left out.

    Returns:
      The configuration; every parameter with shape, sharding and bytes per device; bytes per device of each part of
      the state and of the step's temporaries; operations; and what devices exchange.
    """
    state, _ = compiler.state_shardings(experiment.init)
    batch = compiler.batch_shape(experiment.batch, dispatch=experiment.dispatch)
    frozen = frozen_shapes(experiment.frozen, compiler)
    memory, moved, notes = memory_of_state(experiment, compiler), [], []
    if compiler.mesh.devices.size <= compile_limit:
        step = compiler.step(experiment.step, experiment.init, dispatch=experiment.dispatch, frozen=frozen)
        program = step.program(state, batch)
        analysis, flops = program.compiled.memory_analysis(), program.flops
        if analysis is not None:
            memory["activations"] = analysis.temp_size_in_bytes
        moved = _moved(program.compiled.as_text() or "", experiment.dispatch)
        if of_mesh(compiler.mesh) == "cpu":
            notes = [
                "Activations (with all temporaries) and exchange are of the step compiled for CPUs, "
                "estimates for other devices: --topology compiles for those."
            ]
    else:
        step = lambda frozen, state, batch: with_frozen(experiment.step, frozen)(state, batch)
        flops = count_flops(step, abstract(frozen), state, batch)
        notes = [
            f"Activations and exchange are not known: for more than {compile_limit} devices the step is not compiled."
        ]
    runs = max(len(experiment.replicas), 1)
    step_flops = flops.matrix / experiment.dispatch
    lines = [
        *resolved(experiment, compiler, config=config, default=default),
        *_memory(memory),
        "",
        f"Operations: {step_flops / 1e9:,.2f} GFLOP per step, {step_flops / experiment.batch_size / runs / 1e9:,.3f} "
        f"per image, {flops.dtype} (matrix products and convolutions, over all devices)",
    ]
    if flops.unknown:
        lines.append(f"  and what is not known beforehand of {', '.join(sorted(flops.unknown))}")
    return "\n".join([*lines, *moved, *([""] if notes else []), *notes])


def describe_on(
    experiment: Experiment, compiler: RecordingCompiler, topology: Topology, *, config: Any, default: Any
) -> str:
    """The text of ``--dry-run --topology``: as :func:`describe`, with all programs compiled for the devices."""
    proof = prove(experiment, compiler)
    return "\n".join(
        [
            *resolved(experiment, compiler, config=config, default=default),
            *_memory(memory_of_state(experiment, compiler)),
            "",
            *proof_text(proof, topology, compiler.mesh.devices.flatten().tolist()),
        ]
    )


def resolved(experiment: Experiment, compiler: Compiler, *, config: Any, default: Any) -> list[str]:
    """Lines on what would run: configuration, parameters, mesh, batch and budget."""
    state, placed = compiler.state_shardings(experiment.init)
    changed = changes(config, default)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    runs = max(len(experiment.replicas), 1)
    devices = compiler.mesh.devices.size
    sizes = " x ".join(f"{axis} {size}" for axis, size in compiler.mesh.shape.items() if size > 1) or "one device"
    return [
        "Configuration (* differs from the defaults)",
        *(f"  {'*' if name in changed else ' '} {name} = {value}" for name, value in flatten(config).items()),
        "",
        *_parameters(state.params, placed.params),
        "",
        f"Parameters: {count // runs:,}" + (f" in each of {runs} runs" if runs > 1 else ""),
        f"Mesh: {sizes}" + (f" = {devices} devices" if devices > 1 else ""),
        f"Step: {experiment.batch_size} images" + (f" of each of {runs} runs" if runs > 1 else ""),
        f"Budget: {experiment.total_steps:,} steps to {experiment.images:,} images",
        "",
    ]


def memory_of_state(experiment: Experiment, compiler: Compiler) -> dict[str, int]:
    """Bytes of a device by the part of the state, and those of frozen networks."""
    state, placed = compiler.state_shardings(experiment.init)
    memory = {part: _bytes(getattr(state, part), getattr(placed, part)) for part in _PARTS}
    frozen = frozen_shapes(experiment.frozen, compiler)
    if frozen:
        memory["frozen networks"] = _bytes(frozen, jax.tree.map(lambda leaf: leaf.sharding, frozen))
    return memory


def _memory(memory: Mapping[str, int]) -> list[str]:
    sizes = {**memory, "in all": sum(memory.values())}
    rows = [(f"  {_PARTS.get(name, name)}", f"{size / 2**20:,.1f} MiB") for name, size in sizes.items()]
    return ["Memory per device", *_table(rows, right={1})]


_PARTS = {"params": "parameters", "opt_state": "optimizer", "ema": "averages", "model_state": "model state"}


def _parameters(params: Any, placed: Any) -> list[str]:
    """A table with a line for each parameter."""
    rows = [("parameter", "shape", "dtype", "sharding", "bytes/device")]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), where in zip(leaves, jax.tree.leaves(placed), strict=True):
        spec = ", ".join("-" if axis is None else str(axis) for axis in where.spec) or "replicated"
        size = f"{bytes_per_device(leaf, where):,}"
        rows.append((path_name(path), "x".join(map(str, leaf.shape)) or "scalar", str(leaf.dtype), spec, size))
    return _table(rows, right={4})


def _moved(text: str, dispatch: int) -> list[str]:
    """What devices exchange in a step, of a program that takes ``dispatch`` of them."""
    kinds = summary(each for each in collectives(text) if each.group > 1)
    if not kinds:
        return ["", "Exchange: none"]
    rows = [
        (
            f"  {kind}",
            f"{traffic.count / dispatch:,.0f} times",
            f"{traffic.moved_per_device / dispatch / 2**20:,.3f} MiB",
            "" if traffic.exact else "or more: a loop's length is not known",
        )
        for kind, traffic in kinds.items()
    ]
    return ["", "Exchange per step, sent by each device (ring algorithms)", *_table(rows, right={1, 2})]


def _bytes(tree: Any, placed: Any) -> int:
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(placed), strict=True)
    return sum(bytes_per_device(leaf, where) for leaf, where in pairs)


def _table(rows: Iterable[tuple[str, ...]], *, right: set[int]) -> list[str]:
    """Rows as aligned lines; the columns in ``right`` are numbers and end below each other."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    align = lambda column, cell: cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
    return ["  ".join(align(column, cell) for column, cell in enumerate(row)).rstrip() for row in rows]
