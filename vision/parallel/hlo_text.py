"""The text of a compiled program: its computations, their instructions, and how often its loops run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    type: str
    """Of the result: "f32[8,4]{1,0}", or a tuple of such."""
    opcode: str
    operands: tuple[str, ...]
    """Names of other instructions; of a constant, its value."""
    attributes: str
    """The text without the contents of strings in double quotes, which may be anything."""
    root: bool
    """Whether it is the result of its computation."""
    trips: int | None
    """Of a loop, its length where the compiler has written it down."""
    target: str
    """Of a custom call, what it calls."""


Computations = Mapping[str, list[Instruction]]


def parse_program(text: str) -> tuple[str, Computations]:
    """(name of the entry computation, instructions of every computation).

    Raises:
      ValueError: the text has no entry computation, or a bracket is not closed.
    """
    computations: dict[str, list[Instruction]] = {}
    entry = current = None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", line.rstrip())
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _instruction(line)) is not None:
            current.append(instruction)
    if entry is None:
        raise ValueError("the text of a compiled program has no ENTRY computation")
    return entry, computations


def _instruction(line: str) -> Instruction | None:
    match = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line)
    if not match:
        return None
    trips = re.search(r'known_trip_count\\?":\s*\{\\?"n\\?":\s*\\?"(\d+)', line)
    rest = re.sub(r'"(?:[^"\\]|\\.)*"', '""', match[3])
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    closing = _closing(rest, len(opcode))
    inside = re.sub(r"/\*.*?\*/", "", rest[len(opcode) + 1 : closing])
    # older versions write the type of an operand before its name
    operands = tuple(part.split(" ")[-1].lstrip("%") for part in (each.strip() for each in split(inside)) if part)
    attributes = rest[closing + 1 :]
    target = re.search(r'custom_call_target="([^"]*)"', line) if opcode == "custom-call" else None
    return Instruction(
        match[2],
        kind,
        opcode,
        operands,
        attributes,
        root=bool(match[1]),
        trips=int(trips[1]) if trips else None,
        target=target[1] if target else "",
    )


def called(attributes: str) -> list[str]:
    """Computations that an instruction runs."""
    names = r"calls|to_apply|body|condition|true_computation|false_computation|branch_computations|called_computations"
    found = re.findall(rf"\b(?:{names})=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", attributes)
    return [name.strip().lstrip("%") for many, one in found for name in (many.split(",") if many else [one]) if name]


def length_of_loop(loop: Instruction, around: str, computations: Computations) -> int | None:
    """How often the body of ``loop``, an instruction of the computation ``around``, runs; None where that is not known.

    The compiler for TPUs does not write it down: there it is read from a counter that begins at a constant, grows by
    a constant, and is compared with one, which is what JAX makes of ``scan`` and ``fori_loop``.
    """
    if loop.trips is not None:
        return loop.trips
    parts = {name: re.search(rf"\b{name}=%?([\w.\-]+)", loop.attributes) for name in ("condition", "body")}
    condition, body = (_Values(computations.get(part[1] if part else "", [])) for part in parts.values())
    test, step, outside = condition.root, body.root, _Values(computations[around])
    if test is None or test.opcode != "compare" or "direction=LT" not in test.attributes or len(test.operands) != 2:
        return None
    counter, end = condition.element(test.operands[0]), condition.constant(test.operands[1])
    start = outside.source(loop.operands[0]) if loop.operands else None
    if counter is None or end is None or step is None or step.opcode != "tuple" or start is None:
        return None
    if start.opcode != "tuple" or counter >= min(len(step.operands), len(start.operands)):
        return None
    begin, grown = outside.constant(start.operands[counter]), body.source(step.operands[counter])
    if begin is None or grown is None or grown.opcode != "add" or len(grown.operands) != 2:
        return None
    for one, other in (grown.operands, grown.operands[::-1]):
        by = body.constant(other)
        if body.element(one) == counter and by is not None and by > 0:
            return max(-(-(end - begin) // by), 0)
    return None


class _Values:
    """Where the values of a computation come from, through copies."""

    def __init__(self, instructions: list[Instruction]):
        self.by_name = {each.name: each for each in instructions}
        self.root = next((each for each in instructions if each.root), None)

    def source(self, name: str) -> Instruction | None:
        found = self.by_name.get(name)
        while found is not None and found.opcode in ("copy", "bitcast") and found.operands:
            found = self.by_name.get(found.operands[0])
        return found

    def constant(self, name: str) -> int | None:
        found = self.source(name)
        if found is None or found.opcode != "constant" or not re.fullmatch(r"-?\d+", "".join(found.operands)):
            return None
        return int(found.operands[0])

    def element(self, name: str) -> int | None:
        """The place of a value in the tuple that is the computation's parameter."""
        found = self.source(name)
        if found is None or found.opcode != "get-tuple-element":
            return None
        index, of = re.search(r"\bindex=(\d+)", found.attributes), self.source(found.operands[0])
        return int(index[1]) if index and of is not None and of.opcode == "parameter" else None


def _closing(text: str, start: int) -> int:
    """Position of the bracket that closes the one at ``start``."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] in "([{") - (text[position] in ")]}")
        if depth == 0:
            return position
    raise ValueError(f"a bracket is not closed: {text[start : start + 80]}")


def split(text: str) -> list[str]:
    """Parts of a list, by the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]
