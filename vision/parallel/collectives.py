"""The communication of a compiled program between devices, read from its text (``compiled.as_text()``).

The text is the program of one device after partitioning and optimization, so that the list has the operations that
actually run. Notes:

- It is the program of the backend it was compiled for. XLA for CPUs has no reduce-scatter: where an accelerator sums a
  gradient and keeps a share of it, a CPU's program sums all of it (all-reduce) and slices the shard, which communicates
  twice as much. It also widens 16-bit sums to float32.
- Bytes are those of ring algorithms, which are optimal in bandwidth (Patarasuk & Yuan 2009, "Bandwidth optimal
  all-reduce algorithms for clusters of workstations"). What a library chooses instead may differ for small arrays.
- XLA for TPUs writes a reduce-scatter as a fusion of an all-reduce and the slice that a device keeps. It spreads an
  asynchronous collective over several fusions (its start, concurrent computations, its end), each of which
  repeats the instruction with the same channel; they count once.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vision.parallel.hlo_text import Computations, Instruction, called, length_of_loop, parse_program, split

MOVED = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
    "collective-broadcast": lambda n: 1.0,
}
"""Bytes that each of n devices sends for one byte of :attr:`Collective.bytes`."""

_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}


@dataclass(frozen=True)
class Collective:
    """One instruction in which devices exchange data."""

    kind: str
    """A key of :data:`MOVED`; asynchronous forms have the name of the synchronous one."""
    name: str
    """The instruction's name in the text."""
    dtype: str
    """XLA's name of the type of its operands ("f32"); several joined by "+"."""
    bytes: int
    """Total size of all operands per device: the output of an all-gather, the input of a reduce-scatter; for the others
    both are equal."""
    group: int
    """Number of devices that exchange with each other; of a permutation, the number of pairs."""
    times: int = 1
    """How often it runs in a call of the program."""
    exact: bool = True
    """Whether ``times`` is known; False inside a loop of unknown length, which counts as one iteration."""
    shares: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Of the bytes, the share of each type."""
    channel: int | None = field(default=None, compare=False)
    """What the instructions of one asynchronous collective inside fusions have in common; None outside of fusions."""

    @property
    def moved_per_device(self) -> float:
        """Bytes that a device sends in a call of the program, by ring algorithms (see :data:`MOVED`)."""
        return self.times * self.bytes * MOVED[self.kind](self.group)


@dataclass(frozen=True)
class Traffic:
    """Totals of all collectives of a kind."""

    count: int
    """Instructions run in a call of the program."""
    moved_per_device: float
    """Bytes that a device sends."""
    exact: bool
    """Whether every loop around them has a known length."""


def collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program, in the order in which computations are reached.

    Bodies of loops count as often as they run, where the text says so (``hlo_text.length_of_loop``). Of a conditional's
    branches, those of the one with the most communication are listed.

    Args:
      text: an HLO module in text form with one entry computation.

    Raises:
      ValueError: the text has no entry computation, or groups or types in a form not known here.
    """
    entry, computations = parse_program(text)
    header = text[: text.find("\n")] if "\n" in text else text
    devices = math.prod(int(number) for number in re.findall(r"(?:replica_count|num_partitions)=(\d+)", header))
    return _once(_visit(entry, computations, devices))


def _once(found: Iterable[Collective]) -> list[Collective]:
    """Without the repetitions of asynchronous collectives inside fusions."""
    kept: dict[Any, Collective] = {}
    for number, each in enumerate(found):
        name = number if each.channel is None else (each.kind, each.channel)
        # one that is started before a loop and ends in it is repeated there
        if name not in kept or each.times > kept[name].times:
            kept[name] = replace(each, channel=None)
    return list(kept.values())


def summed_by_dtype(found: Iterable[Collective]) -> dict[str, float]:
    """Bytes that a device sends for sums over devices, by the type that is summed, in descending order."""
    sums: dict[str, float] = {}
    for each in found:
        if each.kind in ("all-reduce", "reduce-scatter"):
            for dtype, share in each.shares.items():
                sums[dtype] = sums.get(dtype, 0.0) + share * each.moved_per_device
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def summary(found: Iterable[Collective]) -> dict[str, Traffic]:
    """Totals by kind, in descending order of communication."""
    kinds: dict[str, Traffic] = {}
    for each in found:
        so_far = kinds.get(each.kind, Traffic(0, 0.0, True))
        kinds[each.kind] = Traffic(
            so_far.count + each.times,
            so_far.moved_per_device + each.moved_per_device,
            so_far.exact and each.exact,
        )
    return dict(sorted(kinds.items(), key=lambda item: -item[1].moved_per_device))


def _visit(name: str, computations: Computations, devices: int, *, fused: bool = False) -> Iterator[Collective]:
    for each in computations.get(name, ()):
        kind = each.opcode.removesuffix("-start")
        if kind in MOVED:
            yield _collective(kind, each, devices, fused=fused)
        elif each.opcode.endswith(("-done", "-update")):
            continue  # belongs to a start, which may name the same computation
        elif each.opcode == "conditional":
            branches = [list(_visit(inside, computations, devices)) for inside in called(each.attributes)]
            yield from max(branches, key=lambda found: sum(one.moved_per_device for one in found), default=[])
        else:
            trips = length_of_loop(each, name, computations) if each.opcode == "while" else None
            for inside in called(each.attributes):
                for inner in _visit(inside, computations, devices, fused=fused or each.opcode == "fusion"):
                    if each.opcode == "while":
                        yield _looped(inner, trips)
                    else:
                        yield _scattered(inner, inside) if each.opcode == "fusion" else inner


def _looped(each: Collective, trips: int | None) -> Collective:
    return replace(each, times=each.times * (1 if trips is None else trips), exact=each.exact and trips is not None)


def _scattered(each: Collective, fusion: str) -> Collective:
    """What XLA for TPUs writes as a fusion of an all-reduce and a slice, and runs as a reduce-scatter."""
    summed = each.kind == "all-reduce" and re.match(r"all-reduce-scatter\b", fusion)
    return replace(each, kind="reduce-scatter") if summed else each


def _collective(kind: str, instruction: Instruction, devices: int, *, fused: bool) -> Collective:
    result = instruction.type
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        result = split(result[1:-1])[1]  # (operands, results, ...): an asynchronous all-reduce has only its results
    shapes = re.findall(r"\b([a-z]\w*)\[([^\]]*)\]", result)
    group = _group(kind, instruction, devices)
    sizes: dict[str, int] = {}
    for dtype, sides in shapes:
        sizes[dtype] = sizes.get(dtype, 0) + _bytes(dtype, sides)
    size = sum(sizes.values())
    channel = re.search(r"\bchannel_id=(\d+)", instruction.attributes) if fused else None
    return Collective(
        kind,
        instruction.name,
        "+".join(sizes),
        size * (group if kind == "reduce-scatter" else 1),
        group,
        shares={dtype: each / size for dtype, each in sizes.items()} if size else {},
        channel=int(channel[1]) if channel else None,
    )


def _group(kind: str, instruction: Instruction, devices: int) -> int:
    """How many devices exchange with each other, from any of the forms in which XLA writes groups."""
    text = instruction.attributes
    if kind == "collective-permute" and (pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text)):
        return pairs[1].count("{")
    if listed := re.search(r"replica_groups=\{((?:\{[\d,]*\},?\s*)*)\}", text):  # {{0,1},{2,3}}; {} is all together
        groups = re.findall(r"\{([\d,]*)\}", listed[1])
        return max((len(group.split(",")) for group in groups), default=devices)
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", text):  # [groups,size]<=[...]T(...)
        return int(iota[1])
    nested = r"\((?:[^()]|\([^()]*\))*\)"
    # mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a','b':(1)2}: named axes of a mesh, or parts of them
    if mesh := re.search(rf"replica_groups=\S*mesh\[([^\]]*)\](?:, device_ids={nested})? \{{([^}}]*)\}}", text):
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes[axis] for axis, part in axes)
    raise ValueError(f"the groups of {instruction.name} are written in an unknown form: {text[:200]}")


def _bytes(dtype: str, sides: str) -> int:
    """Bytes of one array; a dynamic dimension ("<=8") counts with its maximum."""
    bits = _BITS.get(dtype)
    if bits is None:
        match = re.match(r"(?:f|bf|s|u)(\d+)", dtype)  # f32, bf16, s8, f8e4m3fn
        if match is None:
            raise ValueError(f"an array of unknown type {dtype}[{sides}]")
        bits = int(match[1])
    count = math.prod(int(side.strip().removeprefix("<=")) for side in sides.split(",") if side.strip())
    return -(-count * bits // 8)
