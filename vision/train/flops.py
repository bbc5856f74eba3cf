"""Floating-point operations of a program, counted from its jaxpr.

What is counted is the convention behind "model FLOPs utilisation" (Chowdhery et al. 2022, "PaLM", appendix B): matrix
products and convolutions, two operations for each multiply-add. Elementwise work, reductions, sorting and random
numbers are left out: they run on other units than the ones a published peak speaks of, and are limited by memory.

- A multiply-add counts where a value meets a weight. Zeros that padding or dilation put between them do not count, so
  that the input and the weight gradient of a convolution each count exactly what the forward pass does, strided and
  transposed ones included. XLA's own count does the same. Most tables in papers count padding too: that is 1.04 times
  as much for a 3x3 convolution of 32x32 pixels, 1.44 times for 4x4.
- What rematerialisation computes again counts again: the device does the work. PaLM calls that hardware FLOPs
  utilisation; without rematerialisation the two are the same number.
- Loops count as often as they run (XLA's ``cost_analysis`` counts their bodies once), of a conditional's branches the
  dearest one counts, a ``shard_map``'s body counts for every shard. A multiply-add of complex numbers is four.
- ``while`` loops whose length is not in the program count once, and are named in :attr:`Flops.unknown` when there is
  matrix work in them, as are kernels from outside JAX.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

_FOREIGN = ("pallas_call", "ffi_call", "pure_callback", "io_callback", "tpu_custom_call", "triton_kernel_call")
_FOREIGN += ("mosaic_gpu", "dot_product_attention", "ragged_dot", "scaled_")
"""Beginnings of the names of primitives whose work the jaxpr does not show, or, for Pallas, shows for one block."""

_CONVOLUTIONS = {"convolution": (0, 1, 2), "convolution_to_features": (2, 1, 0), "convolution_to_kernel": (0, 2, 1)}
"""Primitives of ``vision.nn.convolution``: which of (left operand, right operand, result) are features, kernel, result
of the convolution."""

_DENSE = {"dense": (0, 1, 2), "dense_to_features": (2, 1, 0), "dense_to_kernel": (0, 2, 1)}
"""The same of ``vision.nn.dense``."""

_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call")
_CALLS += ("custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin", "run_state")
"""Primitives that run the jaxprs in their parameters once."""


@dataclass(frozen=True)
class Flops:
    """Operations of matrix products and convolutions, over all devices."""

    by_dtype: Mapping[str, int] = field(default_factory=dict)
    """Operations by the type of the operands, the wider of the two: "float32", "bfloat16"."""
    unknown: frozenset[str] = frozenset()
    """Primitives whose work is not fully counted: "while" with matrix work in its body, counted once; kernels from
    outside JAX, not counted."""

    @property
    def matrix(self) -> int:
        """All operations."""
        return sum(self.by_dtype.values())

    @property
    def dtype(self) -> str:
        """The type in which most operations are done; "float32" where there are none."""
        return max(self.by_dtype, key=lambda name: self.by_dtype[name], default="float32")

    def times(self, count: int) -> "Flops":
        """Of ``count`` such programs."""
        return Flops({dtype: count * each for dtype, each in self.by_dtype.items()}, self.unknown)


_NOTHING = Flops()


def count_flops(function: Callable[..., Any], *arguments: Any) -> Flops:
    """Operations of one call of ``function``, by the rules above.

    Args:
      function: anything that ``jax.jit`` takes without static arguments; it is traced, not run.
      arguments: trees of arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      The exact count for global shapes: what all devices do together.
    """
    return flops_of(jax.make_jaxpr(function)(*arguments))


def flops_of(program: ClosedJaxpr) -> Flops:
    """Operations of one run of a program that is traced already; as :func:`count_flops`."""
    return _program(program.jaxpr)


def _program(jaxpr: Jaxpr) -> Flops:
    return _sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: JaxprEqn) -> Flops:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _operations(equation, _dot_general(equation))
    if name == "conv_general_dilated":
        return _operations(equation, _convolution(equation))
    if name in _CONVOLUTIONS:
        return _operations(equation, _own_convolution(equation), operands=1)
    if name in _DENSE:
        return _operations(equation, _own_dense(equation), operands=1)
    if name.startswith(_FOREIGN):
        return Flops(unknown=frozenset({name}))
    if name == "scan":
        return _program(params["jaxpr"].jaxpr).times(params["length"])
    if name == "cond":
        return max((_program(branch.jaxpr) for branch in params["branches"]), key=lambda flops: flops.matrix)
    if name == "shard_map":
        return _program(params["jaxpr"]).times(_shards(params))
    jaxprs = list(_jaxprs(params))
    if not jaxprs:
        return _NOTHING  # nearly all equations, tens of thousands in a large network
    inner = _sum(map(_program, jaxprs))
    if name not in _CALLS and (inner.matrix or inner.unknown):
        return Flops(inner.by_dtype, inner.unknown | {name})
    return inner


def _operations(equation: JaxprEqn, multiply_adds: int, *, operands: int = 2) -> Flops:
    """Of the widest type of the first ``operands``: primitives of this project cast the second to that of the first."""
    types = (_array(operand).dtype for operand in equation.invars[:operands])
    dtype = max(types, key=lambda dtype: dtype.itemsize)
    each = 8 if jnp.issubdtype(dtype, jnp.complexfloating) else 2
    return Flops({str(dtype): each * multiply_adds})


def _array(variable: Any) -> Any:
    """Shape and dtype of a variable, which in matrix work is always an array."""
    return variable.aval


def _dot_general(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = _array(equation.invars[0]).shape
    return _product(_array(equation.outvars[0]).shape) * _product(lhs[axis] for axis in contracted)


def _convolution(equation: JaxprEqn) -> int:
    params = equation.params
    (lhs, rhs), out = (_array(operand).shape for operand in equation.invars), _array(equation.outvars[0]).shape
    numbers = params["dimension_numbers"]
    # each output feature of a sample sums over the kernel's own input channels, whatever the groups are
    meetings = out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * rhs[numbers.rhs_spec[1]]
    for axis in range(len(numbers.lhs_spec) - 2):
        meetings *= _meetings(
            size=lhs[numbers.lhs_spec[2 + axis]],
            kernel=rhs[numbers.rhs_spec[2 + axis]],
            out=out[numbers.out_spec[2 + axis]],
            stride=params["window_strides"][axis],
            before=params["padding"][axis][0],
            spread=params["lhs_dilation"][axis],
            dilation=params["rhs_dilation"][axis],
        )
    return meetings


def _own_convolution(equation: JaxprEqn) -> int:
    """However it is computed, a convolution and its gradients count as one."""
    how = equation.params["how"]
    arrays = [*equation.invars, *equation.outvars]
    features, kernel, out = (_array(arrays[index]).shape for index in _CONVOLUTIONS[equation.primitive.name])
    meetings = out[0] * out[3] * kernel[2]
    for axis in range(2):
        meetings *= _meetings(
            size=features[1 + axis],
            kernel=kernel[axis],
            out=out[1 + axis],
            stride=how.strides[axis],
            before=how.padding[axis][0],
            spread=1,
            dilation=how.dilation[axis],
        )
    return meetings


def _own_dense(equation: JaxprEqn) -> int:
    arrays = [*equation.invars, *equation.outvars]
    features, kernel, _ = (_array(arrays[index]).shape for index in _DENSE[equation.primitive.name])
    return _product(features) * _product(kernel[1:])


def _meetings(*, size: int, kernel: int, out: int, stride: int, before: int, spread: int, dilation: int) -> int:
    """Pairs (output position, kernel position) of one axis that meet an input value, not a zero put in between."""
    at = np.arange(out)[:, None] * stride + np.arange(kernel)[None, :] * dilation - before
    return int(np.count_nonzero((at >= 0) & (at < size * spread) & (at % spread == 0)))


def _shards(params: Mapping[str, Any]) -> int:
    sizes = dict(params["mesh"].shape)
    for name in ("newly_manual_axes", "manual_axes"):  # as it is called from JAX 0.10 on, and before
        if name in params:
            return _product(sizes[axis] for axis in params[name])
    return _product(size for axis, size in sizes.items() if axis not in params["auto"])


def _jaxprs(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Jaxpr | ClosedJaxpr):
                yield each.jaxpr if isinstance(each, ClosedJaxpr) else each


def _sum(parts: Iterator[Flops]) -> Flops:
    total: Counter[str] = Counter()
    unknown: frozenset[str] = frozenset()
    for part in parts:
        if part is not _NOTHING:
            total.update(part.by_dtype)
            unknown |= part.unknown
    return Flops(dict(total), unknown)


def _product(sizes: Any) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result
