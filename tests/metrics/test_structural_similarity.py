"""SSIM and MS-SSIM against scikit-image, pytorch-msssim and loops; what equal images give.

The golden values are made by make_similarity_golden.py.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from similarity_images import pairs

from vision.errors import UserError
from vision.metrics.reconstruction.structural_similarity import (
    SCALE_WEIGHTS,
    SMALLEST,
    multiscale_structural_similarity,
    structural_similarity,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "similarity.npz"


ssim = jax.jit(structural_similarity)
multiscale = jax.jit(multiscale_structural_similarity)
LEAST = (2, SMALLEST, SMALLEST, 1)


def _to_range(images):
    """[0, 1] to the range of the device."""
    return tuple(2 * image - 1 for image in images)


def _noise(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize(("name", "shape"), [("colour", (27, 34, 3)), ("grey", (16, 11, 1))])
def test_ssim_is_scikit_images(name, shape):
    golden = np.load(GOLDEN)[f"ssim_{name}"]
    assert golden.min() < 0.6
    # float32 in [-1, 1] has no more digits of dark windows
    np.testing.assert_allclose(ssim(*_to_range(pairs(*shape))), golden, rtol=0, atol=3e-6)


def test_ssim_by_definition():
    """Wang et al. 2004, eqs. 13 to 16, in float64 with weights in two dimensions, window by window."""
    image, reference = (array[2].astype(float) for array in pairs(14, 13, 2))
    y, x = np.mgrid[-5:6, -5:6]
    weights = np.exp(-(x**2 + y**2) / (2 * 1.5**2))[..., None]
    weights /= weights.sum()
    values = []
    for i, j in np.ndindex(4, 3):
        one, other = image[i : i + 11, j : j + 11], reference[i : i + 11, j : j + 11]
        mean = lambda values: (weights * values).sum((0, 1))
        mu_x, mu_y = mean(one), mean(other)
        covariance = mean((one - mu_x) * (other - mu_y))
        variances = mean((one - mu_x) ** 2) + mean((other - mu_y) ** 2)
        luminance = (2 * mu_x * mu_y + 0.01**2) / (mu_x**2 + mu_y**2 + 0.01**2)
        values.append(luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2))
    found = ssim(*_to_range(pairs(14, 13, 2)))[2]
    np.testing.assert_allclose(found, np.mean(values), rtol=0, atol=3e-6)


def test_multiscale_is_pytorch_msssims():
    golden = np.load(GOLDEN)["ms_ssim"]
    assert golden.min() < 0.9
    np.testing.assert_allclose(multiscale(*_to_range(pairs(176, 192, 3))), golden, rtol=0, atol=1e-6)
    np.testing.assert_allclose(sum(SCALE_WEIGHTS), 1.0, atol=1e-4)


@pytest.mark.parametrize(("function", "shape"), [(ssim, (2, 21, 19, 3)), (multiscale, LEAST)], ids=["one", "five"])
def test_equal_images_and_order(function, shape):
    """Exactly 1, less for others, and the same either way."""
    images, noise = _noise(shape), 0.1 * _noise(shape, seed=1)
    np.testing.assert_array_equal(function(images, images), np.ones(2))
    other = (images + noise).clip(-1, 1)
    there, back = function(images, other), function(other, images)
    assert float(there.max()) < 0.999
    np.testing.assert_allclose(there, back, rtol=1e-5)
    np.testing.assert_array_equal(function(np.ones(shape, np.float32), np.ones(shape, np.float32)), np.ones(2))


def test_gradients():
    """Zero at equal images, where the maximum is; finite where a scale's mean is negative."""

    @jax.jit
    def gradients(image, reference):
        one = jax.grad(lambda x: structural_similarity(x, reference[:, :16, :16]).sum())(image[:, :16, :16])
        return one, jax.grad(lambda x: multiscale_structural_similarity(x, reference).sum())(image)

    image = _noise(LEAST)
    for equal in (image, np.zeros(LEAST, np.float32)):
        for gradient in gradients(equal, equal):
            np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=1e-6)
    assert np.asarray(multiscale(image, -image)).tolist() == [0.0, 0.0]
    for gradient in gradients(image, -image):
        assert np.isfinite(gradient).all()


def test_the_range_of_values():
    """The same images in [-1, 1], in [0, 1] and in levels."""
    image, reference = pairs(16, 11, 1)
    expected = ssim(*_to_range((image, reference)))
    for scale in (1.0, 255.0):
        found = jax.jit(partial(structural_similarity, value_range=(0.0, scale)))(scale * image, scale * reference)
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


def test_images_too_small():
    small = jnp.zeros((1, 10, 32, 3))
    with pytest.raises(UserError, match="10x32 pixels are too small for the window of SSIM, which needs 11 pixels"):
        structural_similarity(small, small)
    small = jnp.zeros((1, 176, 175, 3))
    with pytest.raises(UserError, match="176x175 pixels are too small for 5 scales of MS-SSIM, which needs 176 pixels"):
        multiscale_structural_similarity(small, small)
