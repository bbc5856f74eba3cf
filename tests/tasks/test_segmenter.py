"""Segmentation by several views: what a network of single pixels cannot see a difference in, and one that can."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array

from vision.errors import UserError
from vision.ops.resize import resize
from vision.tasks.segmenter import SegmenterConfig, segmenter, window_starts, window_weight


class Output(NamedTuple):
    """As of a network."""

    logits: Array
    auxiliary: Array | None


class Pointwise(nn.Module):
    """Logits of each pixel from its colour; the sides must be multiples of some pixels."""

    multiple: int = 1

    @nn.compact
    def __call__(self, image, *, train):
        """Logits of four classes."""
        assert not train
        assert image.shape[1] % self.multiple == image.shape[2] % self.multiple == 0
        return Output(nn.Dense(4, name="head")(image), None)


class Shifted(nn.Module):
    """The colours of the right neighbour, as logits: it sees left and right."""

    @nn.compact
    def __call__(self, image, *, train):
        """Logits of three classes."""
        self.param("unused", nn.initializers.zeros, ())
        return Output(5 * jnp.pad(image, ((0, 0), (0, 0), (0, 1), (0, 0)))[:, :, 1:], None)


IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 13, 18, 3)).astype(np.float32))
VARIABLES = Pointwise().init(jax.random.key(1), IMAGES, train=False)


def probabilities(model, variables, images, **how):
    """By the views of a configuration, compiled."""
    found = np.asarray(jax.jit(segmenter(model, SegmenterConfig(**how)))(variables, images))
    assert (found.shape[:3], found.dtype) == (images.shape[:3], np.float32)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    return found


@pytest.mark.parametrize(
    "how",
    [
        {"flip": True},
        {"window": 7},
        {"window": 7, "overlap": 0.5, "blend": "linear"},
        {"window": 15, "overlap": 0.0, "blend": "linear", "flip": True},
        {"window": 32},
    ],
)
def test_views_of_single_pixels_are_the_image(how):
    plain = probabilities(Pointwise(), VARIABLES, IMAGES)
    np.testing.assert_allclose(
        plain, jax.nn.softmax(Pointwise().apply(VARIABLES, IMAGES, train=False).logits), rtol=1e-5
    )
    np.testing.assert_allclose(probabilities(Pointwise(), VARIABLES, IMAGES, **how), plain, rtol=1e-5)


def test_scales_are_averaged_at_the_size_of_the_image():
    found = probabilities(Pointwise(multiple=4), VARIABLES, IMAGES, scales=(0.5, 1.0, 2.0), multiple=4)
    views = []
    for size in ((8, 8), (12, 16), (24, 36)):
        logits = Pointwise().apply(VARIABLES, resize(IMAGES, size), train=False).logits
        views.append(resize(jax.nn.softmax(logits), (13, 18)))
    np.testing.assert_allclose(found, np.mean(views, axis=0), rtol=1e-4, atol=1e-6)


def test_a_flip_is_returned_to_its_place():
    variables = Shifted().init(jax.random.key(0), IMAGES, train=False)
    once = lambda images: jax.nn.softmax(Shifted().apply(variables, images, train=False).logits)
    expected = (once(IMAGES) + once(IMAGES[:, :, ::-1])[:, :, ::-1]) / 2
    assert np.abs(expected - once(IMAGES)).max() > 0.1
    np.testing.assert_allclose(probabilities(Shifted(), variables, IMAGES, flip=True), expected, rtol=1e-5)


@pytest.mark.parametrize("blend", ["uniform", "linear"])
def test_windows_are_weighted_where_they_overlap(blend):
    """Against windows one by one in numpy, of a network that sees the border of its window."""
    variables = Shifted().init(jax.random.key(0), IMAGES, train=False)
    total, weights = np.zeros((2, 13, 18, 3)), np.zeros((13, 18, 1))
    line = {"uniform": [1, 1, 1, 1, 1, 1, 1], "linear": [1, 2, 3, 4, 3, 2, 1]}[blend]
    weight = np.outer(line, line)[..., None]
    for y in (0, 3, 6):
        for x in (0, 4, 7, 11):
            cut = IMAGES[:, y : y + 7, x : x + 7]
            total[:, y : y + 7, x : x + 7] += weight * jax.nn.softmax(
                Shifted().apply(variables, cut, train=False).logits
            )
            weights[y : y + 7, x : x + 7] += weight
    found = probabilities(Shifted(), variables, IMAGES, window=7, overlap=0.4, blend=blend)
    np.testing.assert_allclose(found, total / weights, rtol=1e-4, atol=1e-6)


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 0.99))
def test_windows_cover_the_line(side, longer, overlap):
    length = side + longer - 1
    starts = window_starts(length, side, overlap)
    assert (starts[0], starts[-1]) == (0, length - side)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(int(side * (1 - overlap)), 1)).all()


@pytest.mark.parametrize("side", [1, 2, 7])
def test_weights_are_above_zero(side):
    for blend in ("uniform", "linear"):
        weight = window_weight(side, blend)
        assert weight.min() > 0
        assert weight.max() == 1
        np.testing.assert_array_equal(weight, weight[::-1, ::-1])


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="no scales"):
        segmenter(Pointwise(), SegmenterConfig(scales=()))
    with pytest.raises(UserError, match="overlap must be at least 0 and less than 1"):
        segmenter(Pointwise(), SegmenterConfig(overlap=1.0))
    with pytest.raises(UserError, match="scales must be more than 0"):
        segmenter(Pointwise(), SegmenterConfig(scales=(1.0, 0.0)))
