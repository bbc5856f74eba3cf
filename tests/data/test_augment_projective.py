"""Random transforms: the distributions of their parts, read off the matrices, and their order."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from vision.data.augment.projective import random_motions
from vision.ops.projective import project

COUNT, SIDE, SIZE = 1500, 40, 20
CENTRE = np.tile(np.float32([40.0, 30.0]), (COUNT, 1))


def _motions(key=0, size=SIZE, **parts):
    run = jax.jit(lambda key: random_motions(jnp.asarray(CENTRE), SIDE, size, **parts, key=key))
    return np.asarray(run(jax.random.key(key)), np.float64)


def _uniform(values, low, high):
    assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-4


def test_nothing_moves_by_default():
    """A window of the image's size has the image's centre in its middle; in one of half the size the scale is 1/2."""
    expected = [[0.5, 0, 10 - 20], [0, 0.5, 10 - 15], [0, 0, 1]]
    np.testing.assert_array_equal(_motions(), np.tile(expected, (COUNT, 1, 1)))


def test_scale_and_translation_are_uniform():
    found = _motions(scale=0.4, translate=0.2)
    factor = found[:, 0, 0] * SIDE / SIZE
    np.testing.assert_array_equal(found[:, 0, 0], found[:, 1, 1])
    _uniform(factor, 0.6, 1.4)
    middle = np.asarray(project(jnp.asarray(CENTRE)[:, None], jnp.float32(found)))[:, 0]
    for axis in range(2):
        _uniform(middle[:, axis] / SIZE, 0.3, 0.7)
    assert abs(np.corrcoef(middle.T)[0, 1]) < 0.1


def test_rotation_and_shear_are_uniform_in_their_angles():
    turned = _motions(degrees=30.0, size=SIDE)
    _uniform(np.rad2deg(np.arctan2(turned[:, 1, 0], turned[:, 0, 0])), -30, 30)
    np.testing.assert_allclose(np.linalg.det(turned[:, :2, :2]), 1, rtol=1e-5)
    slanted = _motions(shear=20.0, size=SIDE)
    for entry in ((0, 1), (1, 0)):
        _uniform(np.rad2deg(np.arctan(slanted[:, entry[0], entry[1]])), -20, 20)
    np.testing.assert_array_equal(slanted[:, 0, 0], 1)


def test_perspective_is_a_change_of_distance_one_side_away():
    found = _motions(perspective=0.3, size=SIDE)
    for axis in range(2):
        away = CENTRE + np.float32(SIDE) * np.eye(2, dtype=np.float32)[axis]
        w = np.einsum("bk,bk->b", found[:, 2], np.concatenate([away, np.ones((COUNT, 1))], axis=1))
        _uniform(w, 0.7, 1.3)
    np.testing.assert_allclose(np.einsum("bk,bk->b", found[:, 2, :2], CENTRE) + found[:, 2, 2], 1, atol=1e-5)


def test_flips_at_random():
    by_coins = _motions(flip=0.3, flip_vertical=0.8)
    for axis, chance in ((0, 0.3), (1, 0.8)):
        signs = by_coins[:, axis, axis] * SIDE / SIZE
        np.testing.assert_array_equal(np.abs(signs), 1)
        assert stats.binomtest(int((signs < 0).sum()), COUNT, chance).pvalue > 1e-6
    assert abs(np.corrcoef(by_coins[:, 0, 0], by_coins[:, 1, 1])[0, 1]) < 0.1
    always = _motions(flip=1.0, flip_vertical=0.0)
    np.testing.assert_array_equal(always[:, 0, 0], -SIZE / SIDE)
    np.testing.assert_array_equal(always[:, 1, 1], SIZE / SIDE)


def test_parts_have_their_own_keys():
    alone, with_others = _motions(scale=0.4), _motions(scale=0.4, translate=0.3, flip=0.5)
    np.testing.assert_array_equal(alone[:, 1, 1], with_others[:, 1, 1])
    assert (_motions(key=1, scale=0.4) != alone).any()


def test_rotation_comes_before_shear_and_flip():
    found = _motions(degrees=60.0, shear=20.0, flip=1.0, size=SIDE)[:50]
    angle, slant = _motions(degrees=60.0, size=SIDE)[:50, :2, :2], _motions(shear=20.0, size=SIDE)[:50, :2, :2]
    np.testing.assert_allclose(found[:, :2, :2], np.diag([-1, 1]) @ slant @ angle, atol=1e-5)
