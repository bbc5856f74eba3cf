"""Orders by digits against NumPy's, of few and many values, with ties, and as accelerators find them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.ops import ranking
from vision.ops.ranking import FRACTION_BITS, descending_order


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.sampled_from([1, 4, 2**12, 2**FRACTION_BITS]))
def test_order_of_values_that_are_exact(size, seed, steps):
    """Multiples of a power of two: what is found is the stable order, to the index."""
    generator = np.random.default_rng(seed)
    values = (generator.integers(0, steps + 1, (2, size)) / steps).astype(np.float32)
    counted = generator.random((2, size)) < 0.8
    # of float32, above 1/2, fewer bits are left
    coarse = np.floor(values.astype(np.float64) * 2**FRACTION_BITS)
    expected = np.argsort(np.where(counted, -coarse, 1.0), axis=-1, kind="stable")
    np.testing.assert_array_equal(descending_order(jnp.asarray(values), jnp.asarray(counted)), expected)


@pytest.mark.parametrize("size", [1, 2, 2**14 - 1, 2**14, 2**14 + 1, 2**18 + 1])
def test_sizes_at_which_digits_change(size):
    values = np.random.default_rng(size).random(size, dtype=np.float32)
    found = np.asarray(descending_order(jnp.asarray(values), jnp.ones(size, bool)))
    assert np.array_equal(np.sort(found), np.arange(size))
    assert (np.diff(values[found]) < 2.0**-FRACTION_BITS).all()


def test_accelerators_find_the_same_order(monkeypatch):
    values = jnp.asarray(np.random.default_rng(0).integers(0, 50, (3, 200)) / 64, jnp.float32)
    counted = jnp.asarray(np.random.default_rng(1).random((3, 200)) < 0.5)
    own = descending_order(values, counted)
    monkeypatch.setattr(ranking, "platform", lambda: "gpu")
    np.testing.assert_array_equal(descending_order(values, counted), own)


def test_it_has_no_gradient_and_can_be_vectorized():
    values, counted = jnp.asarray([[0.25, 0.75, 0.5]]), jnp.ones((1, 3), bool)
    gradient = jax.grad(lambda v: jnp.sum(v * descending_order(v, counted)))(values)
    np.testing.assert_array_equal(gradient, [[1, 2, 0]])
    np.testing.assert_array_equal(jax.vmap(descending_order)(values, counted), [[1, 2, 0]])
