"""Counts beyond 2**31 on devices, whose integers have 32 bits: of pixels, of which two thousand images have as many."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int

LARGEST_TERM = 2**30
"""What `plus` can add at once."""
_BITS = 30
T = TypeVar("T")


class WideCount(struct.PyTreeNode):
    """Counts high 2**30 + low, exact up to 2**61.

    Attributes:
      high: int32.
      low: int32 of the same shape, in [0, 2**30).
    """

    # Types are not checked, since the fields may also be shapes or shardings.
    high: Any
    low: Any


def zero(*shape: int) -> WideCount:
    """Counts of nothing, of a shape."""
    return WideCount(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32))


def plus(total: WideCount, term: Int[Array, "..."]) -> WideCount:
    """The counts after adding int32 ones of the same shape, each in [0, 2**30]."""
    return _carried(total.high, total.low + term)


def plus_true(total: WideCount, rows: Bool[Array, "..."]) -> WideCount:
    """The count [] after adding how many of at most 2**30 values are true."""
    return plus(total, jnp.sum(rows, dtype=jnp.int32))


def together(one: T, other: T) -> T:
    """The merged counts of two disjoint sets: of trees whose leaves are `WideCount` or arrays, which are added."""
    is_wide = lambda leaf: isinstance(leaf, WideCount)
    merged = lambda a, b: _carried(a.high + b.high, a.low + b.low) if is_wide(a) else a + b
    return jax.tree.map(merged, one, other, is_leaf=is_wide)


def value(total: WideCount) -> Any:
    """The counts as int64, on the host."""
    return (np.asarray(total.high, np.int64) << _BITS) + np.asarray(total.low, np.int64)


def _carried(high: Array, low: Array) -> WideCount:
    return WideCount(high + (low >> _BITS), low & (2**_BITS - 1))
