"""Colour jitter: the sampled factors, read off the result, and the order of the changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vision.data.augment.colour import colour_jitter
from vision.ops import colour

# A dark grey and a dim colour, which stay in range for all factors below 2
GREY = jnp.full((1500, 2, 2, 3), -0.5)
PATCHES = GREY.at[:, 0].set(-0.6).at[:, 1].set(-0.2)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("brightness", lambda out: (out[:, 0, 0, 0] + 1) / (PATCHES[:, 0, 0, 0] + 1)),
        ("contrast", lambda out: (out[:, 1, 0, 0] - out[:, 0, 0, 0]) / 0.4),
    ],
)
def test_factors_are_uniform(name, read):
    factor = np.asarray(read(colour_jitter(PATCHES, **{name: 0.6}, key=jax.random.key(0))))
    assert stats.kstest(factor, stats.uniform(0.4, 1.2).cdf).pvalue > 1e-4
    large = np.asarray(read(colour_jitter(PATCHES, **{name: 1.2}, key=jax.random.key(0))))
    assert large.min() >= -1e-5  # not from a negative factor


def test_hues_are_uniform_both_ways():
    red = jnp.tile(jnp.array([0.8, -0.8, -0.8]), (1500, 1, 1, 1))
    out = colour_jitter(red, hue=0.2, key=jax.random.key(1))
    turn = np.asarray(colour.rgb_to_hsv((out + 1) / 2))[:, 0, 0, 0]
    turn = np.where(turn > 0.5, turn - 1, turn)
    assert stats.kstest(turn, stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-4


def test_the_order_is_fixed_and_each_change_has_its_own_key():
    images = jax.random.uniform(jax.random.key(2), (5, 6, 6, 3), minval=-1, maxval=1)
    key = jax.random.key(3)

    @jax.jit
    def both(images):
        draw = lambda key, low, high: jax.random.uniform(key, (5,), minval=low, maxval=high)
        keys = jax.random.split(key, 4)
        out = colour.brightness(images, draw(keys[0], 0.5, 1.5))
        out = colour.contrast(out, draw(keys[1], 0.6, 1.4))
        out = colour.saturation(out, draw(keys[2], 0.0, 2.5))
        out = colour.hue(out, draw(keys[3], -0.1, 0.1))
        return out, colour_jitter(images, brightness=0.5, contrast=0.4, saturation=1.5, hue=0.1, key=key)

    np.testing.assert_allclose(*both(images), atol=1e-6)


def test_no_strength_is_no_change():
    assert colour_jitter(PATCHES, key=jax.random.key(0)) is PATCHES
