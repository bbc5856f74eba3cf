"""Max pooling by slices against Flax's by windows; means over a grid cell by cell."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.nn.pooling import average_pool_to, max_pool_2x2, max_pool_3x3, max_pool_5x5, mean_pool_2x2

WINDOWS = {
    max_pool_2x2: partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2)),
    max_pool_3x3: partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1))),
    max_pool_5x5: partial(nn.max_pool, window_shape=(5, 5), padding=((2, 2), (2, 2))),
}


@pytest.mark.parametrize("pool", WINDOWS)
def test_equals_windows_with_their_gradient(pool):
    """For even and odd sides; with negative values, which a border of zeros would hide."""
    generator = np.random.default_rng(0)
    shapes = [(2, 6, 8, 3), (2, 7, 5, 3), (2, 2, 3, 3), (2, 8, 9, 3)]
    images = [generator.normal(size=shape).astype(np.float32) - 3 for shape in shapes]

    def weighted(pool, image):
        out = pool(image)
        return jnp.sum(out * jnp.sin(jnp.arange(out.size).reshape(out.shape))), out

    run = lambda pool: [jax.grad(partial(weighted, pool), has_aux=True)(image) for image in images]
    found, expected = jax.jit(lambda: (run(pool), run(WINDOWS[pool])))()
    for (gradient, out), (gradient_expected, out_expected) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(out, out_expected)
        np.testing.assert_allclose(gradient, gradient_expected, rtol=1e-5)


@pytest.mark.parametrize("pool", WINDOWS)
def test_equal_maxima_share_the_gradient(pool):
    gradient = jax.jit(jax.grad(lambda x: pool(x).sum()))(jnp.zeros((1, 6, 6, 1)))
    assert gradient.sum() == pool(jnp.zeros((1, 6, 6, 1))).size
    assert (gradient > 0).sum() > 9  # no one of equals takes it all
    assert jax.eval_shape(pool, jnp.zeros((1, 4, 4, 2), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [(7, 7), (3, 2), (14, 21), (8, 11), (1, 1)])
def test_means_over_a_grid(size):
    """Cells from floor(i h / H) to ceil((i + 1) h / H), which overlap; a single pixel is repeated."""
    features = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    found = average_pool_to(jnp.asarray(features), (7, 5))
    assert found.shape == (2, 7, 5, 3)
    for row, column in np.ndindex(7, 5):
        (top, bottom), (left, right) = (
            (int(np.floor(index * length / cells)), int(np.ceil((index + 1) * length / cells)))
            for index, length, cells in ((row, size[0], 7), (column, size[1], 5))
        )
        cell = features[:, top:bottom, left:right].mean((1, 2))
        np.testing.assert_allclose(found[:, row, column], cell, rtol=1e-5, atol=1e-6)


def test_means_of_2x2_equal_windows_with_their_gradient():
    """For even and odd sides."""
    windows = partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2))
    value = lambda pool, x: jnp.sum(jnp.sin(3 * pool(x)))
    for shape in ((2, 6, 8, 3), (2, 7, 5, 3)):
        image = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        found, expected = ((pool(image), jax.grad(partial(value, pool))(image)) for pool in (mean_pool_2x2, windows))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
