"""What is known of a program once it is compiled for devices, whether they are there or not."""

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import jax

from vision.errors import on_one_line
from vision.parallel.collectives import collectives, summary, summed_by_dtype
from vision.parallel.products import products
from vision.train.flops import Flops


@dataclass(frozen=True, kw_only=True)
class ProgramReport:
    """A program, or why there is none. Sizes are of one device, in bytes."""

    name: str
    """What it does: "training step", "evaluation: held_out.held_out_loss"."""
    seconds: float
    """How long tracing and compiling took, or failing to."""
    processor_seconds: float
    """The same in seconds of processor time, the compiler's own processes and threads included."""
    problem: str | None = None
    """Why it does not compile, in a sentence."""
    fits: bool | None = None
    """Whether it fits into the memory that a program may have; None where the compiler has failed otherwise."""
    memory: Mapping[str, int] = field(default_factory=dict)
    """"arguments", "outputs", "temporaries" and "code" (where it lies in the same memory), "aliased" (outputs that take
    the place of arguments) and "in all"."""
    exchange: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By kind of collective: "count", "sent" (bytes, by ring algorithms) and "exact" (0 inside loops of unknown
    length)."""
    sums: Mapping[str, float] = field(default_factory=dict)
    """Bytes sent for sums over devices, by XLA's name of the type."""
    least: Mapping[str, float] = field(default_factory=dict)
    """Of a training step, the least bytes to send by kind, see ``vision.parallel.minimum``."""
    products: Mapping[str, int] = field(default_factory=dict)
    """Operations of matrix products and convolutions over all devices, by the type of the operands, as traced."""
    compiled_products: Mapping[str, int] = field(default_factory=dict)
    """Instructions of the program that are such products, by types: {"bf16 x bf16 -> f32": 12}."""

    @property
    def sent(self) -> float:
        """Bytes that a device sends."""
        return sum(kind["sent"] for kind in self.exchange.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


Compile = Callable[[], tuple[jax.stages.Compiled, Flops]]


def report_of(
    name: str, compile_: Compile, *, available: int, dispatch: int = 1, least: Callable[[Flops], Mapping[str, float]]
) -> ProgramReport:
    """Compile a program and read what there is to know.

    Args:
      name: of the program.
      compile_: returns the program and its operations.
      available: bytes of a device that a program may have.
      dispatch: steps in a call; exchange and operations are of one.
      least: (operations) -> the least bytes to send by kind; {} where there is no theory.
    """
    started, problem, fits = (time.monotonic(), _processor_time()), None, None
    compiled, flops = None, Flops()
    try:
        compiled, flops = compile_()
    except jax.errors.JaxRuntimeError as error:
        problem, fits = _problem(str(error))
    seconds, processor_seconds = time.monotonic() - started[0], _processor_time() - started[1]
    if compiled is None:
        return ProgramReport(
            name=name, seconds=seconds, processor_seconds=processor_seconds, problem=problem, fits=fits
        )
    memory = memory_of(compiled)
    text = compiled.as_text() or ""
    found = [each for each in collectives(text) if each.group > 1]
    kinds = {
        kind: {"count": each.count / dispatch, "sent": each.moved_per_device / dispatch, "exact": float(each.exact)}
        for kind, each in summary(found).items()
    }
    return ProgramReport(
        name=name,
        seconds=seconds,
        processor_seconds=processor_seconds,
        fits=memory["in all"] <= available if memory else None,
        memory=memory,
        exchange=kinds,
        sums={dtype: sent / dispatch for dtype, sent in summed_by_dtype(found).items()},
        least=least(flops),
        products={dtype: count // dispatch for dtype, count in flops.by_dtype.items()},
        compiled_products=products(text),
    )


def _processor_time() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def memory_of(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes of a device by use, see :attr:`ProgramReport.memory`; {} where the backend does not say."""
    stats = compiled.memory_analysis()
    if stats is None:
        return {}
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
    }
    return {**parts, "in all": sum(parts.values()) - 2 * parts["aliased"]}


def _problem(message: str) -> tuple[str, bool | None]:
    """(a compiler's message as a sentence, False where memory is what lacks)."""
    used = re.search(r"Used (?P<needs>[\d.]+\s?\w*) of (?P<has>[\d.]+\s?\w*) hbm", message) or re.search(
        r"\((?P<needs>[\d.]+\w*)\) exceeds available HBM \((?P<has>[\d.]+\w*)\)", message
    )
    if used:
        return f"the compiler needs {used['needs']} of memory and the device has {used['has']}", False
    needs_memory = "RESOURCE_EXHAUSTED" in message or "out of memory" in message.lower()
    first = next((line.strip() for line in message.splitlines() if line.strip()), "no reason given")
    return on_one_line(first, 300), False if needs_memory else None
