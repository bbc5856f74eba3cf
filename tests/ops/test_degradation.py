"""Degradations by name: what each does at a level, what crops lose at their borders, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.ops.degradations.degradation import (
    BicubicDegradation,
    BlurDegradation,
    JpegDegradation,
    NoiseDegradation,
    check_degradation,
    degraded,
    evaluation_levels,
    level_name,
    level_words,
    margin_of,
    random_levels,
)
from vision.ops.degradations.jpeg import jpeg
from vision.ops.degradations.real_esrgan import REAL_ESRGAN
from vision.ops.imresize import imresize

KEY = jax.random.key(0)
IMAGES = jnp.asarray(np.random.default_rng(0).random((2, 48, 48, 3), np.float32))


def at(config, *levels, images=IMAGES, scale=1):
    return np.asarray(degraded(images, config, jnp.array(levels, jnp.float32), scale=scale, key=KEY))


def test_each_image_has_its_level():
    noisy = at(NoiseDegradation(), 0.0, 50.0)
    np.testing.assert_array_equal(noisy[0], IMAGES[0])
    assert abs(np.std(noisy[1] - IMAGES[1]) - 50 / 255) < 0.01
    np.testing.assert_array_equal(at(JpegDegradation(), 10.0, 90.0), jpeg(IMAGES, jnp.array([10.0, 90.0])))
    reduced = at(BicubicDegradation(), 0.0, 1.0, scale=2)
    exact = np.asarray(imresize(IMAGES, 0.5))
    np.testing.assert_array_equal(reduced[0], exact[0])
    np.testing.assert_allclose(255 * reduced[1], np.clip(np.floor(255 * exact[1] + 0.5), 0, 255), atol=1e-4)
    blurry = at(BlurDegradation(sigma=(0.05, 1.0), noise=0.0), 0.05, 1.0)
    np.testing.assert_allclose(blurry[0], IMAGES[0], atol=1e-5)
    assert np.std(blurry[1]) < 0.5 * np.std(IMAGES[1])


def test_levels_of_training_and_of_evaluation():
    blind = NoiseDegradation(sigma=(0.0, 55.0))
    levels = np.asarray(random_levels(blind, 400, key=KEY))
    assert levels.min() < 3
    assert levels.max() > 52
    assert set(np.asarray(random_levels(NoiseDegradation(), 9, key=KEY))) == {25.0}
    assert evaluation_levels(blind) == (15.0, 25.0, 50.0)
    assert evaluation_levels(NoiseDegradation(sigma=(15.0, 30.0))) == (15.0, 25.0)
    assert evaluation_levels(NoiseDegradation(sigma=(60.0, 80.0))) == (70.0,)
    assert evaluation_levels(JpegDegradation()) == (10.0,)
    assert evaluation_levels(BicubicDegradation()) == (1.0,)
    assert [level_name(blind, 25.0), level_name(JpegDegradation(), 10.0)] == ["sigma25", "quality10"]
    assert "not rounded" in level_words(BicubicDegradation(), 0.0)


@pytest.mark.parametrize(
    ("config", "scale"), [(BicubicDegradation(), 3), (BlurDegradation(sigma=(1.0, 1.0), noise=0.0), 1)]
)
def test_inside_of_a_margin_a_crop_is_that_of_the_whole(config, scale):
    margin = margin_of(config, scale)
    whole = at(config, 1.0, 1.0, scale=scale)
    start, side = 2 * scale, 48 - 4 * scale
    part = at(config, 1.0, 1.0, images=IMAGES[:, start : start + side, start : start + side], scale=scale)
    inner = slice(margin, part.shape[1] - margin)
    outer = slice(margin + 2, part.shape[1] - margin + 2)
    np.testing.assert_allclose(part[:, inner, inner], whole[:, outer, outer], atol=1e-5)
    assert margin_of(NoiseDegradation(), 1) == 0


def test_real_esrgan_has_the_scale_of_the_network():
    made = jax.jit(lambda x: degraded(x, REAL_ESRGAN, jnp.zeros(2), scale=2, key=KEY))(IMAGES)
    assert made.shape == (2, 24, 24, 3)


def test_what_makes_no_sense_is_said():
    with pytest.raises(UserError, match="the smaller end of a degradation's range comes first, not 30 before 20"):
        check_degradation(NoiseDegradation(sigma=(30.0, 20.0)), 1)
    with pytest.raises(UserError, match="leave nothing to restore"):
        check_degradation(BicubicDegradation(), 1)
    check_degradation(dataclasses.replace(REAL_ESRGAN), 4)
