"""``--dry-run --topology``: the real programs of a configuration, compiled for devices that are not there.

The training step, and what evaluation and sampling call, go through the compiler of the devices' platform, so that it
is known before one pays for them whether they compile, what they hold and what they exchange.
"""

import contextlib
import importlib.metadata
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vision.errors import UserError, on_one_line
from vision.launch.devices import abstract_state, compiler_of
from vision.launch.frozen import frozen_shapes
from vision.launch.program_report import ProgramReport, report_of
from vision.launch.recording import RecordingCompiler
from vision.parallel.minimum import least_exchange
from vision.parallel.topology import Topology, devices_of
from vision.train.experiment import Experiment
from vision.train.flops import Flops
from vision.train.peaks import peak_flops
from vision.train.state import attach_frozen
from vision.types import SampleRequest

SAMPLES = 64
"""Images that the sampler is compiled for."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What compiling for a topology has shown."""

    programs: tuple[ProgramReport, ...]
    """The training step first."""
    left_out: tuple[str, ...] = ()
    """What was not compiled, and why, a sentence each."""


def recording_compiler(experiment: Experiment, topology: Topology) -> RecordingCompiler:
    """The compiler for the experiment's mesh of the topology's devices.

    Raises ``UserError`` where the mesh does not fit the devices, or the batch the mesh.
    """
    plain = compiler_of(experiment, devices_of(topology))
    return RecordingCompiler(plain.mesh, plain.rules, plain.replicas, available=topology.chip.available)


def prove(experiment: Experiment, compiler: RecordingCompiler, *, only_step: bool = False) -> Proof:
    """Compile the training step, evaluation and sampling.

    Args:
      experiment: whose programs.
      compiler: of the devices; see :func:`recording_compiler`.
      only_step: leave evaluation and sampling out, which read data and weights.
    """
    state, placed = compiler.state_shardings(experiment.init)
    frozen = frozen_shapes(experiment.frozen, compiler)
    batch = compiler.batch_shape(experiment.batch, dispatch=experiment.dispatch)
    step = compiler.step(experiment.step, experiment.init, dispatch=experiment.dispatch, frozen=frozen)

    def compiled() -> tuple[jax.stages.Compiled, Flops]:
        program = step.program(state, batch)
        return program.compiled, program.flops

    def least(flops: Flops) -> dict[str, float]:
        itemsize = jnp.dtype(flops.dtype).itemsize
        return least_exchange(state.params, placed.params, compiler.mesh, frozen=frozen, itemsize=itemsize)

    first = report_of(
        "training step", compiled, available=compiler.available, dispatch=experiment.dispatch, least=least
    )
    if only_step:
        return Proof(programs=(first,))
    whole, left_out = attach_frozen(abstract_state(experiment, compiler), frozen), list[str]()
    with _recorded("evaluation", compiler, left_out):
        experiment.evaluation(compiler)(whole)
    if experiment.sampling is not None:
        with _recorded("sampling", compiler, left_out):
            experiment.sampling(compiler)(whole, SampleRequest(count=SAMPLES))
    return Proof(programs=(first, *compiler.programs), left_out=tuple(left_out))


@contextlib.contextmanager
def _recorded(purpose: str, compiler: RecordingCompiler, left_out: list[str]) -> Iterator[None]:
    """Name the programs that are compiled inside after ``purpose``, and note what stops them."""
    before = len(compiler.programs)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # the Python around the programs runs on ones, of which it may rightly complain
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        said = on_one_line(" ".join(said.split()), 300)
        if done := len(compiler.programs) - before:
            left_out.append(
                f"{purpose}: {done} program{'s' * (done > 1)}, then it stopped at the ones that stand in for results, "
                f"and what may follow was not compiled (it said of them: {said})"
            )
        else:
            left_out.append(f"{purpose} was not compiled: {said}")
    compiler.programs[before:] = [_renamed(each, purpose) for each in compiler.programs[before:]]


def _renamed(report: ProgramReport, purpose: str) -> ProgramReport:
    return ProgramReport(**{**vars(report), "name": f"{purpose}: {report.name}"})


def versions(topology: Topology) -> dict[str, str]:
    """Versions of what compiles for a topology, by package."""
    packages = {"tpu": ("jax", "jaxlib", "libtpu"), "gpu": ("jax", "jaxlib", "jax-cuda12-pjrt")}
    return {name: importlib.metadata.version(name) for name in packages[topology.chip.platform]}


def proof_text(proof: Proof, topology: Topology, devices: Sequence[Any]) -> list[str]:
    """A proof as lines: a table of all programs, then what each exchanges and computes."""
    chip = topology.chip
    with_versions = ", ".join(f"{name} {version}" for name, version in versions(topology).items())
    of_memory = f"{chip.memory / 2**30:,.1f} GiB" + (
        f", of which JAX takes {chip.available / 2**30:,.1f}" if chip.share < 1 else ""
    )
    lines = [
        f"Compiled for {topology.size} x {chip.device_kind} ({topology.name}) by {with_versions}",
        f"Memory of a device: {of_memory}",
        "",
        *_memory_table(proof.programs, chip.memory),
    ]
    for program in proof.programs:
        lines += ["", program.name, *_details(program, topology, devices)]
    return [*lines, *([""] if proof.left_out else []), *proof.left_out]


_COLUMNS = ("arguments", "outputs", "temporaries", "code", "aliased", "in all")


def _memory_table(programs: Sequence[ProgramReport], memory: int) -> list[str]:
    rows: list[tuple[str, ...]] = [("MiB a device", "compiled in", *_COLUMNS, "of the device", "")]
    for each in programs:
        sizes = [f"{each.memory[name] / 2**20:,.1f}" if each.memory else "" for name in _COLUMNS]
        share = f"{each.memory['in all'] / memory:.1%}" if each.memory else ""
        rows.append((each.name, f"{each.seconds:,.1f} s", *sizes, share, _verdict(each)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in (0, len(row) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _verdict(program: ProgramReport) -> str:
    if program.fits is None and program.problem:
        return f"DOES NOT COMPILE: {program.problem}"
    if program.fits is False:
        return f"DOES NOT FIT{f': {program.problem}' if program.problem else ''}"
    return "fits"


_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "f64": "float64"}
_ARITHMETIC = {"tpu": "in one pass of bfloat16", "gpu": "in TF32"}
"""How float32 products are computed unless jax_default_matmul_precision says otherwise."""


def _details(program: ProgramReport, topology: Topology, devices: Sequence[Any]) -> list[str]:
    if not program.memory:
        return ["  not known"]
    lines = []
    for kind, each in program.exchange.items():
        least = program.least.get(kind)
        against = f", {each['sent'] / least:.2f} of theory's" if least else ", none in theory" if program.least else ""
        unsure = "" if each["exact"] else " or more: a loop's length is not known"
        lines.append(f"  {kind}: {each['count']:,.0f} times, {each['sent'] / 2**20:,.3f} MiB{against}{unsure}")
    for kind in program.least.keys() - program.exchange.keys():
        lines.append(f"  {kind}: none, where theory has {program.least[kind] / 2**20:,.3f} MiB")
    if program.least and program.exchange:
        least = sum(program.least.values())
        lines.append(f"  in all {program.sent / 2**20:,.3f} MiB, {program.sent / least:.2f} of theory's")
    if not program.exchange:
        lines.append("  exchange: none")
    if program.sums:
        of = ", ".join(f"{_DTYPES.get(name, name)} {sent / 2**20:,.3f} MiB" for name, sent in program.sums.items())
        lines.append(f"  sums over devices: {of}")
    everything = sum(program.products.values())
    for dtype, count in program.products.items():
        how = f", {_ARITHMETIC[topology.chip.platform]}" if dtype == "float32" else ""
        lines.append(f"  products in {dtype}: {count / 1e9:,.2f} GFLOP, {count / everything:.1%}{how}")
    if program.compiled_products:
        types = ", ".join(f"{count} {kinds}" for kinds, count in program.compiled_products.items())
        lines.append(f"  products as compiled: {types}")
    return [*lines, *_times(program, topology, devices)]


def _times(program: ProgramReport, topology: Topology, devices: Sequence[Any]) -> list[str]:
    """The least times at published rates."""
    peaks = {dtype: peak_flops(devices[0], dtype) for dtype in program.products}
    known = {dtype: peak for dtype, peak in peaks.items() if peak}
    seconds = sum(count / known[dtype] for dtype, count in program.products.items() if dtype in known) / len(devices)
    links = program.sent / topology.links
    return [f"  at published rates: products {1e3 * seconds:,.3f} ms, exchange {1e3 * links:,.3f} ms"]
