"""Autoencoders for latent models: written-out sizes, gradients, and latents that decode to the reconstruction."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.autoencoder import Autoencoder, AutoencoderConfig
from vision.nn.latent import gaussian_kl

VQ = AutoencoderConfig(codes=16, latent=3, channels=1, patch=2, widths=(4, 8), blocks=1)
KL = dataclasses.replace(VQ, bottleneck="kl", attention=False)
IMAGE = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1), minval=-1.0)


def variables_of(config):
    made = Autoencoder(config).init({"params": jax.random.key(1)}, IMAGE, key=jax.random.key(2), train=False)
    keys = iter(jax.random.split(jax.random.key(3), 500))
    noisy = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), made["params"])
    return {**made, "params": noisy}


@pytest.mark.parametrize("bottleneck", ["vq", "kl"])
def test_size_as_the_layers_add_up(bottleneck):
    config = AutoencoderConfig(bottleneck=bottleneck)
    dense, conv, norm = lambda a, b: a * b + b, lambda a, b: 9 * a * b + b, lambda c: 2 * c
    blocks = sum(2 * (2 * norm(c) + 2 * conv(c, c)) for c in (64, 128))
    attention = norm(128) + 4 * dense(128, 128)
    encoder = dense(12, 64) + dense(256, 128) + norm(128) + dense(128, 64 if bottleneck == "vq" else 128)
    decoder = dense(64, 128) + dense(128, 64) + norm(64) + dense(64, 12)
    model = Autoencoder(config)
    arguments = {"key": jax.random.key(0), "train": False}
    made = jax.eval_shape(lambda: model.init({"params": jax.random.key(0)}, jnp.zeros((1, 32, 32, 3)), **arguments))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(made["params"]))
    assert count == 2 * (blocks + attention) + encoder + decoder
    assert ("codebook" in made) == (bottleneck == "vq")
    assert config.factor == 4


@pytest.mark.parametrize("config", [VQ, KL])
def test_every_parameter_receives_a_gradient(config):
    values = variables_of(config)

    def loss(params):
        made = Autoencoder(config).apply({**values, "params": params}, IMAGE, key=jax.random.key(4), train=False)
        return jnp.sum(jnp.sin(3 * made.image)) + made.penalty

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(values["params"])):
        assert jnp.any(leaf != 0.0), jax.tree_util.keystr(path)


def test_indices_decode_to_what_was_rebuilt():
    values, model = variables_of(VQ), Autoencoder(VQ)
    made = model.apply(values, IMAGE, key=jax.random.key(4), train=False)
    indices = model.apply(values, IMAGE, method=Autoencoder.encode)
    assert indices.shape == (2, 2, 2)
    assert indices.dtype == jnp.int32
    np.testing.assert_allclose(model.apply(values, indices, method=Autoencoder.decode), made.image, atol=1e-5)


def test_gaussian_codes_are_noise_around_the_means():
    values, model = variables_of(KL), Autoencoder(KL)
    encoded = model.apply(values, IMAGE, method=lambda self, image: self.encoder(image))
    mean, log_variance = jnp.split(encoded, 2, axis=-1)
    np.testing.assert_allclose(model.apply(values, IMAGE, method=Autoencoder.encode), mean)
    made = model.apply(values, IMAGE, key=jax.random.key(4), train=True)
    np.testing.assert_allclose(made.penalty, gaussian_kl(mean, log_variance).sum() / IMAGE.size, rtol=1e-5)
    other = model.apply(values, IMAGE, key=jax.random.key(5), train=True)
    assert jnp.abs(made.image - other.image).max() > 1e-4


def test_training_updates_only_the_codebook():
    values, model = variables_of(VQ), Autoencoder(VQ)
    made, new = model.apply(values, IMAGE, key=jax.random.key(4), train=True, mutable=["codebook"])
    assert set(new) == {"codebook"}
    assert not np.array_equal(new["codebook"]["quantizer"]["codes"], values["codebook"]["quantizer"]["codes"])
    assert set(made.statistics) == {"perplexity", "usage"}
