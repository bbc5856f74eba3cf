"""Denoising against SciPy and against slow loops from the definitions, and by what it does to a noisy image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vision.errors import UserError
from vision.ops.denoise import bilateral_filter, median_filter, non_local_means, total_variation

GENERATOR = np.random.default_rng(0)
SMALL = GENERATOR.uniform(-1, 1, (2, 6, 7, 2)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_median_is_scipys(size):
    images = GENERATOR.uniform(-1, 1, (2, 9, 7, 2)).astype(np.float32)
    expected = ndimage.median_filter(images, size=(1, size, size, 1), mode="reflect")
    np.testing.assert_array_equal(median_filter(jnp.asarray(images), size), expected)


def _padded(image, margin):
    return np.pad(image.astype(np.float64), ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")


def test_bilateral_filter_is_its_definition():
    out = bilateral_filter(jnp.asarray(SMALL), radius=2, sigma_space=1.3, sigma_range=0.4)
    for image, got in zip(SMALL, out, strict=True):
        around = _padded(image, 2)
        for y, x in np.ndindex(image.shape[:2]):
            total, value = 0.0, np.zeros(2)
            for i, j in np.ndindex(5, 5):
                other = around[y + i, x + j]
                closeness = np.exp(-0.5 * ((i - 2) ** 2 + (j - 2) ** 2) / 1.3**2)
                similarity = np.exp(-0.5 * np.sum((other - image[y, x]) ** 2) / 0.4**2)
                total += closeness * similarity
                value += closeness * similarity * other
            np.testing.assert_allclose(got[y, x], value / total, atol=1e-5)


@pytest.mark.parametrize(("patch", "search"), [(0, 1), (1, 2)])
def test_non_local_means_is_its_definition(patch, search):
    out = non_local_means(jnp.asarray(SMALL), patch_radius=patch, search_radius=search, strength=0.7)
    side = np.arange(-patch, patch + 1)
    gauss = np.exp(-(side[:, None] ** 2 + side**2) / (2 * (max(patch, 1) / 2) ** 2))[:, :, None]
    gauss = gauss / gauss.sum()
    for image, got in zip(SMALL, out, strict=True):
        around = _padded(image, patch + search)
        patch_at = lambda y, x, around=around: around[y : y + 2 * patch + 1, x : x + 2 * patch + 1]
        for y, x in np.ndindex(image.shape[:2]):
            total, value = 0.0, np.zeros(2)
            own = patch_at(y + search, x + search)
            for i, j in np.ndindex(2 * search + 1, 2 * search + 1):
                distance = np.sum(gauss * (patch_at(y + i, x + j) - own) ** 2) / 2
                weight = np.exp(-distance / 0.7**2)
                total += weight
                value += weight * around[y + i + patch, x + j + patch]
            np.testing.assert_allclose(got[y, x], value / total, atol=1e-5)


@pytest.fixture(scope="module")
def noisy():
    """An image of flat pieces, and the same with noise of deviation 0.2: [1 32 32 1] each."""
    clean = np.full((1, 32, 32, 1), -0.6, np.float32)
    clean[:, 8:, 10:] = 0.5
    clean[:, 20:28, 4:24] = 0.0
    noise = np.random.default_rng(1).normal(0, 0.2, clean.shape).astype(np.float32)
    return clean, jnp.asarray(clean + noise)


@pytest.mark.parametrize(
    ("method", "most"),
    [
        (lambda x: median_filter(x, 3), 0.6),
        (lambda x: bilateral_filter(x, radius=3, sigma_space=2.0, sigma_range=0.5), 0.5),
        (lambda x: non_local_means(x, patch_radius=2, search_radius=6, strength=0.2), 0.5),
    ],
    ids=["median", "bilateral", "non-local means"],
)
def test_less_error_than_the_noisy_image(noisy, method, most):
    """The root mean square error, as a share of the noise's, is at most ``most``."""
    clean, image = noisy
    error = lambda other: float(np.sqrt(np.mean((np.asarray(other) - clean) ** 2)))
    assert error(jax.jit(method)(image)) < most * error(image)


def test_edges_are_kept_where_a_blur_would_not(noisy):
    """On a clean step the median and the bilateral filter change nothing; a mean of the window would by a third."""
    step = jnp.where(jnp.arange(12)[:, None, None] < 6, -1.0, 1.0) * jnp.ones((1, 12, 12, 1))
    np.testing.assert_array_equal(median_filter(step, 3), step)
    np.testing.assert_allclose(bilateral_filter(step, radius=1, sigma_space=1.0, sigma_range=0.1), step, atol=1e-6)
    assert float(jnp.abs(bilateral_filter(step, radius=1, sigma_space=9.0, sigma_range=99.0) - step).max()) > 0.6


def test_what_cannot_be_done_is_said():
    image = jnp.zeros((1, 4, 4, 1))
    with pytest.raises(UserError, match="an odd size, got 4"):
        median_filter(image, 4)
    with pytest.raises(UserError, match="4x4 pixels are too small for a window of 5 pixels to each side"):
        median_filter(image, 11)
    with pytest.raises(UserError, match=r"sigma_range must be positive, got 0\.0"):
        bilateral_filter(image, radius=1, sigma_space=1.0, sigma_range=0.0)
    with pytest.raises(UserError, match="patch_radius must not be negative, got -1"):
        non_local_means(image, patch_radius=-1, search_radius=1, strength=1.0)


def test_total_variation_of_a_step_is_known():
    """Of a step between n and m columns the minimum moves both sides by the weight over their number of columns."""
    image = np.zeros((1, 3, 8, 2), np.float32)
    image[:, :, 3:] = 1.0
    made = total_variation(jnp.asarray(image[..., :1]), weight=0.3, steps=3000)
    np.testing.assert_allclose(made[0, :, :3, 0], 0.3 / 3, atol=1e-4)
    np.testing.assert_allclose(made[0, :, 3:, 0], 1.0 - 0.3 / 5, atol=1e-4)
    # of two equal channels together, the norm of the gradient is larger by the root of 2
    both = total_variation(jnp.asarray(image), weight=0.3, steps=3000)
    np.testing.assert_allclose(both[0, :, :3], 0.3 / 3 / np.sqrt(2), atol=1e-4)


def test_total_variation_keeps_the_mean_and_flattens():
    image = np.random.default_rng(0).random((2, 9, 7, 3), np.float32)
    made = jax.jit(lambda x, weight: total_variation(x, weight=weight, steps=400))(image, 5.0)
    np.testing.assert_allclose(made.mean((1, 2)), image.mean((1, 2)), atol=1e-4)
    assert np.ptp(np.asarray(made), axis=(1, 2)).max() < 0.05
    with pytest.raises(UserError, match="weight must be positive, got 0"):
        total_variation(jnp.asarray(image), weight=0.0)
