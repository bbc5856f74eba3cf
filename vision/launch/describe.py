"""``--dry-run``: what a configuration would do, without data, without a work directory, without a step."""

import math
from collections.abc import Iterable
from typing import Any

import jax

from vision.launch.options import changes, flatten
from vision.parallel.sharding import bytes_per_device, path_name
from vision.train.compile import Compiler
from vision.train.experiment import Experiment


def describe(experiment: Experiment, compiler: Compiler, *, config: Any, default: Any) -> str:
    """The resolved configuration, every parameter with shape, sharding and bytes per device, FLOPs per step."""
    state, placed = compiler.state_shardings(experiment.init)
    changed = changes(config, default)
    lines = ["Configuration (* differs from the defaults)"]
    lines += [f"  {'*' if name in changed else ' '} {name} = {value}" for name, value in flatten(config).items()]

    rows = [("parameter", "shape", "dtype", "sharding", "bytes/device")]
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    for (path, leaf), where in zip(leaves, jax.tree.leaves(placed.params), strict=True):
        spec = ", ".join("-" if axis is None else str(axis) for axis in where.spec) or "replicated"
        size = f"{bytes_per_device(leaf, where):,}"
        rows.append((path_name(path), "x".join(map(str, leaf.shape)) or "scalar", str(leaf.dtype), spec, size))
    lines += ["", *_table(rows)]

    count = sum(math.prod(leaf.shape) for _, leaf in leaves)
    lines += ["", f"Parameters: {count:,}", f"Mesh: {dict(compiler.mesh.shape)}"]
    for part in ("params", "opt_state", "ema", "model_state"):
        size = _bytes(getattr(state, part), getattr(placed, part))
        lines.append(f"  {part} {size / 2**20:,.1f} MiB per device")

    step = compiler.step(experiment.step, experiment.init, dispatch=experiment.dispatch)
    program = step.program(state, stacked_batch(experiment))
    images = experiment.batch_size * experiment.dispatch
    memory = program.memory_analysis()
    flops = (program.cost_analysis() or {}).get("flops", float("nan")) * jax.device_count()
    lines += [
        f"Step: {experiment.batch_size} images, {experiment.total_steps:,} steps to {experiment.images:,} images",
        f"  {flops / experiment.dispatch / 1e9:,.2f} GFLOP per step by XLA's count, "
        f"{flops / images / 1e9:,.3f} per image",
        "  (a loop's body is counted once, so a step with loops takes more)",
    ]
    if memory is not None:
        lines.append(f"  {memory.temp_size_in_bytes / 2**20:,.1f} MiB per device for activations and temporaries")
    return "\n".join(lines)


def stacked_batch(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """The abstract batch of one dispatch."""
    lead = () if experiment.dispatch == 1 else (experiment.dispatch,)
    return {name: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype) for name, leaf in experiment.batch.items()}


def _bytes(tree: Any, placed: Any) -> int:
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(placed), strict=True)
    return sum(bytes_per_device(leaf, where) for leaf, where in pairs)


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
