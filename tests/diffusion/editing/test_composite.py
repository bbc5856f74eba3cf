"""Compositing, in the pixels that are written."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.diffusion.editing.composite import composited, region


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_pixels_are_those_of_the_original_where_the_weight_is_zero(seed):
    original_key, edited_key, weight_key = jax.random.split(jax.random.key(seed), 3)
    original = jax.random.randint(original_key, (2, 5, 6, 3), 0, 256).astype(jnp.uint8)
    edited = jax.random.randint(edited_key, (2, 5, 6, 3), 0, 256).astype(jnp.uint8)
    weight = jnp.clip(jax.random.uniform(weight_key, (2, 5, 6, 1), minval=-1.0, maxval=2.0), 0.0, 1.0)
    found = np.asarray(composited(original, edited, weight))
    assert found.dtype == np.uint8
    outside = np.broadcast_to(np.asarray(weight) == 0.0, found.shape)
    inside = np.broadcast_to(np.asarray(weight) == 1.0, found.shape)
    np.testing.assert_array_equal(found[outside], np.asarray(original)[outside])
    np.testing.assert_array_equal(found[inside], np.asarray(edited)[inside])
    low, high = np.minimum(original, edited), np.maximum(original, edited)
    assert ((found >= low) & (found <= high)).all()


def test_the_region_is_where_anything_of_the_edit_shows():
    np.testing.assert_array_equal(region(jnp.array([0.0, 1e-6, 1.0]).reshape(1, 1, 3, 1)).ravel(), [0, 1, 1])
