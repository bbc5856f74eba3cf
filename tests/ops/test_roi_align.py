"""RoIAlign against loops over bins and points written from the definition, and its gradient against its linearity."""

from functools import partial

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_roi_align import slow

from vision.ops.roi_align import pyramid_level, pyramid_roi_align, roi_align

HEIGHT, WIDTH, CHANNELS, N, SIZE, SCALE = 5, 8, 3, 6, 3, 0.5


@pytest.fixture(scope="module")
def align():
    return {
        aligned: jax.jit(partial(roi_align, size=SIZE, scale=SCALE, samples=2, aligned=aligned))
        for aligned in (False, True)
    }


def features_of(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# In eighths of pixels: inside, across each border, far outside, lines, points, and empty ones.
_ends = hnp.arrays(np.int64, (N, 2), elements=st.integers(-60, 200))
_sides = hnp.arrays(np.int64, (N, 2), elements=st.integers(-20, 160))
some_boxes = st.builds(
    lambda low, side: np.concatenate([low, low + side], axis=1).astype(np.float32) / 8, _ends, _sides
)


@pytest.mark.parametrize("aligned", [False, True])
@settings(max_examples=25)
@given(boxes=some_boxes)
def test_equals_the_definition(align, aligned, boxes):
    # Whether a point just on the limit, a cell outside, counts depends on rounding: none lies there
    boxes = boxes + np.float32([0.013, 0.017, 0.019, 0.011])
    features = features_of(0, 1, HEIGHT, WIDTH, CHANNELS)
    found = align[aligned](features, boxes[None])
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(
        found[0], slow(features[0], boxes, size=SIZE, scale=SCALE, aligned=aligned), rtol=1e-4, atol=2e-5
    )


@pytest.mark.parametrize("aligned", [False, True])
def test_borders_and_degenerate_boxes(align, aligned):
    width, height = WIDTH / SCALE, HEIGHT / SCALE
    boxes = [[0, 0, width, height], [width, height, width, height], [3, 3, 3, 3], [0, 0, 0, height]]
    boxes = np.float32([*boxes, [-40, -40, -30, -30], [width - 0.5, 0, width, height]])
    features = features_of(1, 1, HEIGHT, WIDTH, CHANNELS)
    found = align[aligned](features, boxes[None])[0]
    np.testing.assert_allclose(
        found, slow(features[0], boxes, size=SIZE, scale=SCALE, aligned=aligned), rtol=1e-4, atol=2e-5
    )
    assert not np.any(found[4])


def test_the_gradient_is_the_transposed_map_and_boxes_are_constants():
    """The map is linear in the features: <w, map(g)> is <gradient of <w, map(f)>, g> for any g."""
    random = np.random.default_rng(0)
    boxes = random.uniform(-3, 16, (2, N, 4)).astype(np.float32)
    boxes[..., 2:] = boxes[..., :2] + random.uniform(1, 9, (2, N, 2))
    features, other = features_of(2, 2, HEIGHT, WIDTH, CHANNELS), features_of(3, 2, HEIGHT, WIDTH, CHANNELS)
    weights = features_of(4, 2, N, SIZE, SIZE, CHANNELS)
    loss = lambda features, boxes: jnp.sum(weights * roi_align(features, boxes, size=SIZE, scale=SCALE))
    to_features, to_boxes = jax.jit(jax.grad(loss, argnums=(0, 1)))(features, boxes)
    expected = sum(
        (w * slow(g, b, size=SIZE, scale=SCALE)).sum() for w, g, b in zip(weights, other, boxes, strict=True)
    )
    np.testing.assert_allclose((to_features * other).sum(), expected, rtol=1e-4)
    assert not np.any(to_boxes)


def test_features_of_one_row_or_column_and_numbers_that_are_none():
    boxes = np.float32([[[0.3, 0.2, 2.5, 3.1], [np.nan, 0, 1, np.inf]]])
    for shape in ((3, 1), (1, 3), (1, 1)):
        features = features_of(5, 1, *shape, 2)
        found = jax.jit(partial(roi_align, size=2))(features, boxes)[0, 0]
        np.testing.assert_allclose(found, slow(features[0], boxes[0, :1], size=2, scale=1.0)[0], rtol=1e-5, atol=1e-6)


def test_levels_are_those_of_the_paper():
    sides = np.float32([0, 10, 111.9, 112, 223, 224, 447, 448, 5000])
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1) + np.float32(3)
    found = pyramid_level(jnp.asarray(boxes), lowest=2, highest=5)
    np.testing.assert_array_equal(found, [2, 2, 2, 3, 3, 4, 4, 5, 5])
    np.testing.assert_array_equal(pyramid_level(jnp.asarray(boxes[5]), lowest=3, highest=3), 3)
    # 224 x 224 is as large as 448 x 112
    assert pyramid_level(jnp.array([0.0, 0.0, 448.0, 112.0]), lowest=2, highest=5) == 4


def test_a_pyramid_is_each_box_on_its_own_level():
    """Of one column too, behind whose last cell there is nothing."""
    height, width = 512, 32
    levels = [features_of(k, 2, height // s, width // s, CHANNELS) for k, s in enumerate((4, 8, 16, 32))]
    boxes = np.float32([[3, 5, 30, 44], [0, 0, 32, 450], [0, 8, 300, 200], [0, 0, 500, 511], [20, 400, 31, 511]])
    boxes = np.stack([boxes, boxes[::-1]])
    found = jax.jit(partial(pyramid_roi_align, size=2, strides=(4, 8, 16, 32)))(levels, boxes)
    level = pyramid_level(jnp.asarray(boxes), lowest=2, highest=5)
    assert set(np.unique(level)) == {2, 3, 4, 5}
    for image, k in np.ndindex(2, 5):
        stride = 2 ** int(level[image, k])
        expected = slow(levels[level[image, k] - 2][image], boxes[image, k : k + 1], size=2, scale=1 / stride)
        np.testing.assert_allclose(found[image, k], expected[0], rtol=1e-4, atol=2e-5)


def test_memory_is_that_of_a_few_results():
    """Of 512 boxes, 256 channels and four levels, the largest of which has 200x304 cells."""
    shape = lambda *sides: jax.ShapeDtypeStruct(sides, jnp.float32)
    levels = [shape(1, 800 // s, 1216 // s, 256) for s in (4, 8, 16, 32)]
    run = jax.jit(partial(pyramid_roi_align, size=7, strides=(4, 8, 16, 32)))
    memory = run.lower(levels, shape(1, 512, 4)).compile().memory_analysis()
    table, result = 4 * 256 * 80_750, 4 * 512 * 49 * 256
    assert memory.temp_size_in_bytes < 1.1 * table + 8 * result


def test_types():
    features, box = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.array([[[0.0, 0.0, 3.0, 3.0]]])
    total = lambda features: jnp.sum(roi_align(features, box, size=2).astype(jnp.float32))
    found, gradient = roi_align(features, box, size=2), jax.grad(total)(features)
    assert found.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(jnp.float32), 1.0)
    # every one of the 2 x 2 means over two channels has weights that add up to 1
    np.testing.assert_allclose(gradient.astype(jnp.float32).sum(), 8.0, rtol=1e-2)
