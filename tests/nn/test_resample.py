"""Changes of resolution against loops and repetition; gradients by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.nn.resample import depth_to_space, space_to_depth, upsample_nearest, upsample_nearest_to


def _folded(image, p):
    b, h, w, c = image.shape
    out = np.empty((b, h // p, w // p, p * p * c), image.dtype)
    for y in range(h):
        for x in range(w):
            place = (y % p) * p + x % p
            out[:, y // p, x // p, place * c : (place + 1) * c] = image[:, y, x]
    return out


@pytest.mark.parametrize(("shape", "patch"), [((2, 1, 3, 3), 2), ((1, 2, 1, 2), 3), ((2, 3, 2, 1), 1)])
def test_space_to_depth_and_back(shape, patch):
    b, h, w, c = shape
    image = np.random.default_rng(0).normal(size=(b, h * patch, w * patch, c)).astype(np.float32)
    folded = space_to_depth(jnp.asarray(image), patch)
    np.testing.assert_array_equal(folded, _folded(image, patch))
    np.testing.assert_array_equal(depth_to_space(folded, patch), image)


@pytest.mark.parametrize("shape", [(2, 1, 3, 2), (1, 4, 2, 1)])
def test_upsample_is_repetition(shape):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(upsample_nearest(jnp.asarray(image)), image.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize(
    "function",
    [upsample_nearest, lambda x: space_to_depth(x, 2), lambda x: depth_to_space(x, 2)],
    ids=["upsample_nearest", "space_to_depth", "depth_to_space"],
)
def test_gradients(function):
    """The functions are linear: a difference over a step of one is the derivative."""
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 4, 4)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=function(image).shape), jnp.float32)
    value = jax.jit(lambda x: jnp.sum(weight * function(x)))
    found = jax.grad(value)(image)
    basis = np.eye(image.size, dtype=np.float32).reshape(-1, *image.shape)
    expected = [float(value(image + one) - value(image)) for one in basis]
    np.testing.assert_allclose(found.ravel(), expected, atol=2e-5)


def test_patch_must_divide_both_sides():
    with pytest.raises(UserError, match="6x9 pixels cannot be cut into 2x2"):
        space_to_depth(jnp.zeros((1, 6, 9, 3)), 2)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (5, 7), (4, 7), (2, 3)])
def test_repetition_to_sides_that_were_halved_and_rounded(size):
    image = np.random.default_rng(0).normal(size=(2, 2, 3, 1)).astype(np.float32)
    found = upsample_nearest_to(jnp.asarray(image), size)
    if size == (2, 3):
        np.testing.assert_array_equal(found, image)
        return
    rows, columns = (np.minimum(np.arange(length) // 2, side - 1) for length, side in zip(size, (2, 3), strict=True))
    np.testing.assert_array_equal(found, image[:, rows][:, :, columns])
