"""Differences of texts against closed forms."""

import jax.numpy as jnp
import numpy as np

from vision.models.clip.text_difference import text_difference, towards


def test_texts_turn_an_image():
    image, now, before = jnp.array([3.0, 0.0, 0.0]), jnp.array([0.0, 5.0, 0.0]), jnp.array([0.0, 0.0, 2.0])
    difference = text_difference(now, before)
    np.testing.assert_allclose(difference, np.array([0.0, 1.0, -1.0]) / np.sqrt(2), rtol=1e-6)
    made = towards(image, difference, 0.5)
    np.testing.assert_allclose(made, 3 * np.array([np.sqrt(0.5), 0.5, -0.5]), rtol=1e-5)
    np.testing.assert_allclose(towards(image, difference, 0.0), image, atol=1e-6)
    np.testing.assert_array_equal(text_difference(now, 2.0 * now), np.zeros(3))
