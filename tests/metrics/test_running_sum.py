"""Sums in two float32 words, compiled, against exact rational arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vision.metrics import running_sum

_plus, _together = jax.jit(running_sum.plus), jax.jit(running_sum.together)
# Not so near to the smallest numbers that errors of additions would be subnormal
_terms = st.floats(2.0**-60, 2.0**60, width=32)


def _exact(terms):
    return sum(map(Fraction, terms), Fraction(0))


def _sum(terms):
    total = running_sum.zero()
    for term in terms:
        total = _plus(total, jnp.float32(term))
    return total


@given(a=_terms, b=_terms, negative=st.booleans())
def test_one_addition_is_exact(a, b, negative):
    b = -b if negative else b
    total = _sum([a, b])
    assert Fraction(float(total.high)) + Fraction(float(total.low)) == _exact([a, b])


@given(st.lists(_terms, min_size=1, max_size=30), st.lists(_terms, max_size=10))
def test_sums_of_positive_terms_and_of_sums(some, others):
    exact = _exact(some + others)
    for total in (_sum(some + others), _together(_sum(some), _sum(others))):
        assert abs(Fraction(float(running_sum.value(total))) - exact) <= exact * 40 / 2**47


def test_a_hundred_thousand_terms_lose_nothing():
    """Where a plain float32 sum is off in its fourth digit."""
    terms = np.random.default_rng(0).uniform(1, 2, (2, 100_000)).astype(np.float32)
    start = (running_sum.zero(2), jnp.zeros(2))
    step = lambda sums, term: ((running_sum.plus(sums[0], term), sums[1] + term), None)
    (total, plain), _ = jax.jit(lambda terms: jax.lax.scan(step, start, terms))(terms.T)
    exact = terms.astype(np.float64).sum(1)
    np.testing.assert_allclose(running_sum.value(total), exact, rtol=1e-12)
    assert np.abs(np.asarray(plain) / exact - 1).min() > 1e-6
