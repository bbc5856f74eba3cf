"""Boxes against shapely, against formulas written out in float64, and for finiteness in degenerate cases."""

from functools import cache

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.ops import boxes

LIKENESS = {"iou": boxes.iou, "giou": boxes.giou, "diou": boxes.diou, "ciou": boxes.ciou}
N, M = 7, 5


@cache
def likeness(name):
    """All pairs, [n 4] and [m 4] to [n m]."""
    return jax.jit(lambda a, b: LIKENESS[name](a[:, None], b[None]))


@cache
def gradient(name):
    """Of the sum over pairs [n 4] and [n 4] in both."""
    return jax.jit(jax.grad(lambda a, b: LIKENESS[name](a, b).sum(), argnums=(0, 1)))


def some_boxes(count, smallest):
    """Corners in quarter pixels, so that float32 has their areas to the last digit; sides may be equal, or 0."""
    quarters = lambda low, high: hnp.arrays(np.int64, (count, 2), elements=st.integers(low, high))
    join = lambda low, side: np.concatenate([low, low + side], axis=1).astype(np.float32) / 4
    return st.builds(join, quarters(-12, 12), quarters(smallest, 16))


def by_shapely(name, a, b):
    a, b = shapely.box(*map(float, a)), shapely.box(*map(float, b))
    union = a.union(b)
    overlap = a.intersection(b).area / union.area
    hull = union.envelope
    if name == "iou":
        return overlap
    if name == "giou":
        return overlap - (hull.area - union.area) / hull.area
    x0, y0, x1, y1 = hull.bounds
    return overlap - a.centroid.distance(b.centroid) ** 2 / ((x1 - x0) ** 2 + (y1 - y0) ** 2)


@pytest.mark.parametrize("name", ["iou", "giou", "diou"])
@settings(max_examples=15)
@given(a=some_boxes(N, 1), b=some_boxes(M, 1))
def test_likeness_against_shapely(name, a, b):
    expected = [[by_shapely(name, one, other) for other in b] for one in a]
    np.testing.assert_allclose(likeness(name)(a, b), expected, atol=2e-6)


def by_hand(name, a, b, alpha=None):
    """One pair in float64: the formulas of the papers, and the conventions of the module where they are 0 / 0."""
    divided = lambda x, y: x / y if y > 0 else 0.0
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = np.float64(a), np.float64(b)
    wa, ha, wb, hb = ax1 - ax0, ay1 - ay0, bx1 - bx0, by1 - by0
    shared = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    union = wa * ha + wb * hb - shared
    overlap = divided(shared, union)
    w, h = max(ax1, bx1) - min(ax0, bx0), max(ay1, by1) - min(ay0, by0)
    if name == "giou":
        return overlap - divided(w * h - union, w * h)
    squared = ((ax0 + ax1 - bx0 - bx1) / 2) ** 2 + ((ay0 + ay1 - by0 - by1) / 2) ** 2
    distance = divided(squared, w**2 + h**2)
    v = 0.0
    if max(wa, ha) > 0 and max(wb, hb) > 0:
        angle = lambda w, h: np.arctan(w / h) if h > 0 else np.pi / 2
        v = 4 / np.pi**2 * (angle(wb, hb) - angle(wa, ha)) ** 2
    if alpha is None:
        alpha = divided(v, 1 - overlap + v)
    if name == "alpha":
        return alpha
    return {"iou": overlap, "diou": overlap - distance, "ciou": overlap - distance - alpha * v}[name]


@pytest.mark.parametrize("name", LIKENESS)
@settings(max_examples=15)
@given(a=some_boxes(N, 0), b=some_boxes(M, 0))
def test_likeness_against_formulas_with_lines_and_points(name, a, b):
    found = np.asarray(likeness(name)(a, b))
    expected = [[by_hand(name, one, other) for other in b] for one in a]
    np.testing.assert_allclose(found, expected, atol=3e-6)
    lowest = {"iou": 0, "giou": -1, "diou": -1, "ciou": -2}[name]
    assert found.min() >= lowest - 1e-6
    assert found.max() <= 1 + 1e-6
    np.testing.assert_allclose(likeness(name)(b, a).T, found, atol=1e-6)


@pytest.mark.parametrize("name", LIKENESS)
@settings(max_examples=10)
@given(a=some_boxes(N, 1), b=some_boxes(N, 1))
def test_gradient_is_the_slope_with_alpha_held_constant(name, a, b):
    # off the grid of quarters, so that no borders meet: there is no derivative where they do
    b = b + np.float32([0.11, 0.07, 0.13, 0.09])
    found = gradient(name)(a, b)
    for row in range(N):
        alpha = by_hand("alpha", a[row], b[row])
        for which in range(2):
            for k in range(4):
                ends = []
                for sign in (1, -1):
                    moved = [np.float64(a[row]), np.float64(b[row])]
                    moved[which][k] += sign * 1e-6
                    ends.append(by_hand(name, *moved, alpha=alpha))
                np.testing.assert_allclose(found[which][row, k], (ends[0] - ends[1]) / 2e-6, atol=2e-4)


def test_alpha_does_change_with_the_boxes():
    """Otherwise the test above would not see whether its gradient is stopped."""
    a, b = np.float32([0, 0, 2, 3]), np.float32([1, 1, 4, 2])
    wider = np.array([0, 0, 1e-3, 0])
    slope = (by_hand("ciou", a + wider, b) - by_hand("ciou", a - wider, b)) / 2e-3
    held = gradient("ciou")(np.tile(a, (N, 1)), np.tile(b, (N, 1)))[0][0, 2]
    assert abs(slope - held) > 0.01


CORNER_CASES = np.float32(
    [
        [0, 0, 0, 0],  # a point
        [3, 3, 3, 3],
        [0, 0, 5, 0],  # lines
        [0, 0, 0, 5],
        [2, 2, 2, 9],
        [1, 1, 4, 4],  # boxes that are equal in the pair with themselves, that touch, that are far apart
        [4, 1, 7, 4],
        [1, 1, 4, 5],
        [600, 600, 601, 603],
        [5, 5, 2, 2],  # empty ones
        [5, 0, 2, 4],
        [1, 1, 1 + 1e-6, 1],  # hardly there
        [0, 0, 1e-20, 1e-20],
        [0, 0, 1e-6, 1e-6],
        [0, 0, 1e-30, 5],
        [-1e9, -1e9, 1e9, 1e9],  # larger than anything
        [1e9, 1e9, 1e9, 1e9],
    ]
)


@pytest.mark.parametrize("name", LIKENESS)
def test_degenerate_boxes_have_finite_values_and_gradients(name):
    pairs = [(a, b) for a in CORNER_CASES for b in CORNER_CASES]
    a, b = (np.stack(side) for side in zip(*pairs, strict=True))
    values, gradients = jax.jit(
        lambda a, b: (LIKENESS[name](a, b), jax.grad(lambda *of: LIKENESS[name](*of).sum(), argnums=(0, 1))(a, b))
    )(a, b)
    for array in (values, *gradients):
        bad = ~np.isfinite(np.asarray(array)).reshape(len(pairs), -1).all(axis=1)
        assert not bad.any(), [pairs[k] for k in np.flatnonzero(bad)]


@pytest.mark.parametrize("name", LIKENESS)
def test_equal_boxes_are_as_alike_as_can_be(name):
    box = np.float32([[0.3, 7.1, 211.7, 95.3]])
    np.testing.assert_allclose(likeness(name)(box, box), [[1.0]], atol=1e-6)


def test_boxes_apart_attract_each_other_but_by_iou():
    a, b = (jnp.tile(jnp.array([box], jnp.float32), (N, 1)) for box in ([0, 0, 2, 2], [10, 0, 12, 2]))
    for name in ("giou", "diou", "ciou"):
        to_a, to_b = gradient(name)(a, b)
        assert to_a[0, 2] > 1e-3, name  # the right border of the left box wants to the right
        assert to_b[0, 0] < -1e-3, name
    np.testing.assert_array_equal(gradient("iou")(a, b)[0], np.zeros((N, 4)))


def test_leading_axes_broadcast_and_pairs_are_pairs():
    random = np.random.default_rng(0)
    low = random.uniform(0, 50, (2, 6, 2))
    a = jnp.asarray(np.concatenate([low, low + random.uniform(1, 40, low.shape)], axis=-1), jnp.float32)
    b = a[::-1, :4]
    pairs = boxes.pairwise_iou(a, b)
    assert pairs.shape == (2, 6, 4)
    assert pairs.dtype == jnp.float32
    for image in range(2):
        for row in range(6):
            expected = [by_hand("iou", a[image, row], box) for box in b[image]]
            np.testing.assert_allclose(pairs[image, row], expected, atol=1e-6)
            np.testing.assert_allclose(boxes.iou(a[image, row], b[image]), expected, atol=1e-6)
    np.testing.assert_array_equal(boxes.pairwise_iou(a, b[0]), boxes.pairwise_iou(a, jnp.stack([b[0], b[0]])))
    assert boxes.pairwise_iou(a[0, :0], b[0]).shape == (0, 4)


def test_conversions():
    corners = jnp.array([[0, 0, 4, 2], [-3, 1, -3, 6]], jnp.float32)
    centres = boxes.corners_to_centre_size(corners)
    np.testing.assert_array_equal(centres, [[2, 1, 4, 2], [-3, 3.5, 0, 5]])
    np.testing.assert_array_equal(boxes.centre_size_to_corners(centres), corners)


def test_area_of_empty_boxes_is_zero():
    some = jnp.array([[0, 0, 4, 2], [4, 2, 0, 0], [4, 0, 0, 2], [1, 1, 1, 8]], jnp.float32)
    np.testing.assert_array_equal(boxes.area(some), [8, 0, 0, 0])


def test_clipping():
    some = jnp.array([[-5, -5, 5, 5], [90, 10, 120, 60], [120, 70, 130, 80], [1, 2, 3, 4]], jnp.float32)
    expected = [[0, 0, 5, 5], [90, 10, 100, 50], [100, 50, 100, 50], [1, 2, 3, 4]]
    np.testing.assert_array_equal(boxes.clip_to_image(some, width=100.0, height=50.0), expected)
    widths = jnp.array([4.0, 100.0, 100.0, 2.0])
    found = boxes.clip_to_image(some, width=widths, height=50.0)
    np.testing.assert_array_equal(found[:, 2], [4, 100, 100, 2])
