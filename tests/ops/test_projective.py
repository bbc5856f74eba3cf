"""Projective maps against homogeneous coordinates in float64, and warps against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from vision.ops.projective import (
    compose,
    inverses,
    matrix,
    neighbours,
    project,
    project_boxes,
    projective_warp,
    sources,
)

GENERATOR = np.random.default_rng(0)
COUNT, HEIGHT, WIDTH, SIZE = 6, 9, 12, (11, 8)
IMAGES = GENERATOR.uniform(-1, 1, (COUNT, HEIGHT, WIDTH, 2)).astype(np.float32)


def _matrices(perspective=0.02, turn=0.5):
    """Motions about the image that keep some of it in sight, in float64."""
    out = np.tile(np.eye(3), (COUNT, 1, 1))
    out[:, 0, 0], out[:, 1, 1] = GENERATOR.uniform(0.5, 1.5, (2, COUNT))
    out[:, :2, :2] += GENERATOR.uniform(-turn, turn, (COUNT, 2, 2)) * (1 - np.eye(2))
    out[:, :2, 2] = GENERATOR.uniform(-4, 4, (COUNT, 2))
    out[:, 2, :2] = GENERATOR.uniform(-perspective, perspective, (COUNT, 2))
    return out


MATRICES = _matrices()
POINTS = GENERATOR.uniform(0, 10, (COUNT, 7, 2))
BOXES = np.concatenate([POINTS, POINTS + GENERATOR.uniform(0.5, 6, POINTS.shape)], axis=-1)


def _moved(points, matrices):
    """In homogeneous coordinates, by the definition."""
    ahead = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1) @ np.swapaxes(matrices, -1, -2)
    return ahead[..., :2] / ahead[..., 2:]


def test_points_move_by_homogeneous_coordinates():
    np.testing.assert_allclose(project(jnp.float32(POINTS), jnp.float32(MATRICES)), _moved(POINTS, MATRICES), rtol=1e-4)
    back = inverses(jnp.float32(MATRICES))
    np.testing.assert_allclose(back, np.linalg.inv(MATRICES), atol=1e-4)
    product = compose(jnp.float32(MATRICES), back, jnp.float32(MATRICES))
    np.testing.assert_allclose(product, MATRICES, atol=1e-4)


def test_matrices_from_numbers_and_arrays():
    np.testing.assert_array_equal(matrix(), np.eye(3))
    made = matrix(b=jnp.array([1.0, 2.0]), c=3.0, h=jnp.array([4.0, 5.0]))
    np.testing.assert_array_equal(made, [[[1, 1, 3], [0, 1, 0], [0, 4, 1]], [[1, 2, 3], [0, 1, 0], [0, 5, 1]]])


def test_moved_boxes_just_hold_all_that_the_boxes_held():
    moved = np.asarray(project_boxes(jnp.float32(BOXES), jnp.float32(MATRICES)))
    low, high = BOXES[..., None, :2], BOXES[..., None, 2:]
    # A grid that has the corners, so that its extremes are the box's
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 6), np.linspace(0, 1, 6)), axis=-1).reshape(-1, 2)
    inside = _moved((low + grid * (high - low)).reshape(COUNT, -1, 2), MATRICES).reshape(COUNT, 7, -1, 2)
    np.testing.assert_allclose(moved, np.concatenate([inside.min(2), inside.max(2)], axis=-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("separable", [False, True])
def test_warps_are_scipys(separable):
    matrices = _matrices(0.0, 0.0) if separable else MATRICES
    warp = jax.jit(lambda x, m: projective_warp(x, m, SIZE, fill=0.25, separable=separable))
    out = np.asarray(warp(IMAGES, matrices.astype(np.float32)))
    assert out.shape == (COUNT, *SIZE, 2)
    row, column = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    seen = np.stack([column.ravel(), row.ravel()], axis=-1)
    for image, back, got in zip(IMAGES, np.linalg.inv(matrices), out, strict=True):
        x, y = _moved(seen, back).T - 0.5
        for channel in range(2):
            expected = ndimage.map_coordinates(
                image[..., channel].astype(float), [y, x], order=1, mode="grid-constant", cval=0.25
            )
            np.testing.assert_allclose(got[..., channel].ravel(), expected, atol=2e-4)
        assert (got != 0.25).mean() > 0.1  # something of the image is in sight


def test_no_motion_and_flips_are_exact():
    mirror = compose(matrix(c=WIDTH / 2), matrix(a=-1.0), matrix(c=-WIDTH / 2))
    for separable in (False, True):
        warp = jax.jit(lambda x, m, s=separable: projective_warp(x, m, (HEIGHT, WIDTH), separable=s))
        for one, expected in ((matrix(), IMAGES), (mirror, IMAGES[:, :, ::-1])):
            np.testing.assert_array_equal(warp(IMAGES, jnp.tile(one, (COUNT, 1, 1))), expected)


def test_pixels_move_as_boxes_do():
    """A painted rectangle, translated by whole pixels and doubled, fills the mapped box."""
    image = np.zeros((1, HEIGHT, WIDTH, 1), np.float32)
    image[0, 2:5, 3:9] = 1
    matrices = jnp.array([[[2.0, 0, -4], [0, 2, 1], [0, 0, 1]]])
    box = np.asarray(project_boxes(jnp.array([[[3.0, 2, 9, 5]]]), matrices))[0, 0]
    np.testing.assert_array_equal(box, [2, 5, 14, 11])
    out = np.asarray(jax.jit(lambda x: projective_warp(x, matrices, (16, 16)))(image))[0, ..., 0]
    rows, columns = np.nonzero(out > 0.5)
    np.testing.assert_array_equal([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], box)


def test_what_is_behind_the_horizon_is_fill():
    """With w = 1 - x / 6, the image's right half never comes into sight, however the result is looked at."""
    matrices = jnp.tile(matrix(g=-1 / 6), (COUNT, 1, 1))
    marked = np.full((COUNT, HEIGHT, WIDTH, 1), 7.0, np.float32)
    marked[:, :, :5] = 1.0
    # x' = x / (1 - x / 6) below -6 would come from x > 6
    window = compose(matrix(c=40.0), matrices)
    out = np.asarray(jax.jit(lambda x: projective_warp(x, window, (4, 80), fill=-3.0))(marked))
    x, _ = sources(window, jnp.arange(4), jnp.arange(80))
    assert (np.asarray(x)[:, :, :33] < -1e5).all()
    assert (out[:, :, :33] == -3).all()
    np.testing.assert_allclose(out[:, 3, 41:54], 1, atol=1e-6)


def test_neighbours_share_the_weight_of_positions_within_and_lose_it_outside():
    first, second = neighbours(jnp.array([0.5, 2.75, 0.25, 4.0, -1e9, 1e9]), 4, 10)
    np.testing.assert_allclose(first.weight, [1, 0.75, 0, 0.5, 0, 0])
    np.testing.assert_allclose(second.weight, [0, 0.25, 0.75, 0, 0, 0])
    np.testing.assert_array_equal(first.offset, [0, 20, 0, 30, 0, 30])
    np.testing.assert_array_equal(second.offset[:4], [10, 30, 0, 30])
