"""Changes of colour against Pillow's ImageEnhance and ImageOps, and the hue against colorsys."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vision.errors import UserError
from vision.ops import colour
from vision.ops.pixels import to_float, to_uint8


def _pictures():
    """uint8 [6 24 20 3]: noise, a dark one, one of low contrast, a smooth one, one of few levels, and a flat one."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (24, 20, 3))
    smooth = np.add.outer(np.arange(24) * 3, np.arange(20) * 5)[:, :, None] + np.array([0, 40, 80])
    few = generator.choice([0, 7, 200], (24, 20, 3), p=[0.6, 0.3, 0.1])
    flat = np.full((24, 20, 3), (10, 100, 250))
    return np.stack([noise, noise // 9, 90 + noise // 6, smooth, few, flat]).astype(np.uint8)


PICTURES = _pictures()
IMAGES = to_float(jnp.asarray(PICTURES))


def _levels(images):
    return np.asarray(to_uint8(images)).astype(int)


def _pillow(function):
    return np.stack([np.asarray(function(Image.fromarray(picture))) for picture in PICTURES]).astype(int)


ENHANCEMENTS = {
    "brightness": (colour.brightness, ImageEnhance.Brightness),
    "contrast": (colour.contrast, ImageEnhance.Contrast),
    "saturation": (colour.saturation, ImageEnhance.Color),
    "sharpness": (colour.sharpness, ImageEnhance.Sharpness),
}


@pytest.mark.parametrize("name", ENHANCEMENTS)
def test_enhancements_are_pillows(name):
    ours, theirs = ENHANCEMENTS[name]
    change = jax.jit(ours)
    for factor in (0.0, 0.1, 0.7, 1.0, 1.3, 1.9):
        expected = _pillow(lambda image, factor=factor: theirs(image).enhance(factor))
        out = change(IMAGES, jnp.full(1, factor))
        assert np.abs(_levels(out) - expected).max() <= 1
        assert float(jnp.abs(out).max()) <= 1
    np.testing.assert_allclose(change(IMAGES, jnp.ones(1)), IMAGES, atol=1e-6)
    # Each sample by a strength of its own, equal to the same strength for all
    factors = jnp.linspace(0.2, 1.8, len(PICTURES))
    each = change(IMAGES, factors)
    for i, factor in enumerate(factors):
        np.testing.assert_allclose(each[i], change(IMAGES, factor[None])[i], atol=1e-6)


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_is_pillows(bits):
    expected = _pillow(lambda image: ImageOps.posterize(image, bits))
    np.testing.assert_array_equal(_levels(colour.posterize(IMAGES, bits)), expected)


@pytest.mark.parametrize("threshold", [0, 1, 100, 255, 256])
def test_solarize_is_pillows(threshold):
    expected = _pillow(lambda image: ImageOps.solarize(image, threshold))
    np.testing.assert_array_equal(_levels(colour.solarize(IMAGES, threshold)), expected)


@pytest.mark.parametrize("name", ["autocontrast", "invert"])
def test_operations_without_a_strength_are_pillows(name):
    expected = _pillow(getattr(ImageOps, name))
    assert np.abs(_levels(getattr(colour, name)(IMAGES)) - expected).max() <= 1


def test_equalize_is_pillows_to_the_level():
    """Images of more and of fewer than 256 pixels, and one of a single level, all exact."""
    np.testing.assert_array_equal(_levels(colour.equalize(IMAGES)), _pillow(ImageOps.equalize))
    small = PICTURES[:, :10, :10]
    expected = np.stack([np.asarray(ImageOps.equalize(Image.fromarray(picture))) for picture in small])
    np.testing.assert_array_equal(_levels(colour.equalize(to_float(jnp.asarray(small)))), expected)


def test_equalized_levels_are_about_equally_frequent():
    ramp = jnp.linspace(-1, 1, 64 * 64).reshape(1, 64, 64, 1) ** 3
    share = (np.asarray(colour.equalize(ramp)) + 1) / 2
    np.testing.assert_allclose(np.quantile(share, np.linspace(0, 1, 9)), np.linspace(0, 1, 9), atol=0.04)


def test_greyscale_is_pillows():
    expected = _pillow(lambda image: image.convert("L"))
    assert np.abs(_levels(colour.greyscale(IMAGES))[..., 0] - expected).max() <= 1
    np.testing.assert_allclose(
        colour.mean_luma(IMAGES)[:, 0, 0, 0], colour.greyscale(IMAGES).mean((1, 2, 3)), atol=1e-5
    )
    grey = jnp.full((1, 2, 2, 1), 0.3)
    np.testing.assert_array_equal(colour.greyscale(grey), grey)
    with pytest.raises(UserError, match="1 or 3 channels, got 2"):
        colour.greyscale(jnp.zeros((1, 2, 2, 2)))


def test_hsv_is_that_of_colorsys():
    generator = np.random.default_rng(0)
    corners = np.stack(np.meshgrid([0, 0.5, 1], [0, 0.5, 1], [0, 0.5, 1]), axis=-1).reshape(-1, 3)
    rgb = np.concatenate([corners, generator.uniform(size=(200, 3))]).astype(np.float32)
    hsv = np.asarray(colour.rgb_to_hsv(jnp.asarray(rgb)))
    expected = np.array([colorsys.rgb_to_hsv(*map(float, pixel)) for pixel in rgb])
    np.testing.assert_allclose(np.cos(2 * np.pi * hsv[:, 0]), np.cos(2 * np.pi * expected[:, 0]), atol=1e-4)
    np.testing.assert_allclose(np.sin(2 * np.pi * hsv[:, 0]), np.sin(2 * np.pi * expected[:, 0]), atol=1e-4)
    np.testing.assert_allclose(hsv[:, 1:], expected[:, 1:], atol=1e-5)
    np.testing.assert_allclose(colour.hsv_to_rgb(jnp.asarray(hsv)), rgb, atol=1e-5)
    turned = hsv + np.float32([0.3, 0, 0])
    expected = np.array([colorsys.hsv_to_rgb(h % 1, s, v) for h, s, v in turned.astype(float)])
    np.testing.assert_allclose(colour.hsv_to_rgb(jnp.asarray(turned)), expected, atol=1e-5)


def test_hue_turns_each_sample_by_its_own_angle():
    red = jnp.tile(jnp.array([1.0, -1.0, -1.0]), (4, 2, 2, 1))
    out = colour.hue(red, jnp.array([0.0, 1 / 3, -1 / 3, 1 / 6]))
    expected = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]]
    for image, pixel in zip(out, expected, strict=True):
        np.testing.assert_allclose(image, np.tile(pixel, (2, 2, 1)), atol=1e-5)
    np.testing.assert_allclose(colour.hue(IMAGES, 1.0), IMAGES, atol=1e-5)
    np.testing.assert_allclose(colour.hue(colour.hue(IMAGES, 0.2), -0.2), IMAGES, atol=1e-5)
