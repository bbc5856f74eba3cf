"""Losses of style against loops and closed forms: Gatys et al. 2016, eq. 1 to 7; guides; total variation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.tasks.style import (
    StyleLossConfig,
    feature_distance,
    gram_distance,
    gram_matrix,
    guides_at,
    style_loss,
    total_variation,
)


def features(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_gram_matrix_is_the_sum_over_pixels():
    found = features(2, 3, 4, 5)
    expected = np.zeros((2, 5, 5))
    for b, y, x in np.ndindex(2, 3, 4):
        vector = np.asarray(found)[b, y, x]
        expected[b] += np.outer(vector, vector) / 12
    np.testing.assert_allclose(gram_matrix(found), expected, rtol=1e-5, atol=1e-6)


def test_layer_loss_is_that_of_the_paper():
    """Eq. 3 and 4 with sums over pixels."""
    one, other = features(1, 4, 6, 3), features(1, 4, 6, 3, seed=1)
    flat = [np.asarray(each, np.float64).reshape(24, 3) for each in (one, other)]
    first, second = (each.T @ each for each in flat)
    expected = np.sum(np.square(first - second)) / (4 * 3**2 * 24**2)
    np.testing.assert_allclose(gram_distance(gram_matrix(one), gram_matrix(other))[0], expected, rtol=1e-5)


def test_gradients_are_those_of_the_paper():
    """Eq. 6 of the style loss of a layer, and eq. 2 of the content loss."""
    found, target = features(1, 4, 6, 3), features(1, 4, 6, 3, seed=1)
    wanted = gram_matrix(target)
    made = jax.grad(lambda x: gram_distance(gram_matrix(x), wanted)[0])(found)
    flat = np.asarray(found, np.float64).reshape(24, 3)
    difference = flat.T @ flat - np.asarray(wanted[0], np.float64) * 24
    np.testing.assert_allclose(made.reshape(24, 3), flat @ difference / (3**2 * 24**2), rtol=1e-4, atol=1e-6)
    made = jax.grad(lambda x: feature_distance(x, target)[0])(found)
    np.testing.assert_allclose(made, 2 * (found - target) / (24 * 3), rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**16))
def test_gram_matrices_know_no_places(seed):
    found = np.random.default_rng(seed).normal(size=(1, 4, 5, 3)).astype(np.float32)
    mixed = np.random.default_rng(seed).permutation(found.reshape(20, 3)).reshape(1, 5, 4, 3)
    one, other = gram_matrix(jnp.asarray(found)), gram_matrix(jnp.asarray(mixed))
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.linalg.eigvalsh(one[0]).min() > -1e-5


def test_guides():
    """A guide of ones is none; one that is 0 on some pixels leaves the others; none at all gives 0."""
    found = features(1, 4, 6, 3)
    np.testing.assert_allclose(gram_matrix(found, jnp.full((1, 4, 6), 0.3)), gram_matrix(found), rtol=1e-5, atol=1e-6)
    left = jnp.zeros((1, 4, 6)).at[:, :, :2].set(1.0)
    np.testing.assert_allclose(gram_matrix(found, left), gram_matrix(found[:, :, :2]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(gram_matrix(found, jnp.zeros((1, 4, 6))), np.zeros((1, 3, 3)))
    masks = jnp.zeros((1, 8, 12)).at[:, :, :4].set(1.0)
    np.testing.assert_allclose(guides_at(masks, {"a": found})["a"], left)


def test_several_styles():
    config = StyleLossConfig(style_layers=("a", "b"), layer_weights=(0.5, 2.0))
    found = {"a": features(1, 4, 6, 3), "b": features(1, 2, 3, 4)}
    grams = {"a": features(2, 3, 3, seed=1), "b": features(2, 4, 4, seed=2)}
    weights = jnp.array([0.7, 0.2])
    expected = sum(
        layer * float(weights[n]) * float(np.mean(np.square(gram_matrix(found[name])[0] - grams[name][n]))) / 4
        for name, layer in config.weights().items()
        for n in range(2)
    )
    np.testing.assert_allclose(style_loss(found, grams, config, weights=weights), expected, rtol=1e-5)
    guides = {name: jnp.ones((2, *of.shape[1:3])) for name, of in found.items()}
    np.testing.assert_allclose(style_loss(found, grams, config, weights=weights, guides=guides), expected, rtol=1e-4)


def test_total_variation():
    image = np.asarray(features(1, 3, 4, 2))
    rows = [(image[0, y + 1, x, c] - image[0, y, x, c]) ** 2 for y, x, c in np.ndindex(2, 4, 2)]
    columns = [(image[0, y, x + 1, c] - image[0, y, x, c]) ** 2 for y, x, c in np.ndindex(3, 3, 2)]
    assert float(total_variation(jnp.asarray(image))[0]) == pytest.approx(np.mean(rows) + np.mean(columns), rel=1e-5)
