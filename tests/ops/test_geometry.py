"""Affine warps against SciPy, and the matrices against Pillow and against exact cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from vision.ops.geometry import affine_warp, rotation, shear, translation

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.uniform(-1, 1, (8, 9, 12, 2)).astype(np.float32)
# Turns, shears, scales and shifts, some of which leave the image by more than its size
MATRICES = np.concatenate(
    [np.eye(2) + GENERATOR.normal(size=(8, 2, 2)) * 0.6, GENERATOR.uniform(-9, 9, (8, 2, 1))], axis=2
).astype(np.float32)
# SciPy's names of edges mixed with the fill, and of reflection without a repeated border
SCIPY_MODES = {"constant": "grid-constant", "reflect": "mirror"}


@pytest.mark.parametrize(("interpolation", "order"), [("nearest", 0), ("bilinear", 1)])
@pytest.mark.parametrize("outside", SCIPY_MODES)
def test_warps_are_scipys(interpolation, order, outside):
    warp = jax.jit(lambda x, m: affine_warp(x, m, interpolation=interpolation, outside=outside, fill=0.25))
    out = np.asarray(warp(IMAGES, MATRICES))
    for image, matrix, got in zip(IMAGES, MATRICES, out, strict=True):
        for channel in range(2):
            expected = ndimage.affine_transform(
                image[:, :, channel].astype(np.float64),
                matrix[:, :2].astype(np.float64),
                matrix[:, 2],
                order=order,
                mode=SCIPY_MODES[outside],
                cval=0.25,
            )
            np.testing.assert_allclose(got[:, :, channel], expected, atol=1e-4)


def test_no_motion_is_exact():
    still = translation(jnp.zeros(8), jnp.zeros(8))
    for matrices in (still, rotation(jnp.zeros(8), 9, 12), shear(jnp.zeros(8), jnp.zeros(8))):
        for interpolation in ("nearest", "bilinear"):
            out = jax.jit(lambda x, m, by=interpolation: affine_warp(x, m, interpolation=by))(IMAGES, matrices)
            np.testing.assert_array_equal(out, IMAGES)


def test_whole_translations_move_content():
    matrices = translation(jnp.array([2.0, -1.0] * 4), jnp.array([0.0, 3.0] * 4))
    out = np.asarray(affine_warp(jnp.asarray(IMAGES), matrices, fill=7.0))
    np.testing.assert_array_equal(out[0, 2:], IMAGES[0, :-2])
    assert (out[0, :2] == 7).all()
    np.testing.assert_array_equal(out[1, :-1, 3:], IMAGES[1, 1:, :-3])
    assert (out[1, -1] == 7).all()
    assert (out[1, :, :3] == 7).all()


def test_quarter_turns_are_counter_clockwise():
    square = jnp.asarray(IMAGES[:4, :, :9])
    degrees = jnp.array([0.0, 90.0, 180.0, -90.0])
    out = jax.jit(lambda x: affine_warp(x, rotation(degrees, 9, 9)))(square)
    for image, got, turns in zip(square, out, (0, 1, 2, -1), strict=True):
        np.testing.assert_allclose(got, np.rot90(image, turns), atol=1e-5)


@pytest.mark.parametrize(
    ("matrix", "pillow"),
    [
        (rotation(jnp.array([25.0]), 20, 30), lambda image: image.rotate(25, fillcolor=9)),
        (
            shear(jnp.zeros(1), jnp.array([0.31])),
            lambda image: image.transform(image.size, Image.Transform.AFFINE, (1, 0.31, 0, 0, 1, 0), fillcolor=9),
        ),
        (
            shear(jnp.array([-0.23]), jnp.zeros(1)),
            lambda image: image.transform(image.size, Image.Transform.AFFINE, (1, 0, 0, -0.23, 1, 0), fillcolor=9),
        ),
    ],
    ids=["rotation", "shear to the right", "shear upwards"],
)
def test_directions_are_pillows(matrix, pillow):
    """All pixels but a few where the nearest one is a matter of rounding."""
    image = GENERATOR.integers(0, 256, (20, 30)).astype(np.uint8)
    expected = np.asarray(pillow(Image.fromarray(image)))
    floats = jnp.asarray(image, jnp.float32)[None, :, :, None]
    out = np.asarray(affine_warp(floats, matrix, interpolation="nearest", fill=9.0))[0, :, :, 0]
    assert np.mean(out != expected) < 0.005
