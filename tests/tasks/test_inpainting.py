"""Conditions of inpainting: nothing of what is masked reaches the network, and nothing outside of it changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.diffusion.conditions import Conditioning
from vision.errors import UserError
from vision.ops.pixels import to_float, to_uint8
from vision.tasks.inpainting import (
    InpaintingConfig,
    check_inpainting,
    inpainting_conditioning,
    inpainting_loss,
    inpainting_sampler,
    masked,
    with_masks,
)

KEY = jax.random.key(0)


made = functools.partial(jax.jit(with_masks, static_argnums=1), key=KEY)


def batch(count=6, side=8):
    image = jax.random.uniform(KEY, (count, side, side, 3), minval=-1.0)
    region = jnp.zeros((count, side, side, 1), jnp.uint8).at[:-1, 2:5, 3:6].set(255)
    return {"image": image, "region": region, "tokens": jnp.ones((count, 4), jnp.int32)}


def test_the_condition_is_the_image_without_what_is_masked_and_the_mask():
    image = jnp.full((1, 2, 2, 3), 0.5)
    mask = jnp.array([[0.0, 1.0], [0.25, 0.0]]).reshape(1, 2, 2, 1)
    found = masked(image, mask)
    np.testing.assert_array_equal(found[0, ..., 0], [[0.5, 0.0], [0.0, 0.5]])
    np.testing.assert_array_equal(found[0, ..., 3], [[-1.0, 1.0], [1.0, -1.0]])


def test_edited_regions_keep_their_words_and_random_masks_have_none():
    of_regions = made(batch(), InpaintingConfig(random=0.0, masks=("half",)))
    inside = of_regions["condition_image"][..., 3:] > 0
    np.testing.assert_array_equal(inside[:-1], batch()["region"][:-1] > 0)
    np.testing.assert_array_equal(of_regions["tokens"][:-1], 1)
    # a region of nothing is replaced by a random mask
    assert inside[-1].any()
    assert (of_regions["tokens"][-1] == 0).all()
    of_random = made(batch(), InpaintingConfig(random=1.0, masks=("half",)))
    np.testing.assert_allclose((of_random["condition_image"][..., 3] > 0).mean((1, 2)), 0.5)
    assert (of_random["tokens"] == 0).all()
    photographs = made({"image": batch()["image"]}, InpaintingConfig(masks=("box",)))
    assert set(photographs) == {"image", "condition_image"}


def test_the_condition_does_not_depend_on_what_is_masked():
    def seen(image):
        return made({**batch(), "image": image}, InpaintingConfig(random=0.0, masks=("half",)))["condition_image"]

    image = batch()["image"]
    np.testing.assert_array_equal(seen(image), seen(image.at[:-1, 2:5, 3:6].set(0.9)))
    assert (seen(image) != seen(image.at[:, 0, 0].set(0.9))).any()


def test_the_loss_is_given_the_masked_image():
    def loss(params, model_state, batch, *, key, step):
        return jnp.mean(batch["condition_image"][..., :3] ** 2), (model_state, {})

    found, _ = inpainting_loss(loss, InpaintingConfig(random=0.0, masks=("half",)))(
        {}, {}, batch(), key=KEY, step=jnp.int32(0)
    )
    assert 0.0 < found < jnp.mean(batch()["image"] ** 2)


def test_samples_have_the_pixels_of_the_image_outside_of_the_mask():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8))
    mask = batch(3)["region"].at[-1, 0, 0].set(1)

    def sample(variables, condition, index, key, /):
        assert set(condition) == {"image", "tokens"}
        return jnp.full(image.shape, 0.3)

    condition = {"image": image, "mask": mask, "tokens": jnp.zeros((3, 4), jnp.int32)}
    made = to_uint8(inpainting_sampler(sample)({}, condition, jnp.arange(3), KEY))
    outside = np.broadcast_to(mask == 0, made.shape)
    np.testing.assert_array_equal(np.asarray(made)[outside], np.asarray(image)[outside])
    assert (np.asarray(made)[~outside] == np.asarray(to_uint8(jnp.float32(0.3)))).all()
    levels = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(levels)), levels)


def test_the_masked_image_is_never_dropped_and_words_are():
    conditioning = inpainting_conditioning(words=True)
    assert isinstance(conditioning, Conditioning)
    assert bool(conditioning)
    assert not inpainting_conditioning(words=False)
    condition = {"image": jnp.ones((2, 4, 4, 4)), "tokens": jnp.ones((2, 3), jnp.int32)}
    null = conditioning.null(condition)
    np.testing.assert_array_equal(null["image"], condition["image"])
    assert (null["tokens"] == 0).all()


def test_no_mask_is_an_error():
    with pytest.raises(UserError, match="masks is empty"):
        check_inpainting(InpaintingConfig(masks=()))
