"""Winograd's convolution against sums in float64, and its transforms against the paper's matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_convolution import convolution, kernel_gradient

from vision.nn import winograd
from vision.nn.window import Window

# Lavin & Gray 2016, section 4.1, F(4x4, 3x3)
B_T = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0]]
B_T += [[0, 4, 0, -5, 0, 1]]
G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
]
G += [[0, 0, 1]]
A_T = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


@pytest.mark.parametrize(
    ("transform", "matrix"),
    [
        (winograd.image_transform, np.array(B_T)),
        (winograd.kernel_transform, np.array(G)),
        (winograd.transposed_kernel_transform, np.array(G).T),
        (winograd.result_transform, np.array(A_T)),
        (winograd.transposed_result_transform, np.array(A_T).T),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_transforms_are_the_matrices_of_the_paper(transform, matrix):
    rows = np.float32(np.random.default_rng(0).normal(size=(matrix.shape[1], 3)))
    np.testing.assert_allclose(np.stack(transform(*jnp.asarray(rows))), matrix @ rows, rtol=1e-5, atol=1e-5)


def test_the_matrices_make_a_convolution():
    """Y = A^T [(G g) * (B^T d)] is the correlation of six values with three, exactly."""
    d, g = np.random.default_rng(1).normal(size=6), np.random.default_rng(2).normal(size=3)
    made = np.array(A_T) @ ((np.array(G) @ g) * (np.array(B_T) @ d))
    np.testing.assert_allclose(made, np.correlate(d, g, "valid"), rtol=1e-10)


@pytest.mark.parametrize("working_set", [2**10, 2**23])
@pytest.mark.parametrize(("sides", "padding"), [((8, 8), 1), ((9, 6), 1), ((7, 10), 0), ((3, 5), 2)])
def test_equals_sums_in_float64(monkeypatch, sides, padding, working_set):
    """Also one sample after another, as of sizes beyond the cache."""
    monkeypatch.setattr(winograd, "WORKING_SET", working_set)
    random = np.random.default_rng(3)
    x, k = random.normal(size=(2, *sides, 5)), random.normal(size=(3, 3, 5, 4))
    how = Window(padding=((padding, padding), (padding, padding)))
    y = random.normal(size=how.result_shape(x.shape, k.shape))
    x32, k32, y32 = (each.astype(np.float32) for each in (x, k, y))
    found = jax.jit(lambda x, k, y: _both(x, k, y, padding))(x32, k32, y32)
    for one, other in zip(found, (convolution(x, k, how), kernel_gradient(x, y, k.shape, how)), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5 * np.abs(other).max())


def _both(x, k, y, padding):
    return winograd.winograd_conv(x, k, padding=padding), winograd.winograd_kernel_gradient(x, y, padding=padding)
