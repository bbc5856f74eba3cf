"""Offsets of boxes from references: the definition, the inverse, and its limit."""

import math

import jax.numpy as jnp
import numpy as np

from vision.ops.box_coding import decode, encode


def test_the_definition():
    """A reference of 10 x 20 around (5, 10), a box of 20 x 10 around (10, 15)."""
    found = encode(jnp.array([0.0, 10.0, 20.0, 20.0]), jnp.array([0.0, 0.0, 10.0, 20.0]))
    np.testing.assert_allclose(found, [0.5, 0.25, math.log(2), -math.log(2)], rtol=1e-6)
    weighted = encode(
        jnp.array([0.0, 10.0, 20.0, 20.0]), jnp.array([0.0, 0.0, 10.0, 20.0]), weights=(10.0, 10.0, 5.0, 5.0)
    )
    np.testing.assert_allclose(weighted, found * np.array([10, 10, 5, 5]), rtol=1e-6)


def test_decoding_is_the_inverse():
    random = np.random.default_rng(0)
    low = random.uniform(0, 300, (2, 2, 50, 2))
    boxes = np.concatenate([low, low + random.uniform(5, 200, low.shape)], axis=-1).astype(np.float32)
    weights = (10.0, 10.0, 5.0, 5.0)
    one, other = map(jnp.asarray, boxes)
    again = decode(encode(one, other, weights=weights), other, weights=weights)
    np.testing.assert_allclose(again, one, rtol=1e-4, atol=1e-2)


def test_predictions_of_any_size_are_finite():
    found = decode(jnp.array([[0.0, 0.0, 1e4, 4.0], [0.0, 0.0, -1e4, -1e4]]), jnp.array([[0.0, 0.0, 16.0, 1.0]]))
    np.testing.assert_allclose(found[0, 2] - found[0, 0], 1000.0, rtol=1e-5)
    np.testing.assert_allclose(found[0, 3] - found[0, 1], math.exp(4.0), rtol=1e-5)
    np.testing.assert_allclose(found[1], [8, 0.5, 8, 0.5])
