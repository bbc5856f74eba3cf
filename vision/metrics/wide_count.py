"""Counts beyond 2**31 on devices, whose integers have 32 bits: of pixels, of which two thousand images have as many."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

LARGEST_TERM = 2**30
"""What `plus` can add at once."""
_BITS = 30


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


def together(one: WideCount, other: WideCount) -> WideCount:
    """The merged counts of two disjoint sets."""
    return _carried(one.high + other.high, one.low + other.low)


def value(total: WideCount) -> Any:
    """The counts as int64, on the host."""
    return (np.asarray(total.high, np.int64) << _BITS) + np.asarray(total.low, np.int64)


def _carried(high: Array, low: Array) -> WideCount:
    return WideCount(high + (low >> _BITS), low & (2**_BITS - 1))
