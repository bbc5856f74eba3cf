"""Spectral normalisation against numpy's singular values."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.nn.spectral_norm import SpectralConv, SpectralDense, SpectralEmbed, power_iteration


def largest(kernel):
    return np.linalg.svd(np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]), compute_uv=False)[0]


def test_power_iteration_converges_to_the_largest_singular_value_from_below():
    matrix = np.random.default_rng(0).normal(size=(30, 12)).astype(np.float32)
    vector, found = jnp.ones(12) / np.sqrt(12), []
    for _ in range(100):
        sigma, vector = power_iteration(jnp.asarray(matrix), vector)
        found.append(float(sigma))
    assert np.all(np.diff(found) > -1e-5)
    np.testing.assert_allclose(found[-1], largest(matrix), rtol=1e-5)
    right = np.linalg.svd(matrix)[2][0]
    np.testing.assert_allclose(np.abs(vector @ right), 1.0, rtol=1e-5)


def test_gradient_is_the_outer_product_of_the_singular_vectors():
    matrix = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    left, _, right = np.linalg.svd(matrix)
    gradient = jax.grad(lambda m: power_iteration(m, jnp.asarray(right[0]))[0])(jnp.asarray(matrix))
    np.testing.assert_allclose(gradient, np.outer(left[:, 0], right[0]), atol=1e-5)


LAYERS = {
    "conv": (SpectralConv(5, size=3), (2, 6, 6, 4)),
    "pointwise": (SpectralConv(5, size=1), (2, 6, 6, 4)),
    "strided": (SpectralConv(5, size=4, strides=2), (2, 6, 6, 4)),
    "dense": (SpectralDense(5), (2, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_divide_by_the_spectral_norm(name):
    layer, shape = LAYERS[name]
    x = jax.random.normal(jax.random.key(0), shape)
    variables = layer.init(jax.random.key(1), x, train=False)
    kernel = variables["params"]["kernel"]
    step = jax.jit(lambda v: layer.apply(v, x, train=True, mutable=["spectral"])[1]["spectral"])
    moved = variables
    for _ in range(60):
        moved = {**moved, "spectral": step(moved)}
    assert not np.allclose(moved["spectral"]["u"], variables["spectral"]["u"])
    plain = layer.clone(spectral=False)
    expected = plain.apply({"params": {**variables["params"], "kernel": kernel / largest(kernel)}}, x, train=False)
    np.testing.assert_allclose(layer.apply(moved, x, train=False), expected, rtol=1e-4, atol=1e-5)
    # without training nothing moves, and nothing needs to be mutable
    assert layer.apply(moved, x, train=False).shape == expected.shape


def test_the_vector_moves_once_an_application_and_begins_with_length_one():
    layer = SpectralDense(4)
    x = jnp.ones((1, 3))
    variables = layer.init(jax.random.key(0), x, train=True)
    np.testing.assert_allclose(np.linalg.norm(variables["spectral"]["u"]), 1.0, rtol=1e-5)
    _, moved = layer.apply(variables, x, train=True, mutable=["spectral"])
    _, expected = power_iteration(variables["params"]["kernel"], variables["spectral"]["u"])
    np.testing.assert_allclose(moved["spectral"]["u"], expected, rtol=1e-6)


def test_a_table_of_classes_is_normalised_as_a_matrix():
    layer = SpectralEmbed(3, 5)
    label = jnp.array([2, 0])
    variables = layer.init(jax.random.key(0), label, train=False)
    table = variables["params"]["embedding"]
    right = jnp.asarray(np.linalg.svd(table)[2][0])
    found = layer.apply({**variables, "spectral": {"u": right}}, label, train=False)
    np.testing.assert_allclose(found, table[label] / largest(table), rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "strides", "side"), [(3, 1, 5), (1, 1, 5), (4, 2, 6), (3, 2, 6), (4, 1, 5), (4, 2, 7)]
)
def test_plain_is_an_ordinary_convolution(size, strides, side):
    x = jax.random.normal(jax.random.key(0), (2, side, side, 3))
    layer = SpectralConv(4, size=size, strides=strides, spectral=False)
    variables = layer.init(jax.random.key(1), x, train=False)
    assert set(variables) == {"params"}
    before = (size - 1) // 2
    after = size - 1 - before if strides == 1 else max(size - strides, before) - before
    border = ((before, after),) * 2
    other = nn.Conv(4, (size, size), strides=strides, padding=border)
    expected = other.apply({"params": variables["params"]}, x)
    np.testing.assert_allclose(layer.apply(variables, x, train=False), expected, rtol=1e-5, atol=1e-5)
    assert expected.shape[1] == (side // strides)
