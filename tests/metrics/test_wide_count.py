"""Counts beyond 2**31."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.metrics.wide_count import LARGEST_TERM, plus, together, value, zero

_TERMS = st.lists(st.integers(0, LARGEST_TERM), max_size=12)


def _summed(terms):
    total = zero(2)
    for term in terms:
        total = plus(total, jnp.array([term, 1], jnp.int32))
    return total


@settings(max_examples=25)
@given(_TERMS, _TERMS)
def test_sums_are_exact(some, others):
    merged = together(_summed(some), _summed(others))
    np.testing.assert_array_equal(value(merged), [sum(some) + sum(others), len(some) + len(others)])
    assert value(merged).dtype == np.int64


def test_the_largest_terms_do_not_overflow():
    assert value(_summed([LARGEST_TERM] * 9)).tolist() == [9 * 2**30, 9]
