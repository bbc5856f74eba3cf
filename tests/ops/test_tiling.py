"""Tiles against whole images, for any shapes and for a network; the self-ensemble against eight calls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.errors import UserError
from vision.models.restoration.edsr import Edsr, EdsrConfig
from vision.ops.self_ensemble import self_ensemble
from vision.ops.tiling import TilingConfig, tiled

REACH = 2


def neighbours(images):
    """A sum over 5x5 pixels, with zeros outside, of unequal weights; every pixel twice in each direction."""
    images = np.asarray(images)
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (REACH, REACH), (REACH, REACH), (0, 0)))
    parts = [(1 + i + 7 * j) * padded[:, i : i + height, j : j + width] for i in range(5) for j in range(5)]
    return jnp.asarray(np.repeat(np.repeat(sum(parts), 2, 1), 2, 2))


@settings(max_examples=60)
@given(
    st.integers(12, 40),
    st.integers(12, 40),
    st.integers(6, 12),
    st.integers(1, 4),
    st.sampled_from([1, 2]),
    st.integers(1, 2),
)
def test_tiles_are_the_whole_image(height, width, tile, batch, multiple, images):
    values = np.random.default_rng(0).integers(0, 100, (images, height, width, 1)).astype(np.float32)
    if multiple == 2:
        height, width, tile = height // 2 * 2, width // 2 * 2, tile // 2 * 2
        values = values[:, :height, :width]
    seen = []

    def function(tiles):
        seen.append(tiles.shape)
        return neighbours(tiles)

    found = tiled(function, values, TilingConfig(tile, REACH, batch, multiple), scale=2)
    np.testing.assert_array_equal(found, neighbours(values))
    assert set(seen) == {(batch, tile, tile, 1)}


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 30))
def test_small_images_are_continued_and_cut(height, width):
    values = np.random.default_rng(0).uniform(size=(1, height, width, 3)).astype(np.float32)
    np.testing.assert_array_equal(tiled(lambda x: 2 * x, values, TilingConfig(tile=10, margin=3)), 2 * values)


def test_a_network():
    """EDSR of one block sees 7 pixels to each side: five convolutions before the pixels are split, one after."""
    config = EdsrConfig(blocks=1, width=4)
    image = jax.random.uniform(jax.random.key(0), (1, 37, 45, 3))
    variables = Edsr(config).init(jax.random.key(1), image, train=False)
    run = jax.jit(functools.partial(Edsr(config).apply, variables, train=False))
    found = tiled(run, np.asarray(image), TilingConfig(tile=24, margin=7, batch=2), scale=2)
    np.testing.assert_allclose(found, run(image), rtol=0, atol=1e-5)
    near = tiled(run, np.asarray(image), TilingConfig(tile=24, margin=2, batch=2), scale=2)
    assert np.abs(near - run(image)).max() > 1e-5


def test_refused():
    image = np.zeros((1, 20, 20, 3), np.float32)
    with pytest.raises(UserError, match=r"tiles of 8 pixels .* have no inside without a margin of 4"):
        tiled(lambda x: x, image, TilingConfig(tile=8, margin=4))
    with pytest.raises(UserError, match="tiles of 8 pixels became 8x8, which is not 2 times as large"):
        tiled(lambda x: x, image, TilingConfig(tile=8, margin=1), scale=2)
    with pytest.raises(UserError, match="tile must be at least 1"):
        tiled(lambda x: x, image, TilingConfig(tile=0))


def test_the_self_ensemble_is_the_mean_of_eight():
    image = np.random.default_rng(0).uniform(size=(2, 9, 7, 1)).astype(np.float32)
    total = np.zeros((2, 18, 14, 1))
    for turns in range(4):
        for mirrored in (False, True):
            given = np.rot90(image, turns, (1, 2))
            given = given[:, :, ::-1] if mirrored else given
            made = np.asarray(neighbours(given))
            made = made[:, :, ::-1] if mirrored else made
            total += np.rot90(made, -turns, (1, 2))
    np.testing.assert_allclose(self_ensemble(neighbours)(jnp.asarray(image)), total / 8, rtol=1e-6)
    # a function that does not care is left as it is
    np.testing.assert_allclose(self_ensemble(lambda x: 3 * x)(jnp.asarray(image)), 3 * image, rtol=1e-6)
