"""The matrix products and convolutions of a compiled program by the types they take and give, read from its text."""

import re
from collections import Counter
from collections.abc import Iterator

from vision.parallel.hlo_text import Instruction, parse_program

_LIBRARIES = ("__cublas$", "__cudnn$conv", "__onednn$")
"""Beginnings of the names of library calls that are products."""


def products(text: str) -> dict[str, int]:
    """How many instructions of each kind there are: {"bf16 x bf16 -> f32": 12}, in descending order.

    Instructions count once each, however often they run. Calls of cuBLAS, cuDNN and oneDNN are products too. A float32
    product of a TPU may have operands of bfloat16, to which XLA rounds them for its single pass.

    Args:
      text: an HLO module in text form with one entry computation.
    """
    _, computations = parse_program(text)
    found: Counter[str] = Counter()
    for instructions in computations.values():
        types = {each.name: _dtype(each.type) for each in instructions}
        for each in _products(instructions):
            operands = " x ".join(types.get(name, "?") for name in each.operands[:2])
            found[f"{operands} -> {_dtype(each.type)}"] += 1
    return dict(found.most_common())


def _products(instructions: list[Instruction]) -> Iterator[Instruction]:
    for each in instructions:
        if each.opcode in ("dot", "convolution") or (
            each.opcode == "custom-call" and each.target.startswith(_LIBRARIES)
        ):
            yield each


def _dtype(kind: str) -> str:
    """The type of an array, or of the first one of a tuple."""
    found = re.search(r"\b([a-z]\w*)\[", kind)
    return found[1] if found else "?"
