"""Borders of masks against erosion step by step; of labels against those of each mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vision.ops.outlines import boundary_distance, label_outlines, mask_outline


def eroded(mask, distance):
    """One ring of zeros around the image, and ``distance`` erosions by 3x3 pixels."""
    padded = np.pad(mask, 1)
    for _ in range(distance):
        padded = ndimage.binary_erosion(padded, np.ones((3, 3)), border_value=1)
    return padded[1:-1, 1:-1]


@st.composite
def _masks(draw):
    """Empty, full, of one pixel, at the border, blocks and noise."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 17))
    kind = draw(st.sampled_from(["empty", "full", "pixel", "block", "noise"]))
    mask = np.zeros((height, width), bool)
    y, x = generator.integers(0, height), generator.integers(0, width)
    if kind == "pixel":
        mask[y, x] = True
    elif kind == "block":
        mask[y:, x:] = True
    elif kind != "empty":
        mask = generator.random(mask.shape) < (1.0 if kind == "full" else 0.9)
    return mask, draw(st.integers(1, 8))


@settings(max_examples=80)
@given(_masks())
def test_the_border_of_a_mask_is_what_erosion_takes_away(case):
    mask, distance = case
    np.testing.assert_array_equal(mask_outline(mask, distance), mask & ~eroded(mask, distance))


_outlines = jax.jit(label_outlines)


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 6), min_size=3, max_size=3))
def test_labels_have_the_borders_of_their_masks(seed, distance):
    generator = np.random.default_rng(seed)
    labels = np.kron(generator.integers(-1, 3, (3, 3, 4)), np.ones((1, 5, 5), int))[:, :13, :18].astype(np.int32)
    labels = np.where(generator.random(labels.shape) < 0.02, 2, labels)
    found = _outlines(jnp.asarray(labels), jnp.array(distance))
    for image, each, outline in zip(labels, distance, found, strict=True):
        expected = np.zeros(image.shape, bool)
        for label in range(-1, 3):
            expected |= mask_outline(image == label, each)
        np.testing.assert_array_equal(outline, expected)


@pytest.mark.parametrize(
    ("size", "distance"), [((1, 1), 1), ((25, 25), 1), ((60, 80), 2), ((480, 640), 16), ((1024, 2048), 46)]
)
def test_the_width_is_a_share_of_the_diagonal(size, distance):
    assert boundary_distance(*size) == distance


def test_halves_are_rounded_to_even_as_published():
    assert [boundary_distance(30, 40, ratio=ratio) for ratio in (0.05, 0.07)] == [2, 4]  # 2.5 and 3.5
