"""Rows of noise against those of JAX, and their independence of the rows they are computed with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vision.diffusion.noise import normal_rows

KEY = jax.random.key(11)


@pytest.mark.parametrize(("count", "shape"), [(1, (1,)), (5, (4, 3, 3)), (300, (2, 2, 1)), (3, ())])
def test_the_first_rows_are_those_of_jax(count, shape):
    found = normal_rows(KEY, jnp.arange(count), shape)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, jax.random.normal(KEY, (count, *shape)))


def test_a_row_depends_on_its_number_alone():
    rows = normal_rows(KEY, jnp.arange(10), (3, 2))
    np.testing.assert_array_equal(normal_rows(KEY, jnp.array([7, 2, 7]), (3, 2)), rows[jnp.array([7, 2, 7])])
    assert (normal_rows(jax.random.key(12), jnp.arange(10), (3, 2)) != rows).all()
    keys = jax.random.split(KEY, 2)
    each = jnp.stack([normal_rows(key, jnp.arange(3), (2,)) for key in keys])
    np.testing.assert_array_equal(jax.vmap(lambda key: normal_rows(key, jnp.arange(3), (2,)))(keys), each)


@pytest.mark.parametrize("index", [1, 2**15 + 3, 2**20 + 12_345, 2**29 + 777_777])
def test_positions_of_more_than_32_bits(index):
    """One row of 2^17 + 6 numbers is two of half the length, wherever it stands."""
    size = 2**17 + 6
    row = normal_rows(KEY, jnp.array([index]), (size,))
    halves = normal_rows(KEY, jnp.array([2 * index, 2 * index + 1]), (size // 2,))
    np.testing.assert_array_equal(row[0], halves.ravel())
    assert stats.kstest(np.asarray(row[0]), "norm").pvalue > 1e-6
    first = normal_rows(KEY, jnp.array([0]), (size,))
    assert (row != first).mean() > 0.99
