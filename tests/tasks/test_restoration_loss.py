"""Restoration as a task: errors by hand, networks on colours, the game of restored and true images."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.ops.imresize import imresize
from vision.ops.ycbcr import luma, rgb_to_ycbcr
from vision.tasks.adversarial import HINGE, RELATIVISTIC_AVERAGE
from vision.tasks.restoration import (
    RestorationLossConfig,
    feature_error,
    network_view,
    on_colours,
    pixel_error,
    restoration_loss,
)
from vision.tasks.restoration_adversarial import restoring_discriminator_loss, restoring_generator_loss

GENERATOR = np.random.default_rng(0)
IMAGES, OTHER = (jnp.asarray(GENERATOR.random((2, 8, 8, 3), np.float32)) for _ in range(2))


class Scale(nn.Module):
    """Multiplies by a parameter."""

    @nn.compact
    def __call__(self, image, *, train):
        return image * self.param("factor", nn.initializers.constant(0.5), ())


class Mean(nn.Module):
    """A logit: a parameter times the mean."""

    @nn.compact
    def __call__(self, image, *, train):
        return self.param("weight", nn.initializers.constant(2.0), ()) * image.mean((1, 2, 3))


@pytest.mark.parametrize(
    ("name", "function"),
    [("l1", np.abs), ("l2", np.square), ("charbonnier", lambda d: np.sqrt(d**2 + 1e-6))],
)
def test_errors_of_pixels(name, function):
    found = pixel_error(IMAGES, OTHER, RestorationLossConfig(name=name))
    np.testing.assert_allclose(found, function(np.asarray(IMAGES - OTHER)).mean((1, 2, 3)), rtol=1e-5)


def test_the_loss_is_a_weighted_sum():
    features = lambda variables, images: [variables * images, images[:, ::2]]
    config = RestorationLossConfig(pixels=0.25, perceptual=3.0)
    loss = restoration_loss(Scale(), config, features=features)
    batch = {"image": IMAGES, "target": OTHER}
    state = {"frozen": {"perceptual": jnp.float32(2.0)}}
    value, (kept, scalars) = loss({"factor": jnp.float32(0.5)}, state, batch, key=jax.random.key(0), step=0)
    difference = np.abs(np.asarray(0.5 * IMAGES - OTHER))
    far = 2.0 * difference.mean() + difference[:, ::2].mean()
    np.testing.assert_allclose(scalars["perceptual"], far, rtol=1e-5)
    np.testing.assert_allclose(value, 0.25 * difference.mean() + 3.0 * far, rtol=1e-5)
    assert kept.keys() == state.keys()
    assert feature_error([IMAGES], [IMAGES]).tolist() == [0.0, 0.0]


def test_networks_of_one_channel_on_colours():
    twice = lambda images: imresize(images, 2.0)
    made = on_colours(twice, channels=1, scale=2)(IMAGES)
    np.testing.assert_allclose(made, imresize(IMAGES, 2.0), atol=1e-5)
    darker = on_colours(lambda images: imresize(images, 2.0) - 0.1, channels=1, scale=2)(IMAGES)
    np.testing.assert_allclose(luma(darker), luma(made) - 0.1, atol=1e-5)
    np.testing.assert_allclose(rgb_to_ycbcr(darker)[..., 1:], rgb_to_ycbcr(made)[..., 1:], atol=1e-5)
    half = on_colours(lambda images: 0.5 * images, channels=1, scale=1)
    np.testing.assert_allclose(half(IMAGES), 0.5 * IMAGES)
    assert half(IMAGES[..., :1]).shape == (2, 8, 8, 1)


def test_networks_of_colours_on_grey():
    grey = on_colours(lambda images: images * jnp.array([0.0, 1.0, 2.0]), channels=3, scale=1)(IMAGES[..., :1])
    np.testing.assert_allclose(grey, IMAGES[..., :1], atol=1e-6)
    assert network_view(IMAGES, channels=1, scale=2).shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(network_view(IMAGES, channels=1, scale=2), luma(IMAGES))
    np.testing.assert_array_equal(network_view(IMAGES, channels=3, scale=2), IMAGES)


def test_the_relativistic_average_is_its_definition():
    real, fake = jnp.array([1.0, 3.0]), jnp.array([-1.0, 0.5])
    sigmoid = lambda x: 1 / (1 + np.exp(-np.asarray(x, np.float64)))
    of_real, of_fake = sigmoid(real - fake.mean()), sigmoid(fake - real.mean())
    loss = -np.log(of_real).mean() - np.log(1 - of_fake).mean()
    np.testing.assert_allclose(RELATIVISTIC_AVERAGE.discriminator(real, fake), loss, rtol=1e-5)
    loss = -np.log(1 - of_real).mean() - np.log(of_fake).mean()
    np.testing.assert_allclose(RELATIVISTIC_AVERAGE.generator(real, fake), loss, rtol=1e-5)


@pytest.mark.parametrize("loss", [HINGE, RELATIVISTIC_AVERAGE], ids=["hinge", "relativistic"])
def test_the_players(loss):
    params = {"generator": {"factor": jnp.float32(0.5)}, "discriminator": {"weight": jnp.float32(2.0)}}
    batch = {"image": IMAGES, "target": OTHER}
    real, fake = 2.0 * OTHER.mean((1, 2, 3)), IMAGES.mean((1, 2, 3))
    critic = restoring_discriminator_loss(Scale(), Mean(), loss)
    run = lambda params: critic(params, {}, batch, key=jax.random.key(0), step=0)
    np.testing.assert_allclose(run(params)[0], loss.discriminator(real, fake), rtol=1e-5)
    slope = jax.grad(lambda params: run(params)[0])(params)
    assert slope["generator"]["factor"] == 0.0
    assert slope["discriminator"]["weight"] != 0.0
    player = restoring_generator_loss(Scale(), Mean(), RestorationLossConfig(pixels=2.0), loss, weight=0.5)
    value, (_, scalars) = player(params, {}, batch, key=jax.random.key(0), step=0)
    wanted = 2.0 * jnp.abs(0.5 * IMAGES - OTHER).mean() + 0.5 * loss.generator(real, fake)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert scalars.keys() == {"pixels", "adversarial"}
