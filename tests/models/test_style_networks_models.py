"""Networks that paint: instance normalisation, statistics of the whole for tiles, AdaIN, sizes and parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from vision.models.style.adain import (
    AdainDecoder,
    AdainDecoderConfig,
    ChannelStatistics,
    adain,
    blended,
    channel_statistics,
)
from vision.models.style.transformer import StyleTransformer, StyleTransformerConfig
from vision.models.vgg import VGG16
from vision.nn.norms import InstanceNorm


def features(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(2.0, 3.0, shape), jnp.float32)


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_instance_norm():
    found = features(2, 5, 4, 3)
    variables = InstanceNorm().init(jax.random.key(0), found)
    assert set(variables) == {"params"}
    made = np.asarray(InstanceNorm().apply(variables, found))
    np.testing.assert_allclose(made.mean((1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(made.std((1, 2)), 1.0, atol=1e-4)
    kept = InstanceNorm().apply(variables, found, mutable=["statistics"])[1]
    tile = InstanceNorm().apply({**variables, **kept}, found[:, :2])
    np.testing.assert_allclose(tile, made[:, :2], atol=1e-6)


def test_the_published_network_has_the_papers_size():
    """Supplementary table 1: 1.7 M weights of convolutions; here normalisations have the biases."""
    shapes = jax.eval_shape(
        lambda key: StyleTransformer().init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0)
    )
    c = 32
    kernels = 81 * 3 * c * 2 + 9 * (c * 2 * c + 2 * c * 4 * c) * 2 + 5 * 2 * 9 * (4 * c) ** 2
    norms = 2 * (c + 2 * c + 4 * c + 10 * 4 * c + 2 * c + c)
    assert count(shapes) == kernels + norms + 3


def test_a_tile_is_painted_as_the_whole():
    """Beyond the reach of its borders, with the statistics of the whole."""
    model = StyleTransformer(StyleTransformerConfig(width=4, blocks=1))
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 96, 32, 3)), jnp.float32)
    variables = jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(image)
    whole, kept = jax.jit(lambda x: model.apply(variables, x, train=False, mutable=["statistics"]))(image)
    tile = jax.jit(lambda x: model.apply({**variables, **kept}, x, train=False))(image[:, :64])
    assert whole.shape == image.shape
    np.testing.assert_allclose(tile[:, :40], whole[:, :40], atol=1e-5)
    assert np.abs(np.asarray(tile[:, 60:] - whole[:, 60:64])).max() > 1e-4


def test_adain_has_the_statistics_of_the_style():
    found, style = features(2, 6, 5, 3), features(2, 4, 7, 3, seed=1)
    made, wanted = channel_statistics(adain(found, channel_statistics(style))), channel_statistics(style)
    for one, other in zip(made, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_mixtures():
    found = features(1, 4, 4, 3)
    styles = [channel_statistics(features(1, 4, 4, 3, seed=seed) * (seed + 1)) for seed in (1, 2)]
    one, other = (adain(found, style) for style in styles)
    weights = jnp.broadcast_to(jnp.array([3.0, 1.0]), (1, 4, 4, 2))
    np.testing.assert_allclose(blended(found, styles, weights), 0.75 * one + 0.25 * other, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(blended(found, styles, weights, alpha=0.0), found, rtol=1e-5)
    left = jnp.zeros((1, 4, 4, 2)).at[:, :, :2, 0].set(1.0).at[:, :, 2:, 1].set(1.0)
    made = blended(found, styles, left)
    np.testing.assert_allclose(made[:, :, :2], one[:, :, :2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(made[:, :, 2:], other[:, :, 2:], rtol=1e-5, atol=1e-5)
    given = ChannelStatistics(jnp.zeros((1, 1, 1, 3)), jnp.ones((1, 1, 1, 3)))
    np.testing.assert_allclose(adain(found, given, own=given), found, rtol=1e-6)


def test_the_decoder_mirrors_the_encoder():
    """Its convolutions are those of VGG16 up to relu4_1 in reverse (Huang & Belongie 2017, section 6)."""
    decoder = AdainDecoder(AdainDecoderConfig(encoder=VGG16, stage=4))
    made, shapes = jax.eval_shape(
        lambda key: decoder.init_with_output(key, jnp.zeros((1, 4, 6, 512)), train=False), jax.random.key(0)
    )
    assert made.shape == (1, 32, 48, 3)
    widths = [(512, 256), (256, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64), (64, 3)]
    assert count(shapes) == sum(9 * one * other + other for one, other in widths)
