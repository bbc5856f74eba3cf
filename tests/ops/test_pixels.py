"""Pixel values between uint8 and [-1, 1], every one of them."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vision.ops.pixels import to_float, to_uint8


def test_every_value_comes_back():
    values = np.arange(256, dtype=np.uint8)
    floats = to_float(jnp.asarray(values))
    assert floats.dtype == jnp.float32
    np.testing.assert_allclose(floats, 2 * np.arange(256) / 255 - 1, atol=1e-7)
    assert (float(floats[0]), float(floats[-1])) == (-1.0, 1.0)
    assert to_uint8(floats).dtype == jnp.uint8
    np.testing.assert_array_equal(to_uint8(floats), values)


@given(st.floats(-1, 1, width=32))
def test_nearest(value):
    """The value found is as near as any of the 256, to float32's rounding."""
    levels = 2 * np.arange(256) / 255 - 1
    found = int(to_uint8(jnp.full((1,), value, jnp.float32))[0])
    assert abs(levels[found] - value) <= np.abs(levels - value).min() + 1e-6


def test_values_outside_are_clipped():
    outside = jnp.array([-jnp.inf, -7.0, -1.0001, 1.0001, 3.0, jnp.inf])
    np.testing.assert_array_equal(to_uint8(outside), [0, 0, 0, 255, 255, 255])
