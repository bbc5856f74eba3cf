"""The sinusoidal code against its formula, number by number in float64."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from vision.nn.embeddings import fourier_embedding, sinusoidal_embedding


@pytest.mark.parametrize("width", [4, 32, 128])
def test_formula(width):
    times = [0, 1, 7, 250, 999]
    half = width // 2
    angles = [[t * 10_000 ** (-i / (half - 1)) for i in range(half)] for t in times]
    expected = [[math.sin(a) for a in row] + [math.cos(a) for a in row] for row in angles]
    found = sinusoidal_embedding(jnp.array(times), width)
    assert found.shape == (5, width)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=5e-4)  # float32 angles up to 999


def test_fractional_times_and_another_period():
    found = sinusoidal_embedding(jnp.array([0.25, 2.5]), 4, longest=100.0)
    expected = [[math.sin(t), math.sin(t / 100), math.cos(t), math.cos(t / 100)] for t in (0.25, 2.5)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_another_shift():
    """Dhariwal & Nichol 2021: of n frequencies the last is 10,000 ** (-(n - 1) / n)."""
    found = sinusoidal_embedding(jnp.array([2.0]), 4, shift=0.0)
    np.testing.assert_allclose(found, [[math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]], atol=1e-6)


def test_fourier_code():
    values, frequencies = [0.5, -2.0], [0.25, 3.0, 0.1]
    found = fourier_embedding(jnp.array(values), jnp.array(frequencies))
    angles = [[2 * math.pi * v * f for f in frequencies] for v in values]
    expected = [[math.sin(a) for a in row] + [math.cos(a) for a in row] for row in angles]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_all_published_times_differ():
    code = np.asarray(sinusoidal_embedding(jnp.arange(1000), 32))
    distance = np.linalg.norm(code[:, None] - code[None], axis=-1) + 10 * np.eye(1000)
    assert distance.min() > 0.1
