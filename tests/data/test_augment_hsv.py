"""Hue, saturation and value against colorsys, and the distribution of the factors."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vision.data.augment.hsv import hsv_jitter, scale_hsv
from vision.ops.colour import rgb_to_hsv


def test_factors_scale_as_colorsys_has_it():
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (4, 5, 6, 3)).astype(np.float32)
    factors = np.float32([[1, 1, 1], [1.3, 0.4, 0.7], [0.8, 1.9, 1.6], [2.5, 0, 1]])
    out = np.asarray(jax.jit(scale_hsv)(images, factors))
    for image, factor, got in zip(images, factors, out, strict=True):
        for pixel, result in zip(image.reshape(-1, 3), got.reshape(-1, 3), strict=True):
            h, s, v = np.multiply(colorsys.rgb_to_hsv(*(float(x + 1) / 2 for x in pixel)), factor)
            expected = colorsys.hsv_to_rgb(h % 1, min(s, 1), min(v, 1))
            np.testing.assert_allclose((result + 1) / 2, expected, atol=1e-4)
    np.testing.assert_allclose(out[0], images[0], atol=1e-5)
    assert np.abs(out).max() <= 1 + 1e-6


@pytest.mark.parametrize(("name", "place"), [("hue", 0), ("saturation", 1), ("value", 2)])
def test_factors_are_uniform_and_keep_the_others(name, place):
    # A dim colour of hue 5/12, which stays in range for all factors below 2
    start = np.float32([-0.6, -0.4, -0.5])
    images = jnp.tile(jnp.asarray(start), (1200, 1, 2, 1))
    out = jax.jit(lambda x: hsv_jitter(x, **{name: 0.6}, key=jax.random.key(0)))(images)
    hsv = np.asarray(rgb_to_hsv((out + 1) / 2))[:, 0, 0] / np.asarray(rgb_to_hsv((jnp.asarray(start) + 1) / 2))
    assert stats.kstest(hsv[:, place], stats.uniform(0.4, 1.2).cdf).pvalue > 1e-4
    np.testing.assert_allclose(np.delete(hsv, place, axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(out[:, :, 0], out[:, :, 1])


def test_each_of_the_three_has_its_own_key():
    images = jnp.tile(jnp.array([-0.8, -0.4, -0.6]), (5, 2, 2, 1))
    jitter = lambda **gains: jax.jit(lambda x: hsv_jitter(x, **gains, key=jax.random.key(1)))(images)
    both, alone = jitter(saturation=0.5, value=0.5), jitter(value=0.5)
    np.testing.assert_allclose(both.max(-1), alone.max(-1), atol=1e-6)
    assert float(jnp.abs(both - alone).max()) > 1e-2
    assert hsv_jitter(images, key=jax.random.key(0)) is images
