"""Degradations: kernels by their formulas, noise by its moments, JPEG against Pillow, the pipeline by its parts.

The golden images are made by make_resize_region_golden.py.
"""

import io
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from PIL import Image

from vision.errors import UserError
from vision.ops.degradations.blur import blurred
from vision.ops.degradations.blur_kernels import bessel_j1, gaussian_kernels, identity_kernels, sinc_kernels
from vision.ops.degradations.jpeg import jpeg, quantization
from vision.ops.degradations.noise import gaussian_noise, poisson_noise
from vision.ops.degradations.real_esrgan import (
    REAL_ESRGAN,
    DegradationStage,
    RealEsrganDegradation,
    real_esrgan,
    stage_kernels,
)
from vision.ops.resize import REGION_METHODS, resize, resize_region
from vision.ranges import check_ranges

GOLDEN = Path(__file__).parents[1] / "golden" / "resize_region.npz"
each = lambda *numbers: jnp.array(numbers, jnp.float32)


def smooth_image(height, width, channels=3, seed=0):
    """A colourful image with edges, float32 [1 h w c] in [0, 1]."""
    rng = np.random.default_rng(seed)
    coarse = jnp.asarray(rng.uniform(size=(1, 5, 6, channels)), jnp.float32)
    image = resize(coarse, (height, width), method="bicubic")
    return jnp.clip(image.at[:, height // 3 : height // 2, width // 4 :].add(0.3), 0, 1)


def test_the_bessel_function():
    x = np.linspace(0, 80, 2001)
    np.testing.assert_allclose(bessel_j1(jnp.asarray(x, jnp.float32)), scipy.special.j1(x), rtol=0, atol=2e-5)


def test_gaussian_kernels_by_the_covariance():
    sigma, angle, shape = each([2.0, 0.7], [1.5, 1.5]), each(0.4, -2.0), each(0.6, 2.3)
    y, x = np.mgrid[-4:5, -4:5]
    grid = np.stack([x, y], -1).astype(float)
    forms = {
        (False, False): lambda q, beta: np.exp(-q / 2),
        (True, False): lambda q, beta: np.exp(-(q**beta) / 2),
        (True, True): lambda q, beta: 1 / (1 + q**beta),
    }
    for (shaped, plateau), form in forms.items():
        found = gaussian_kernels(
            sigma, angle, sizes=jnp.array([9, 5]), grid=9, shape=shape if shaped else None, plateau=plateau
        )
        for index in range(2):
            c, s = np.cos(angle[index]), np.sin(angle[index])
            turn = np.array([[c, -s], [s, c]])
            covariance = turn @ np.diag(np.asarray(sigma[index], float) ** 2) @ turn.T
            expected = form(np.einsum("hwi,ij,hwj->hw", grid, np.linalg.inv(covariance), grid), float(shape[index]))
            if index == 1:
                expected[(abs(x) > 2) | (abs(y) > 2)] = 0
            np.testing.assert_allclose(found[index], expected / expected.sum(), rtol=2e-4, atol=1e-7)


def test_sinc_kernels_by_the_formula():
    cutoff = each(1.1, math.pi)
    found = sinc_kernels(cutoff, sizes=jnp.array([7, 21]), grid=21)
    y, x = np.mgrid[-10:11, -10:11]
    radius = np.hypot(x, y)
    radius[10, 10] = 1
    for index, (w, reach) in enumerate(((1.1, 3), (math.pi, 10))):
        kernel = w * scipy.special.j1(w * radius) / (2 * np.pi * radius)
        kernel[10, 10] = w**2 / (4 * np.pi)
        kernel[(abs(x) > reach) | (abs(y) > reach)] = 0
        np.testing.assert_allclose(found[index], kernel / kernel.sum(), rtol=0, atol=1e-5)


def test_each_image_has_its_kernel():
    images = np.random.default_rng(0).uniform(size=(2, 6, 7, 2)).astype(np.float32)
    kernels = np.random.default_rng(1).uniform(size=(2, 3, 5)).astype(np.float32)[:, :, :3]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    expected = sum(
        kernels[:, i, j, None, None, None] * padded[:, i : i + 6, j : j + 7] for i in range(3) for j in range(3)
    )
    np.testing.assert_allclose(blurred(jnp.asarray(images), jnp.asarray(kernels)), expected, rtol=1e-5)
    np.testing.assert_array_equal(blurred(jnp.asarray(images), identity_kernels(2, 5)), images)
    with pytest.raises(UserError, match="kernels of 13x13 pixels do not blur images of 6x7"):
        blurred(jnp.asarray(images), identity_kernels(2, 13))


def test_moments_of_gaussian_noise():
    images = jnp.full((2, 100, 100, 3), 0.5)
    noise = gaussian_noise(images, each(0.1, 0.02), grey=jnp.array([False, True]), key=jax.random.key(0)) - images
    np.testing.assert_allclose(noise.std((1, 2)), [[0.1] * 3, [0.02] * 3], rtol=0.03)
    assert abs(np.corrcoef(noise[0].reshape(-1, 3).T)[0, 1]) < 0.05
    np.testing.assert_array_equal(noise[1, ..., 0], noise[1, ..., 2])


def test_moments_of_poisson_noise():
    """Of four levels, photons are four; variance is the value over the photons, times the square of the scale."""
    levels = jnp.tile(jnp.array([0.0, 51, 102, 204])[:, None] / 255, (25, 100))
    images = jnp.broadcast_to(levels[None, :, :, None], (2, 100, 100, 3))
    noise = poisson_noise(images, each(1.0, 0.5), grey=jnp.array([False, True]), key=jax.random.key(0)) - images
    for number, value in enumerate((0.0, 0.2, 0.4, 0.8)):
        own = noise[:, number::4]
        np.testing.assert_allclose(own[0].std(), math.sqrt(value / 4), rtol=0.05, atol=1e-6)
        np.testing.assert_allclose(own[1].std(), 0.5 * math.sqrt(value / 4), rtol=0.05, atol=1e-6)
        assert abs(float(own.mean())) < 0.01
    np.testing.assert_allclose(noise[1, ..., 0], noise[1, ..., 2], atol=1e-6)


def pillow(image, quality):
    """What Pillow reads of what it has written."""
    levels = np.round(np.asarray(image[0]) * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels.squeeze()).save(file, "JPEG", quality=quality, subsampling=2)
    return np.asarray(Image.open(file)).reshape(levels.shape).astype(float)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    """The mean difference is below a fifth of a level for grey and two fifths for colours, whatever the sides."""
    image = smooth_image(43, 62, channels)
    run = jax.jit(jpeg)
    for quality in (10, 35, 75, 95):
        found = 255 * np.asarray(run(image, each(quality))[0])
        expected = pillow(image, quality)
        np.testing.assert_allclose(found, np.round(found), atol=1e-4)
        difference = np.abs(found - expected)
        assert difference.mean() < (0.2 if channels == 1 else 0.4)
        # much less than what compression changes
        assert difference.mean() < 0.3 * np.abs(expected - 255 * np.asarray(image[0])).mean()


def test_tables_of_jpeg():
    image = Image.new("RGB", (8, 8))
    for quality in (1, 30, 50, 77, 100):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        table = Image.open(io.BytesIO(file.getvalue())).quantization[0]
        np.testing.assert_array_equal(quantization(each(quality))[0].reshape(-1), table)
    with pytest.raises(UserError, match="JPEG needs images of 1 or 3 channels, got 2"):
        jpeg(jnp.zeros((1, 8, 8, 2)), each(50))


def test_parts_of_images_by_each_method():
    """A method of its own for each image equals that method for all; area by its definition."""
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 12, 10, 1)), jnp.float32)
    sizes, targets = jnp.array([[12, 10], [7, 10], [9, 6]]), jnp.array([[5, 8], [9, 4], [3, 9]])
    by = lambda method: resize_region(images, sizes, targets, size=(9, 9), method=method)
    mixed = by(jnp.array([0, 1, 2]))
    for number, method in enumerate(("bilinear", "bicubic", "area")):
        np.testing.assert_allclose(mixed[number], by(method)[number], atol=1e-6)
    part = np.asarray(images[2, :9, :6, 0])
    rows = part.reshape(3, 3, 6).mean(1)
    expected = [[rows[i, j * 6 // 9 : -(-(j + 1) * 6 // 9)].mean() for j in range(9)] for i in range(3)]
    np.testing.assert_allclose(mixed[2, :3, :, 0], expected, atol=1e-6)
    np.testing.assert_allclose(mixed[2, 3:], jnp.broadcast_to(mixed[2, 2:3], (6, 9, 1)), atol=1e-6)


@pytest.mark.parametrize("method", REGION_METHODS)
def test_parts_of_images_are_pytorchs(method):
    """In the corner of a canvas with something else outside."""
    golden = np.load(GOLDEN)
    image = jnp.pad(jnp.asarray(golden["image"]), ((0, 0), (0, 2), (0, 3), (0, 0)), constant_values=9.0)
    for height, width in ((5, 8), (20, 31), (7, 23)):
        target = jnp.array([[height, width]])
        found = resize_region(image, jnp.array([[12, 10]]), target, size=(height + 2, width + 1), method=method)
        expected = golden[f"{method}_{height}x{width}"]
        np.testing.assert_allclose(found[:, :height, :width], expected, rtol=0, atol=1e-5)


def test_kernels_of_a_stage():
    kernels = jax.jit(lambda key: stage_kernels(DegradationStage(), 400, key=key))(jax.random.key(0))
    np.testing.assert_allclose(kernels.sum((1, 2)), 1, atol=1e-5)
    # a tenth are sinc filters, most of which have negative values
    assert 0.05 < np.mean(np.asarray(kernels.min((1, 2))) < -1e-4) < 0.15
    sides = np.asarray(kernels != 0).any(1).sum(-1)
    assert set(sides % 2) == {1}
    assert sides.max() == 21
    assert 0.125 * 0.6 < np.mean(sides <= 7) < 0.5
    never = stage_kernels(DegradationStage(blur=0.0), 3, key=jax.random.key(0))
    np.testing.assert_array_equal(never, identity_kernels(3, 21))


NOTHING = DegradationStage(blur=0.0, resizing=(0.0, 0.0, 1.0), gaussian=1.0, noise=(0.0, 0.0), quality=(100.0, 100.0))


def test_the_pipeline():
    check_ranges(REAL_ESRGAN)
    images = jnp.concatenate([smooth_image(64, 96), smooth_image(64, 96, seed=1)])
    run = jax.jit(lambda key: real_esrgan(images, scale=2, key=key))
    one, again, other = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    assert one.shape == (2, 32, 48, 3)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.05
    np.testing.assert_allclose(255 * one, np.round(255 * one), atol=1e-4)
    assert one.min() >= 0
    assert one.max() <= 1
    # with nothing switched on, only compression of the highest quality is left
    nothing = RealEsrganDegradation(first=NOTHING, second=NOTHING, final_sinc=0.0)
    same = jax.jit(lambda key: real_esrgan(images, nothing, scale=1, key=key))(jax.random.key(0))
    assert np.abs(same - images).mean() < 2 / 255
    with pytest.raises(UserError, match="images of 64x96 pixels cannot be degraded to a 5th"):
        real_esrgan(images, scale=5, key=jax.random.key(0))
