"""Scaling on paper: what a chip holds, sends and computes in a training step on 16, 256 and 4,096 chips.

    python benchmarks/scaling.py chips.jsonl --missing     commands that compile the programs which chips.jsonl lacks
    python benchmarks/scaling.py chips.jsonl               the tables, as Markdown

Nothing is run. Parameters, what the optimizer keeps and their division among chips are those of the experiment and of
its sharding rules on an abstract mesh; operations are counted from the traced step (``vision/train/flops.py``); bytes
sent are theory's (``vision/parallel/minimum.py``), which the programs compiled for 8 and 16 devices meet
(``docs/scaling.md``); activations are the difference of the temporaries of two programs compiled for one H100 with one
and two batches. Times are at published rates (``vision/parallel/chips.py``, ``vision/train/peaks.py``).

The batch of a chip stays the same (weak scaling). Two efficiencies, of step times without exchange over those with it:

- *worst*: products at the published peak, and nothing overlaps;
- *likely*: products at 40 % of the peak, and exchange overlaps them, except that of tensor parallelism and of batch
  statistics, on which the next layer waits.

A sum over chips costs at least its latency, for which there are no published figures. Assumed are 1 microsecond a hop
of a TPU's torus (Austin et al. 2025, "How to Scale Your Model"), 10 microseconds within a host of GPUs and 5 for each
doubling of hosts.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from vision.launch.experiment_module import find_experiment
from vision.nn.batch_norm import BatchNorm
from vision.parallel.chips import CHIPS, Chip
from vision.parallel.mesh import AXES
from vision.parallel.minimum import least_exchange
from vision.parallel.sharding import ShardingRules, bytes_per_device, partition_spec, shardings
from vision.train.experiment import Experiment
from vision.train.flops import flops_of
from vision.train.peaks import peak_flops

SIZES = (16, 256, 4096)
GPUS = 8
"""GPUs of a host."""
TPUS = 4
"""TPUs v5p of a host."""
USED = 0.4
"""Of the published peak, in the likely case."""
HOP, HOST, HOSTS = 1e-6, 10e-6, 5e-6
"""Seconds of latency: of a hop of a torus, of a sum within a host of GPUs, of each doubling of hosts."""


@dataclass(frozen=True)
class Workload:
    """A network to scale."""

    experiment: str
    options: tuple[str, ...]
    batch: int
    """Images a chip."""
    input_bytes: int
    """Of a stored image."""


BFLOAT16 = ("--model.dtype", "bfloat16")
WORKLOADS = {
    "UNet, CIFAR-10": Workload("diffusion_cifar", BFLOAT16, 32, 2_500),
    # 32 x 32 values of an autoencoder are as many tokens as 32 x 32 pixels
    "DiT-XL/2, latents of 256 pixels": Workload(
        "dit_cifar", (*BFLOAT16, "--model.width", "1152", "--model.depth", "28", "--model.heads", "16"), 16, 8_192
    ),
    "ResNet-50, ImageNet": Workload("resnet_imagenet", BFLOAT16, 64, 110_000),
    "YOLOv5x, COCO": Workload("yolo_coco", (*BFLOAT16, "--model.width", "1.25", "--model.depth", "1.33"), 8, 160_000),
}


@dataclass(frozen=True)
class Traced:
    """What the step of a workload shows without devices."""

    experiment: Experiment
    state: Any
    flops: float
    """Of an image."""
    reduced: float
    """Bytes of activations of an image that tensor parallelism sums in a forward pass."""
    sums: int
    """Layers with statistics of the batch."""
    tensor_sums: int
    """Sums over devices of a forward pass under tensor parallelism."""


def traced(workload: Workload) -> Traced:
    """Trace the step with one batch of a chip."""
    module = find_experiment(workload.experiment)
    config = replace(module.parse([*workload.options]).config, batch_size=workload.batch, microbatches=1)
    experiment = module.build(config)
    state = jax.eval_shape(experiment.init, jax.random.key(0))
    mesh = abstract_mesh(1, 1, 2)
    seen: dict[str, float] = {}
    normalised: set[str] = set()

    def note(call, arguments, keywords, context):  # type: ignore[no-untyped-def]
        made = call(*arguments, **keywords)
        path = "/".join(context.module.path)
        if isinstance(context.module, BatchNorm):
            normalised.add(path)
        kernel = context.module.variables.get("params", {}).get("kernel") if context.method_name == "__call__" else None
        if kernel is not None and hasattr(made, "dtype"):
            name = f"params/{path}/kernel"
            spec = partition_spec(name, kernel.shape, rules=experiment.rules, mesh=mesh, strict=False)
            if len(spec) >= kernel.ndim - 1 and spec[kernel.ndim - 2] == "tensor":  # the inputs are divided
                seen[path] = made.size * made.dtype.itemsize / workload.batch
        return made

    batch = {name: jax.ShapeDtypeStruct(each.shape, each.dtype) for name, each in experiment.batch.items()}
    with nn.intercept_methods(note):
        jaxpr = jax.make_jaxpr(experiment.step)(state, batch)
    flops = flops_of(jaxpr).matrix / workload.batch
    return Traced(experiment, state, flops, sum(seen.values()), len(normalised), len(seen))


def abstract_mesh(data: int, fsdp: int, tensor: int) -> AbstractMesh:
    """A mesh without devices."""
    return AbstractMesh((1, data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def held(state: Any, rules: ShardingRules, mesh: AbstractMesh) -> tuple[float, Any]:
    """Bytes of the state on a chip, and the shardings."""
    placed = shardings(state, mesh=mesh, rules=rules)
    return sum(map(bytes_per_device, jax.tree.leaves(state), jax.tree.leaves(placed))), placed


def layouts(chip: Chip, chips: int) -> Mapping[str, tuple[int, int, int]]:
    """(data, fsdp, tensor) by name: parameters and channels are divided within a host of GPUs or a row of 16 TPUs."""
    inside = GPUS if chip.platform == "gpu" else 16
    return {
        "data": (chips, 1, 1),
        f"fsdp {inside}": (chips // inside, inside, 1),
        "tensor 4": (chips // inside, inside // 4, 4),
    }


def latency(chip: Chip, chips: int) -> float:
    """Seconds of the smallest sum over ``chips``."""
    if chip.platform == "gpu":
        return HOST + HOSTS * math.log2(max(chips // GPUS, 1))
    # along each of the three sides of a torus there and back, in both directions at once
    return HOP * 3 * round(chips ** (1 / 3))


def exchange_seconds(chip: Chip, mesh: AbstractMesh, least: Mapping[str, float]) -> float:
    """Of what is sent for parameters, at published rates.

    GPUs of a host sum among themselves first; each then sends the share of its host's sum that it holds to the others.
    """
    sent = sum(least.values())
    if chip.platform == "tpu":
        return sent / chip.links
    hosts = mesh.size // GPUS
    if hosts == 1:
        return sent / chip.links
    # divided by fsdp and tensor already, except where every GPU has all of it
    inside = mesh.shape["fsdp"] * mesh.shape["tensor"]
    between = least.get("all-reduce", 0.0) / (GPUS / inside)
    return sent / chip.links + between / chip.network


def rows(name: str, workload: Workload, known: Traced, activations: float) -> list[str]:
    """Lines of the table."""
    lines = []
    model = known.experiment
    for chip_name in ("v5p", "h100"):
        chip = CHIPS[chip_name]
        peak = peak_of(chip)
        for chips in SIZES:
            for layout, sizes in layouts(chip, chips).items():
                if layout.startswith("tensor") and not known.reduced:
                    continue
                mesh = abstract_mesh(*sizes)
                tensor = sizes[2]
                state, placed = held(known.state, model.rules, mesh)
                params = known.state.params
                # what GPUs gather is float32, see docs/scaling.md
                least = least_exchange(
                    params,
                    placed.params,
                    mesh,
                    itemsize=2 if chip.platform == "tpu" else 4,
                )
                whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(params)) / tensor
                images = workload.batch * tensor  # of the chips that share a part of the batch
                memory = state + whole * (2 if sizes[1] > 1 else 1) + activations * workload.batch
                # summed activations lie on every chip of a group
                memory += known.reduced * (images - workload.batch)
                products = known.flops * workload.batch / peak
                between = exchange_seconds(chip, mesh, least)
                # forward and backward: 2 (t - 1) / t of the activations, twice
                sums = 2 * 2 * (tensor - 1) / tensor * known.reduced * images / chip.links
                waits = 2 * known.sums * latency(chip, chips) + sums
                waits += 2 * known.tensor_sums * latency(chip, tensor) if tensor > 1 else 0.0
                worst = products / (products + between + waits)
                likely = products / USED / (max(products / USED, between) + waits)
                moved = (sum(least.values()) + sums * chip.links) / 2**20
                cells = [name, chip_name, f"{chips:,}", layout, f"{workload.batch * chips:,}"]
                cells += [f"{memory / 2**30:.1f} of {chip.available / 2**30:.0f}", f"{moved:,.0f}"]
                cells += [f"{1e3 * products:.2f}", f"{1e3 * between:.2f}", f"{1e3 * waits:.2f}"]
                cells += [f"{worst:.2f}", f"{likely:.2f}"]
                lines.append(f"| {' | '.join(cells)} |")
    return lines


def storage(name: str, workload: Workload, known: Traced) -> str:
    """A line of the table of checkpoints and input, for 4,096 TPUs v5p and H100s."""
    size = sum(
        leaf.size * (8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize)
        for leaf in jax.tree.leaves(known.state)
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(known.state.params))
    cells = [name, f"{parameters / 1e6:,.1f} M", f"{known.flops / 1e9:,.1f}", f"{size / 2**30:.2f}"]
    for chip_name, each in (("v5p", TPUS), ("h100", GPUS)):
        rate = each * USED * peak_of(CHIPS[chip_name]) / known.flops
        hosts = SIZES[-1] // each
        cells += [f"{hosts:,}", f"{size / hosts / 2**20:.1f}", f"{rate:,.0f}"]
        cells += [f"{rate * workload.input_bytes / 2**20:,.0f}"]
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class _Device:
    """What ``peak_flops`` asks of a device."""

    device_kind: str
    platform: str


def peak_of(chip: Chip) -> float:
    """Published FLOP/s of bfloat16."""
    peak = peak_flops(_Device(chip.device_kind, chip.platform), "bfloat16")
    assert peak is not None
    return peak


def options_of(workload: Workload, factor: int) -> list[str]:
    """Of the program with ``factor`` batches."""
    return [*workload.options, "--batch-size", str(factor * workload.batch)]


def activation_bytes(workload: Workload, compiled: Sequence[Mapping[str, Any]]) -> float | None:
    """Of an image; None where a program is missing."""
    found = []
    for factor in (1, 2):
        of = (workload.experiment, options_of(workload, factor))
        fitting = [row for row in compiled if (row["experiment"], row["options"]) == of and row.get("memory")]
        if not fitting:
            return None
        found.append(fitting[-1]["memory"]["temporaries"])
    return (found[1] - found[0]) / workload.batch


def main() -> None:
    """Print the tables, or the commands that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="rows of benchmarks/slices.py")
    parser.add_argument("--missing", action="store_true", help="print the commands that compile what the file lacks")
    arguments = parser.parse_args()
    lines = arguments.file.read_text().splitlines() if arguments.file.exists() else []
    compiled = [json.loads(line) for line in lines]
    activations = {name: activation_bytes(workload, compiled) for name, workload in WORKLOADS.items()}
    if arguments.missing:
        for name, workload in WORKLOADS.items():
            if activations[name] is None:
                for factor in (1, 2):
                    print(
                        f"python benchmarks/slices.py {arguments.file} --slices h100:1/1x1 --experiments "
                        f"{workload.experiment} --options {' '.join(options_of(workload, factor))}"
                    )
        return
    if missing := [name for name, size in activations.items() if size is None]:
        raise SystemExit(f"not compiled yet: {', '.join(missing)}: see --missing")
    known = {name: traced(workload) for name, workload in WORKLOADS.items()}
    head = ["network", "chip", "chips", "layout", "global batch", "GiB a chip", "MiB sent a step", "products, ms"]
    head += ["exchange, ms", "waits, ms", "efficiency, worst", "likely"]
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for name, workload in WORKLOADS.items():
        print("\n".join(rows(name, workload, known[name], activations[name] or 0.0)))
    of_chip = lambda chip: [f"{chip}: hosts", "MiB of a checkpoint a host", "images/s a host", "MiB/s read a host"]
    head = ["network", "parameters", "GFLOP an image", "checkpoint, GiB", *of_chip("v5p"), *of_chip("h100")]
    print(f"\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for name, workload in WORKLOADS.items():
        print(storage(name, workload, known[name]))


if __name__ == "__main__":
    main()
