"""Interpolation along great circles against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.ops.spherical import slerp

VECTORS = jax.random.normal(jax.random.key(0), (2, 64, 5)) * 3.0


def angle(one, other):
    one, other = (np.asarray(x, np.float64) / np.linalg.norm(x, axis=-1, keepdims=True) for x in (one, other))
    return np.arccos(np.clip((one * other).sum(-1), -1, 1))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_arc_is_divided_and_lengths_are_between(share):
    one, other = VECTORS
    made = slerp(one, other, share)
    whole = angle(one, other)
    np.testing.assert_allclose(angle(one, made), share * whole, atol=2e-3)
    np.testing.assert_allclose(angle(made, other), (1 - share) * whole, atol=2e-3)
    length = lambda x: np.linalg.norm(x, axis=-1)
    np.testing.assert_allclose(length(made), (1 - share) * length(one) + share * length(other), rtol=1e-5)


def test_a_quarter_turn():
    made = slerp(jnp.array([2.0, 0.0]), jnp.array([0.0, 2.0]), jnp.array(1 / 3))
    np.testing.assert_allclose(made, [2 * np.cos(np.pi / 6), 2 * np.sin(np.pi / 6)], rtol=1e-6)


def test_one_share_for_each():
    shares = jnp.linspace(0, 1, 64)
    made = slerp(*VECTORS, shares)
    for index in (0, 9, 63):
        np.testing.assert_allclose(made[index], slerp(VECTORS[0, index], VECTORS[1, index], shares[index]), atol=1e-6)


@given(st.floats(0.0, 1.0, width=32), st.sampled_from([0.0, 1e-8, 1e-5, 1e-3, 1e-2]), st.booleans())
def test_near_and_opposite_directions_are_finite(share, gap, opposite):
    one = jnp.array([1.0, 0.0, 0.0])
    other = (-1.0 if opposite else 1.0) * jnp.array([1.0, gap, 0.0])
    made = slerp(one, other, share)
    assert np.isfinite(made).all()
    if not opposite:
        np.testing.assert_allclose(made, [1.0, share * gap, 0.0], atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(made), 1.0, atol=1e-3)
