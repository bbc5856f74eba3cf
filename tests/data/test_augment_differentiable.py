"""Differentiable augmentation: the effect of each part, its gradients, and its probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.data.augment.differentiable import (
    COLOUR,
    brightness,
    contrast,
    cutout,
    differentiable_augment,
    saturation,
    translation,
)

PARTS = (*COLOUR, translation, cutout)
IMAGES = jax.random.uniform(jax.random.key(0), (64, 8, 12, 3), minval=-1.0)
KEY = jax.random.key(1)


def test_colour_changes_what_it_says():
    bright = brightness(IMAGES, key=KEY) - IMAGES
    np.testing.assert_allclose(bright, jnp.broadcast_to(bright[:, :1, :1, :1], bright.shape), atol=1e-5)
    assert -0.5 <= float(bright.min()) < -0.4
    assert 0.4 < float(bright.max()) <= 0.5

    grey = IMAGES.mean(-1, keepdims=True)
    np.testing.assert_allclose(saturation(IMAGES, key=KEY).mean(-1, keepdims=True), grey, atol=1e-5)
    factor = (saturation(IMAGES, key=KEY) - grey)[:, 0, 0, 0] / (IMAGES - grey)[:, 0, 0, 0]
    assert 0.0 <= float(factor.min()) < 0.2
    assert 1.8 < float(factor.max()) <= 2.0 + 1e-4

    mean = IMAGES.mean((1, 2, 3), keepdims=True)
    changed = contrast(IMAGES, key=KEY)
    np.testing.assert_allclose(changed.mean((1, 2, 3), keepdims=True), mean, atol=1e-5)
    factor = changed.std((1, 2, 3)) / IMAGES.std((1, 2, 3))
    assert 0.5 <= float(factor.min()) + 1e-4 < 0.6
    assert 1.4 < float(factor.max()) <= 1.5 + 1e-4


def test_translation_moves_by_whole_pixels():
    moved = np.asarray(translation(IMAGES, key=KEY, share=0.25))
    padded = np.pad(np.asarray(IMAGES), ((0, 0), (2, 2), (3, 3), (0, 0)))
    seen = set()
    for index in range(len(moved)):
        matches = [
            (row, column)
            for row in range(5)
            for column in range(7)
            if np.array_equal(moved[index], padded[index, row : row + 8, column : column + 12])
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert {row for row, _ in seen} == set(range(5))
    assert {column for _, column in seen} == set(range(7))


def test_cutout_greys_out_one_rectangle():
    cut = np.asarray(cutout(IMAGES, key=KEY))
    gone = np.all(cut == 0.0, axis=-1)
    assert np.array_equal(cut[~gone], np.asarray(IMAGES)[~gone])
    whole = 0
    for mask in gone:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 1 < len(rows) <= 4
        assert 2 < len(columns) <= 6
        whole += len(rows) == 4 and len(columns) == 6
    assert whole > 10


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_gradients_pass(part):
    """Every part is linear in the image: the derivative along a direction is the change of the image."""
    other = jax.random.normal(jax.random.key(2), IMAGES.shape)
    out, tangent = jax.jvp(lambda x: part(x, key=KEY), (IMAGES,), (other,))
    difference = part(IMAGES + other, key=KEY) - out
    np.testing.assert_allclose(tangent, difference, atol=1e-4)
    gradient = jax.grad(lambda x: jnp.sum(differentiable_augment(x, PARTS, key=KEY) ** 2))(IMAGES)
    assert np.all(np.asarray(jnp.abs(gradient).max((1, 2, 3))) > 0)


def test_probability_is_that_of_each_image():
    changed = jax.jit(lambda p: differentiable_augment(IMAGES, (brightness,), key=KEY, probability=p))
    share = lambda p: float(np.mean(np.any(np.asarray(changed(p) != IMAGES), axis=(1, 2, 3))))
    assert share(0.0) == 0.0
    assert share(1.0) == 1.0
    assert 0.25 < share(0.5) < 0.75


def test_parts_have_their_own_keys():
    both = differentiable_augment(IMAGES, (brightness, brightness), key=KEY)
    shifts = (both - IMAGES)[:, 0, 0, 0]
    assert float(jnp.abs(shifts - 2 * (brightness(IMAGES, key=KEY) - IMAGES)[:, 0, 0, 0]).max()) > 0.1
    assert float(jnp.abs(shifts).max()) > 0.6
