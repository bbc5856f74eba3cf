"""Losses of networks that paint: every parameter receives a gradient, and a perfect result costs nothing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.style.adain import AdainDecoder, AdainDecoderConfig
from vision.models.style.transformer import StyleTransformer, StyleTransformerConfig
from vision.models.vgg import VggConfig
from vision.recipes.style_features import StyleNetwork
from vision.tasks.style import StyleLossConfig, gram_matrix
from vision.tasks.style_networks import AdainLossConfig, any_style_loss, one_style_loss

VGG = VggConfig(depths=(1, 2), widths=(8, 8), classes=0)
LAYERS = ("relu1_1", "relu2_1")


@pytest.fixture(scope="module")
def network():
    found = StyleNetwork(VGG, LAYERS, None)
    return found, found.load()


def images(seed):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(2, 16, 16, 3)), jnp.float32)


def assert_all_receive(loss, params, model_state, batch):
    made = jax.jit(jax.grad(lambda params: loss(params, model_state, batch, key=jax.random.key(0), step=0)[0]))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(made):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_one_style(network):
    of, variables = network
    model = StyleTransformer(StyleTransformerConfig(width=4, blocks=1))
    params = model.init(jax.random.key(0), images(0), train=True)["params"]
    config = StyleLossConfig(content_layers=("relu2_1",), style_layers=LAYERS)
    painting = {name: gram_matrix(found[:1]) for name, found in of.activations(variables, images(1)).items()}
    state = {"frozen": {"features": variables, "painting": painting}}
    loss = one_style_loss(model, of.activations, config)
    assert_all_receive(loss, params, state, {"image": images(0)})


def test_any_style(network):
    of, variables = network
    decoder = AdainDecoder(AdainDecoderConfig(encoder=VGG, stage=2))
    params = decoder.init(jax.random.key(0), jnp.zeros((1, 8, 8, 8)), train=True)["params"]
    loss = any_style_loss(decoder, of.activations, LAYERS, AdainLossConfig(total_variation=1.0))
    state = {"frozen": {"features": variables}}
    assert_all_receive(loss, params, state, {"image": images(0), "style": images(1)})


def test_a_decoder_that_inverts_the_encoder_has_no_loss(network):
    """With the photograph as its own style."""
    of, variables = network
    batch = {"image": images(0), "style": images(0)}

    class Known(nn.Module):
        def __call__(self, features, *, train):
            return batch["image"]

    loss = any_style_loss(Known(), of.activations, LAYERS, AdainLossConfig())
    value, (_, scalars) = loss({}, {"frozen": {"features": variables}}, batch, key=jax.random.key(0), step=0)
    assert float(value) < 1e-6
    assert float(scalars["total_variation"]) > 0
