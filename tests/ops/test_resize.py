"""Resizing against Pillow, by every filter, up and down; windows against cropping first; padding against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vision.errors import UserError
from vision.ops.resize import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    centre_crop,
    normalise,
    pad,
    resize,
    resize_shorter,
    resize_weights,
    window_weights,
)

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos3": Image.Resampling.LANCZOS,
}
sides = st.integers(1, 40)


@settings(max_examples=150)
@given(st.sampled_from(list(FILTERS)), sides, sides, sides, sides, st.integers(0, 2**32 - 1))
def test_weights_are_those_of_pillow_on_floats(method, height, width, tall, wide, seed):
    image = np.random.default_rng(seed).uniform(-1, 1, (height, width)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).resize((wide, tall), FILTERS[method]))
    rows, columns = resize_weights(height, tall, method), resize_weights(width, wide, method)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows @ image @ columns.T, expected, atol=1e-5)


@pytest.mark.parametrize("method", FILTERS)
@pytest.mark.parametrize("sizes", [((13, 20), (7, 31)), ((9, 8), (21, 3))], ids=str)
def test_resize_equals_pillow(method, sizes):
    (height, width), (tall, wide) = sizes
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)

    def in_order(image):
        """Columns, then rows: in one call, Pillow 13 chooses the order itself."""
        return np.asarray(
            Image.fromarray(image).resize((wide, height), FILTERS[method]).resize((wide, tall), FILTERS[method])
        )

    expected = np.stack([in_order(image) for image in images])
    resized = jax.jit(lambda x: resize(x, (tall, wide), method=method))
    out = np.asarray(resized(images))
    assert out.dtype == np.uint8
    difference = np.abs(out.astype(int) - expected)
    assert difference.max() <= (0 if method == "nearest" else 1)
    # Pillow's weights are fixed-point numbers, so that a value in a hundred rounds the other way
    assert np.mean(difference > 0) < 0.02
    floats = images.astype(np.float32) / 127.5 - 1
    of_channel = lambda image: np.asarray(Image.fromarray(image).resize((wide, tall), FILTERS[method]))
    expected = np.stack([np.stack([of_channel(i[:, :, c]) for c in range(3)], axis=-1) for i in floats])
    out = resized(floats)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("method", ["nearest", "box", "bilinear"])
def test_filters_that_do_not_overshoot_equal_pillow_in_any_order(method):
    images = np.random.default_rng(1).integers(0, 256, (40, 23, 31, 3), dtype=np.uint8)
    for size in ((9, 40), (33, 12), (11, 17), (50, 44)):
        expected = np.stack([np.asarray(Image.fromarray(i).resize(size[::-1], FILTERS[method])) for i in images])
        out = np.asarray(jax.jit(lambda x, size=size: resize(x, size, method=method))(images))
        assert np.abs(out.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("method", FILTERS)
def test_a_window_is_cropping_before_resizing(method):
    start, extent = [0, 3, 11, 12, 5], [17, 9, 6, 1, 12]
    weights = window_weights(jnp.float32(start), jnp.float32(extent), length=17, size=7, method=method)
    assert weights.shape == (5, 7, 17)
    for own, first, length in zip(np.asarray(weights), start, extent, strict=True):
        np.testing.assert_allclose(own[:, first : first + length], resize_weights(length, 7, method), atol=1e-5)
        assert not own[:, :first].any()
        assert not own[:, first + length :].any()


def test_reduction_by_a_whole_number_is_the_mean_of_blocks():
    images = jax.random.normal(jax.random.key(0), (1, 6, 8, 2))
    blocks = images.reshape(1, 3, 2, 4, 2, 2).mean((2, 4))
    np.testing.assert_allclose(resize(images, (3, 4), method="box"), blocks, atol=1e-6)


def test_the_shorter_side_and_the_centre():
    shape = lambda function, h, w: jax.eval_shape(function, jax.ShapeDtypeStruct((1, h, w, 3), jnp.float32)).shape[1:3]
    assert shape(lambda x: resize_shorter(x, 8), 16, 21) == (8, 10)
    assert shape(lambda x: resize_shorter(x, 8), 300, 4) == (600, 8)
    images = jnp.arange(2 * 5 * 6.0).reshape(2, 5, 6, 1)
    np.testing.assert_array_equal(centre_crop(images, (3, 3)), images[:, 1:4, 1:4])
    np.testing.assert_array_equal(centre_crop(images, (5, 6)), images)


@pytest.mark.parametrize(("mode", "numpy_mode"), [("reflect", "reflect"), ("edge", "edge")])
def test_padding_is_numpys(mode, numpy_mode):
    images = np.arange(2 * 4 * 5.0, dtype=np.float32).reshape(2, 4, 5, 1)
    expected = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=numpy_mode)
    np.testing.assert_array_equal(pad(jnp.asarray(images), 2, mode=mode), expected)


def test_padding_with_a_value():
    out = np.asarray(pad(jnp.ones((1, 2, 3, 1)), 1, value=-0.5))
    assert out.shape == (1, 4, 5, 1)
    assert (out[:, 1:-1, 1:-1] == 1).all()
    assert (out == 1).sum() == 6
    assert (out == -0.5).sum() == 14


def test_normalised_images_have_unit_statistics():
    generator = np.random.default_rng(0)
    share = generator.normal(CIFAR10_MEAN, CIFAR10_STD, (4, 40, 40, 3)).astype(np.float32)
    out = np.asarray(normalise(jnp.asarray(2 * share - 1), CIFAR10_MEAN, CIFAR10_STD))
    np.testing.assert_allclose(out, (share - np.array(CIFAR10_MEAN)) / np.array(CIFAR10_STD), atol=1e-4)
    assert np.abs(out.mean((0, 1, 2))).max() < 0.05
    assert np.abs(out.std((0, 1, 2)) - 1).max() < 0.05


def test_what_cannot_be_done_is_said():
    images = jnp.zeros((1, 4, 6, 3))
    with pytest.raises(UserError, match="resized to 0x3 pixels: both sides must be at least 1"):
        resize(images, (0, 3))
    with pytest.raises(UserError, match="5x5 pixels cannot be cut out of images of 4x6"):
        centre_crop(images, (5, 5))
    with pytest.raises(UserError, match='4x6 pixels cannot be padded by 4 with mode "reflect"'):
        pad(images, 4, mode="reflect")
    with pytest.raises(UserError, match="padded by -1"):
        pad(images, -1)
