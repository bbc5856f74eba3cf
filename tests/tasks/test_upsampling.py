"""Upsampling as conditional diffusion: levels of noise, blur, crops, and what the network is given."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.tasks import upsampling as module
from vision.tasks.upsampling import (
    IMAGE,
    LEVEL,
    UpsamplingConfig,
    augmented,
    blurred_some,
    check_upsampling,
    conditions_of,
    cropped,
    enlarged,
    noised,
    reduced,
    upsampling_conditioning,
    upsampling_loss,
)

CONFIG = UpsamplingConfig()


def images(count=4, side=16):
    return jax.random.uniform(jax.random.key(0), (count, side, side, 3), minval=-1.0)


def test_noise_preserves_the_variance_and_has_its_level():
    image, noise = jax.random.normal(jax.random.key(0), (2, 3, 64, 64, 3))
    level = jnp.array([0.0, 0.5, 1.0])
    found = noised(image, level, noise)
    np.testing.assert_allclose(found[0], image[0], atol=1e-6)
    np.testing.assert_allclose(found[1], (image[1] + noise[1]) / np.sqrt(2), atol=1e-5)
    np.testing.assert_allclose(found[2], noise[2], atol=1e-6)
    np.testing.assert_allclose(found.std((1, 2, 3)), 1.0, atol=0.02)


def test_levels_of_training_are_uniform_and_named():
    config = replace(CONFIG, noise=0.4, blur=0.0)
    found = augmented(jnp.zeros((512, 8, 8, 1)), config, key=jax.random.key(1))
    level = np.asarray(found[LEVEL])
    assert 0 <= level.min() < 0.02
    assert 0.38 < level.max() <= 0.4
    assert level.mean() == pytest.approx(0.2, abs=0.02)
    # of an image of zeros all that is left is the noise, whose deviation is sin(pi/2 level) before it is enlarged
    strong = np.abs(np.asarray(found[IMAGE])).mean((1, 2, 3))
    assert np.corrcoef(strong, np.sin(np.pi / 2 * level))[0, 1] > 0.9
    quiet = augmented(images(), UpsamplingConfig(noise=0.0, blur=0.0), key=jax.random.key(1))
    assert float(quiet[LEVEL].max()) < 1e-9
    np.testing.assert_allclose(quiet[IMAGE], enlarged(reduced(images(), factor=2), factor=2), atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_images_is_blurred(share):
    image = jax.random.uniform(jax.random.key(0), (400, 4, 4, 1))
    found = blurred_some(image, share=share, deviation=(0.4, 0.6), key=jax.random.key(2))
    changed = np.abs(found - image).max((1, 2, 3)) > 1e-6
    assert changed.mean() == pytest.approx(share, abs=0.06)
    # a 3x3 Gaussian of deviation s: the middle has 1 / (1 + 2 exp(-1 / (2 s^2)))^2 of the weight
    point = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2].set(1.0)
    spread = blurred_some(point, share=1.0, deviation=(0.5, 0.5), key=jax.random.key(2))
    assert float(spread[0, 2, 2, 0]) == pytest.approx(1 / (1 + 2 * np.exp(-2)) ** 2, rel=1e-5)
    assert float(spread.sum()) == pytest.approx(1.0, rel=1e-5)


def test_sampling_has_one_level_and_noise_by_the_place():
    small = images(side=8)
    clean = conditions_of(small, CONFIG, index=jnp.arange(4), key=jax.random.key(3))
    np.testing.assert_allclose(clean[IMAGE], enlarged(small, factor=2), atol=1e-5)
    assert clean[IMAGE].shape == (4, 16, 16, 3)
    config = replace(CONFIG, sampled_level=0.25)
    one = conditions_of(small, config, index=jnp.array([0, 1, 2, 3]), key=jax.random.key(3))
    other = conditions_of(small[::-1], config, index=jnp.array([3, 2, 1, 0]), key=jax.random.key(3))
    np.testing.assert_array_equal(one[LEVEL], [0.25] * 4)
    np.testing.assert_allclose(one[IMAGE], other[IMAGE][::-1], atol=1e-5)
    assert float(jnp.abs(one[IMAGE] - clean[IMAGE]).max()) > 0.1


def test_the_loss_is_given_small_images_levels_and_the_same_crop():
    seen = {}

    def loss(params, model_state, batch, *, key, step):
        seen.update(batch)
        return jnp.zeros(()), (model_state, {})

    large = images()
    config = UpsamplingConfig(noise=0.0, blur=0.0, crop=8)
    upsampling_loss(loss, config)({}, {}, {"image": large}, key=jax.random.key(0), step=0)
    assert seen["image"].shape == seen["condition_image"].shape == (4, 8, 8, 3)
    whole = enlarged(reduced(large, factor=2), factor=2)
    for place in range(4):
        # where the crop of the large image lies, that of the small one lies too
        at = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if np.allclose(large[place, y : y + 8, x : x + 8], seen["image"][place])
        ]
        assert len(at) == 1
        (y, x) = at[0]
        np.testing.assert_allclose(seen["condition_image"][place], whole[place, y : y + 8, x : x + 8], atol=1e-5)


def test_crops_are_everywhere():
    ramp = jnp.tile(jnp.arange(12.0)[None, :, None, None], (300, 1, 12, 1))
    found = cropped({"image": ramp, "condition_image": ramp}, 4, key=jax.random.key(0))
    tops, counts = np.unique(found["image"][:, 0, 0, 0], return_counts=True)
    np.testing.assert_array_equal(tops, np.arange(9))
    assert counts.min() > 10


def test_every_sample_has_its_small_image():
    """It is neither dropped nor replaced for guidance."""
    conditioning = upsampling_conditioning()
    assert not conditioning
    condition = {IMAGE: images(), LEVEL: jnp.full(4, 0.3)}
    null = conditioning.null(condition)
    assert null[IMAGE] is condition[IMAGE]
    assert null[LEVEL] is condition[LEVEL]
    dropped = conditioning.dropped(condition, probability=1.0, key=jax.random.key(0))
    np.testing.assert_array_equal(dropped[IMAGE], condition[IMAGE])
    assert module.NULLS.keys() == conditioning.always


@pytest.mark.parametrize(
    ("change", "size", "words"),
    [
        ({"factor": 3}, 32, "no multiple of upsampling.factor 3"),
        ({"blur_deviation": (0.6, 0.4)}, 32, "a smallest and a largest deviation, not 0.6 0.4"),
        ({"sampled_level": 0.7}, 32, "more noise than the network was trained with"),
        ({"crop": 64}, 32, "is larger than the images of 32 pixels"),
        ({"factor": 16}, 16, "too small to be blurred"),
        ({"factor": 1}, 16, "factor must be at least 2"),
        ({"noise": 1.5}, 16, "noise must be at least 0 and at most 1"),
    ],
)
def test_impossible_settings(change, size, words):
    with pytest.raises(UserError, match=words):
        check_upsampling(replace(CONFIG, **change), size=size)
