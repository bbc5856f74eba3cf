"""Sums of float32 numbers over many batches without rounding errors between batches.

A plain float32 sum of a million terms of size one has a resolution of 1/16 at its end. Here the rounding error of every
addition is computed exactly and kept in addition to the sum.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float


class RunningSum(struct.PyTreeNode):
    """An unevaluated sum high + low of two float32 arrays of one shape, about 48 bits together.

    Attributes:
      high: the sum as float32 has it.
      low: the accumulated rounding error of ``high``.
    """

    # Types are not checked, since the fields may also be shapes or shardings.
    high: Any
    low: Any


def zero(*shape: int) -> RunningSum:
    """An empty sum, of a shape."""
    return RunningSum(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))


def plus(total: RunningSum, term: Float[Array, "..."]) -> RunningSum:
    """The sum after adding one float32 term of the same shape.

    The addition itself is exact: ``high + low`` grows by ``term`` up to the rounding of ``low``, 2**-24 of it. For
    terms of one sign, m additions have a relative error of at most about m 2**-48.
    """
    high, error = _two_sum(total.high, term)
    return RunningSum(high, total.low + error)


def together(one: RunningSum, other: RunningSum) -> RunningSum:
    """The merged sums of two disjoint sets of terms."""
    high, error = _two_sum(one.high, other.high)
    return RunningSum(high, one.low + other.low + error)


def value(total: RunningSum) -> Float[np.ndarray, "..."]:
    """The sum in float64, on the host."""
    return np.asarray(np.asarray(total.high, np.float64) + np.asarray(total.low, np.float64))


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum and its error: s + e = a + b exactly, whatever the sizes of a and b."""
    # Knuth 1997, The Art of Computer Programming 2, section 4.2.2, theorem B
    s = a + b
    back = s - a
    return s, (a - (s - back)) + (b - back)
