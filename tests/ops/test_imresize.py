"""MATLAB's imresize: its own images, its definition pixel by pixel, shapes, crops; the luma of super-resolution.

The golden values are made by make_imresize_golden.py.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision.errors import UserError
from vision.ops.imresize import crop_border, crop_to_multiple, imresize, imresize_weights
from vision.ops.ycbcr import luma, rgb_to_ycbcr, ycbcr_to_rgb

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "imresize.npz")
FILTERS = {
    "box": (0.5, lambda x: 1.0 if -0.5 <= x < 0.5 else 0.0),
    "bilinear": (1.0, lambda x: max(1 - abs(x), 0.0)),
    "bicubic": (
        2.0,
        lambda x: (
            1.5 * abs(x) ** 3 - 2.5 * abs(x) ** 2 + 1
            if abs(x) <= 1
            else (-0.5 * abs(x) ** 3 + 2.5 * abs(x) ** 2 - 4 * abs(x) + 2 if abs(x) <= 2 else 0.0)
        ),
    ),
    "lanczos3": (3.0, lambda x: float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0),
}


def as_images(array):
    return jnp.asarray(array)[None, :, :, None] / 255


@pytest.mark.parametrize(("name", "scale"), [("bird", 2), ("woman", 2), ("bird", 4)])
def test_images_of_matlab(name, scale):
    """A lower left corner depends on what is near it, and on the mirror image beyond its border."""
    small, large = (GOLDEN[f"{name}_x{scale}_{kind}"] for kind in ("lr", "bicubic"))
    found = 255 * imresize(as_images(GOLDEN[f"{name}_x{scale}_gt"]), 1 / scale)[0, -20 // scale :, : 20 // scale, 0]
    np.testing.assert_allclose(found, small[-20 // scale :, : 20 // scale], rtol=0, atol=1e-4)
    found = 255 * jax.jit(lambda x: imresize(x, scale))(as_images(small))[0, -24:, :24, 0]
    np.testing.assert_allclose(found, large[-24:, :24], rtol=0, atol=1e-4)


def by_definition(length, size, scale, method):
    """The documented algorithm with MATLAB's numbers from 1: each pixel's window, one weight after another."""
    reach, kernel = FILTERS[method]
    shrink = min(scale, 1.0)
    mirrored = [*range(length), *reversed(range(length))]
    matrix = np.zeros((size, length))
    for x in range(1, size + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(u - reach / shrink)
        for index in range(left, left + math.ceil(2 * reach / shrink) + 2):
            matrix[x - 1, mirrored[(index - 1) % (2 * length)]] += kernel(shrink * (u - index))
    return matrix / matrix.sum(1, keepdims=True)


@settings(max_examples=80)
@given(
    st.integers(1, 33),
    st.sampled_from([1 / 2, 1 / 3, 1 / 4, 2, 3, 4, 0.7, 1.6, 0.05, 1]),
    st.sampled_from(list(FILTERS)),
)
def test_weights_by_definition(length, scale, method):
    size = math.ceil(length * scale)
    found = imresize_weights(length, size, scale, method=method)
    assert found.dtype == np.float64
    # the box of a shrunk image may end on a pixel, where rounding decides
    if method == "box" and scale not in (2, 3, 4, 1):
        np.testing.assert_allclose(found.sum(1), 1)
        return
    np.testing.assert_allclose(found, by_definition(length, size, scale, method), rtol=0, atol=1e-12)


@settings(max_examples=25)
@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1 / 3, 0.4, 1.5, 3]))
def test_sides_are_rounded_up_and_a_constant_stays(height, width, scale):
    made = imresize(jnp.full((1, height, width, 2), 0.3), scale)
    assert made.shape == (1, math.ceil(height * scale), math.ceil(width * scale), 2)
    np.testing.assert_allclose(made, 0.3, atol=1e-6)
    size = (made.shape[1], made.shape[2])
    assert imresize(jnp.zeros((1, height, width, 2)), size=size).shape == made.shape


def test_a_size_sets_a_factor_for_each_side():
    image = np.random.default_rng(0).uniform(size=(1, 12, 9, 1)).astype(np.float32)
    rows, columns = by_definition(12, 5, 5 / 12, "bicubic"), by_definition(9, 20, 20 / 9, "bicubic")
    found = imresize(jnp.asarray(image), size=(5, 20))[0, :, :, 0]
    np.testing.assert_allclose(found, rows @ image[0, :, :, 0] @ columns.T, atol=1e-6)
    plain = imresize(jnp.asarray(image), 1 / 3, antialias=False)[0, :, :, 0]
    np.testing.assert_allclose(plain, image[0, 1::3, 1::3, 0], atol=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"scale": 2.0, "size": (3, 3)}, {"scale": 0.0}, {"size": (3, 0)}])
def test_refused(arguments):
    with pytest.raises(UserError, match="imresize needs either a scale or a size, above 0, and got"):
        imresize(jnp.zeros((1, 4, 4, 1)), **arguments)


def test_crops():
    image = jnp.arange(7 * 8.0).reshape(1, 7, 8, 1)
    np.testing.assert_array_equal(crop_to_multiple(image, 3), image[:, :6, :6])
    np.testing.assert_array_equal(crop_border(image, 3), image[:, 3:4, 3:5])
    np.testing.assert_array_equal(crop_border(image, 0), image)
    with pytest.raises(UserError, match="have no inside without a border of 4"):
        crop_border(image, 4)
    with pytest.raises(UserError, match="no part whose sides are multiples of 8"):
        crop_to_multiple(image, 8)


def test_luma_of_matlab():
    """Of black, white, red, green and blue: the numbers of rgb2ycbcr's documentation and of BT.601."""
    colours = jnp.array([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    wanted = [[16, 128, 128], [235, 128, 128], [81.481, 90.203, 240], [144.553, 53.797, 34.214], [40.966, 240, 109.786]]
    found = rgb_to_ycbcr(colours)
    np.testing.assert_allclose(255 * found, wanted, atol=1e-4)
    np.testing.assert_array_equal(luma(colours), found[:, :1])
    np.testing.assert_array_equal(luma(found[:, :1]), found[:, :1])
    with pytest.raises(UserError, match="luma needs images of 1 or 3 channels, got 2"):
        luma(colours[:, :2])


@pytest.mark.parametrize("value_range", ["studio", "full"])
def test_there_and_back(value_range):
    image = jax.random.uniform(jax.random.key(0), (2, 3, 4, 3))
    there = rgb_to_ycbcr(image, value_range=value_range)
    np.testing.assert_allclose(ycbcr_to_rgb(there, value_range=value_range), image, atol=2e-6)


def test_full_range_is_that_of_pillow():
    levels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(levels).convert("YCbCr")).astype(float)
    found = 255 * rgb_to_ycbcr(jnp.asarray(levels) / 255, value_range="full")
    assert np.abs(found - expected).max() < 1.01


@pytest.mark.parametrize(("name", "scale"), [("bird", 2), ("woman", 2), ("bird", 4)])
def test_whole_images_of_matlab(real_data, name, scale):
    with np.load(real_data / "superres" / "set5_matlab_ref.npz") as file:
        large, small, bicubic = (as_images(file[f"{name}_x{scale}_{kind}_y"]) for kind in ("gt", "lr", "bicubic"))
    np.testing.assert_allclose(imresize(large, 1 / scale), small, rtol=0, atol=1e-6)
    np.testing.assert_allclose(imresize(small, scale), bicubic, rtol=0, atol=1e-6)
    image = np.asarray(Image.open(real_data / "superres" / "set5" / f"{name}.png"))[None] / np.float32(255)
    np.testing.assert_allclose(luma(jnp.asarray(image)), large, rtol=0, atol=1e-6)
