"""Variational autoencoders: written-out sizes, gradients, and what the flat and the hierarchical one have in common."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.hvae import Hvae, HvaeConfig
from vision.models.vae import Vae, VaeConfig
from vision.nn.latent import gaussian_kl, gaussian_log_density
from vision.tasks.likelihood import Gaussian

FLAT = VaeConfig(latent=3, resolution=8, channels=1, patch=2, widths=(4, 6), blocks=1, hidden=(7,))
DEEP = HvaeConfig(resolution=8, channels=1, patch=2, sides=(1, 2, 4), groups=(1, 2, 1), width=8, latent=2)
PERCEPTRON = dataclasses.replace(FLAT, patch=8, widths=(5,), blocks=0)
IMAGE = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1), minval=-1.0)
MODELS = {"flat": Vae(FLAT, 1), "perceptron": Vae(PERCEPTRON, 1), "deep": Hvae(DEEP, 1)}


def variables_of(model, *, noisy=True):
    """Parameters none of which is zero, so that nothing hides behind the zero initialisation."""
    made = model.init(jax.random.key(1), IMAGE, key=jax.random.key(2))
    keys = iter(jax.random.split(jax.random.key(3), 500))
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), made) if noisy else made


def count(model, side, channels):
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, side, side, channels)), key=jax.random.key(0))
    )
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def test_size_of_the_flat_network_as_its_layers_add_up():
    dense, conv = lambda a, b: a * b + b, lambda a, b: 9 * a * b + b
    block = lambda c: 2 * conv(c, c)
    up = down = dense(4 * 64, 128), dense(128, 64)
    both = 4 * block(64) + 4 * block(128) + down[0] + up[1]
    encoder = dense(12, 64) + dense(8 * 8 * 128, 512) + 2 * dense(512, 128)
    decoder = dense(128, 512) + dense(512, 8 * 8 * 128) + dense(64, 4 * 50)
    assert count(Vae(VaeConfig(), 50), 32, 3) == both + encoder + decoder == 10_125_768


def test_size_of_the_ladder_as_its_layers_add_up():
    dense, conv = lambda a, b: a * b + b, lambda a, b: 9 * a * b + b

    def block(inputs, outputs, side):
        inner = (conv if side > 2 else dense)(32, 32)
        return dense(inputs, 32) + 2 * inner + dense(32, outputs)

    group = lambda side: 2 * block(128, 128, side) + block(256, 32, side) + block(128, 160, side) + dense(16, 128)
    groups = group(1) + 2 * group(4) + 3 * group(8) + 4 * group(16)
    starts = 128 * (1 + 16 + 64 + 256)
    assert count(Hvae(HvaeConfig(), 50), 32, 3) == groups + starts + dense(12, 128) + dense(128, 200) == 1_120_584


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_receives_a_gradient(name):
    model = MODELS[name]
    values = variables_of(model)

    def bound(values):
        found = model.apply(values, IMAGE, key=jax.random.key(4))
        return (Gaussian(0.3).log_density(found.outputs, IMAGE) - found.kl.sum(-1)).sum()

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(bound))(values)):
        assert jnp.any(leaf != 0.0), jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", MODELS)
def test_the_mean_ratio_of_samples_is_the_divergence(name):
    """E[log q - log p] over latents is the sum of the divergences, within five standard errors."""
    model = MODELS[name]
    values = variables_of(model)
    images = jnp.repeat(IMAGE[:1], 4000, axis=0)
    found = jax.jit(lambda v: model.apply(v, images, key=jax.random.key(5)))(values)
    total = np.asarray(found.kl.sum(-1), np.float64)
    difference = np.asarray(found.log_ratio, np.float64) - total
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(len(total))
    assert (found.kl >= -1e-5).all()
    assert found.log_ratio.std() > 0.01


@pytest.mark.parametrize("name", MODELS)
def test_images_do_not_depend_on_their_neighbours(name):
    model = MODELS[name]
    values = variables_of(model)
    run = jax.jit(lambda image: model.apply(values, image, key=jax.random.key(6)))
    for all_of_them, alone in zip(run(IMAGE), run(IMAGE[:1]), strict=True):
        np.testing.assert_allclose(all_of_them[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_drawing(name):
    model = MODELS[name]
    values = variables_of(model)
    draw = lambda temperature, seed: model.apply(
        values, jnp.arange(4), key=jax.random.key(seed), temperature=temperature, method="sample"
    )
    drawn = draw(1.0, 0)
    assert drawn.shape == (4, 8, 8, 1)
    assert jnp.abs(drawn[0] - drawn[1]).max() > 1e-3
    np.testing.assert_allclose(draw(0.0, 0), draw(0.0, 1), atol=1e-6)  # without deviation all are the mean


def test_a_new_ladder_says_nothing_of_the_image():
    """All divergences are 0 at first: posterior and prior begin equal."""
    model = MODELS["deep"]
    found = model.apply(variables_of(model, noisy=False), IMAGE, key=jax.random.key(0))
    assert found.kl.shape == (3, 4)
    np.testing.assert_allclose(found.kl, 0.0, atol=1e-6)


def test_the_parts_of_the_flat_network_are_the_whole():
    model = MODELS["flat"]
    values = variables_of(model)
    found = model.apply(values, IMAGE, key=jax.random.key(7))
    mean, log_variance = model.apply(values, IMAGE, method=Vae.encode)
    np.testing.assert_allclose(found.kl, gaussian_kl(mean, log_variance), rtol=1e-5, atol=1e-6)
    ratio = gaussian_log_density(found.code, mean, log_variance) - gaussian_log_density(found.code, 0.0, 0.0)
    np.testing.assert_allclose(found.log_ratio, ratio.sum(-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.outputs, model.apply(values, found.code, method=Vae.decode), rtol=1e-5, atol=1e-6)
