"""MobileNetV2: published sizes, the stages of table 2, gradients, recomputation, precision, layers, what is refused."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.mobilenet import (
    MOBILENET_V2,
    MobileNetV2,
    MobileNetV2Config,
    layer_of,
    layers,
    scaled_channels,
    total_stride,
)
from vision.parallel.sharding import path_name
from vision.pretrained.rules import named

SMALL = MobileNetV2Config(
    expansions=(1, 2, 3),
    widths=(8, 16, 16),
    depths=(1, 2, 1),
    strides=(1, 2, 1),
    stem_width=8,
    last_width=24,
    classes=3,
)
IMAGE = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))


@cache
def shapes(config, side=16):
    """Shapes of all variables; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, side, side, config.channels), jnp.float32)
    return jax.eval_shape(lambda image: MobileNetV2(config).init(jax.random.key(0), image, train=False), image)


@cache
def variables(config):
    """Variables none of which is zero, with positive scales and variances."""
    generator = np.random.default_rng(0)

    def values(path, leaf):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(generator.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        spread = generator.normal(size=leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 4))
        return jnp.asarray(spread, jnp.float32)

    return jax.tree_util.tree_map_with_path(values, shapes(config))


@cache
def gradient(config, train=True):
    """(logits, gradients of the parameters) without dropout."""
    model = MobileNetV2(dataclasses.replace(config, dropout=0.0))
    given = variables(SMALL)

    def loss(params):
        logits, _ = model.apply({**given, "params": params}, IMAGE, train=train, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(logits)), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(given["params"])
    return logits, gradients


# counted in torchvision 0.28 (width_mult) and, of 0.5 and 1.4, in timm 1.0.31
@pytest.mark.parametrize(
    ("width", "parameters"),
    [(1.0, 3_504_872), (0.1, 1_367_080), (0.35, 1_677_128), (0.5, 1_968_680), (0.75, 2_636_424), (1.4, 6_108_776)],
)
def test_published_sizes(width, parameters):
    tree = shapes(dataclasses.replace(MOBILENET_V2, width=width), 224)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == parameters


def test_channels_are_multiples_of_8_and_never_much_fewer():
    for channels in (16, 24, 32, 64, 96, 160, 320, 1280):
        for multiplier in np.linspace(0.01, 3.0, 97):
            product, rounded = channels * multiplier, scaled_channels(channels, multiplier)
            assert rounded % 8 == 0
            assert max(8, 0.9 * product) <= rounded < product + 8
    assert scaled_channels(24, 0.5) == 16  # 12, where 8 would be a third less


def test_features_have_the_shapes_of_table_2():
    features = jax.eval_shape(
        lambda given: MobileNetV2().apply(given, jnp.zeros((2, 224, 224, 3)), train=False, method="features"),
        shapes(MOBILENET_V2, 224),
    )
    assert {name: leaf.shape for name, leaf in features.items()} == {
        "c1": (2, 112, 112, 16),
        "c2": (2, 56, 56, 24),
        "c3": (2, 28, 28, 32),
        "c4": (2, 14, 14, 96),
        "c5": (2, 7, 7, 1280),
        "pooled": (2, 1280),
    }
    assert total_stride(MOBILENET_V2) == 32


def test_a_network_without_head_gives_the_pooled_features():
    bare = dataclasses.replace(SMALL, classes=0)
    given = variables(bare)
    assert "head" not in given["params"]
    apply = jax.jit(partial(MobileNetV2(bare).apply, train=False, method="features"))
    features = apply(given, IMAGE)
    found = MobileNetV2(bare).apply(given, IMAGE, train=False)
    np.testing.assert_allclose(found, features["pooled"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features["c2"].mean((1, 2)), features["pooled"], rtol=1e-5, atol=1e-6)
    assert features["c2"].shape == (4, 4, 4, 24)
    # the last convolution ends in ReLU6; stages end without activation
    assert features["c2"].min() == 0
    assert features["c1"].min() < 0


@pytest.mark.parametrize("train", [True, False])
def test_every_parameter_receives_a_gradient(train):
    """Biases at the end of blocks not in training: behind a 1x1 convolution the next normalisation removes them."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(SMALL, train)[1]):
        removed = train and path_name(path).endswith("norm_out/bias")
        assert (float(jnp.abs(leaf).max()) < 1e-5) == removed, path_name(path)


def test_remat_changes_no_gradient():
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, gradient(dataclasses.replace(SMALL, remat=True)), gradient(SMALL))


def test_bfloat16_is_near_and_its_logits_and_statistics_are_float32():
    logits, gradients = gradient(dataclasses.replace(SMALL, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, gradients))} == {jnp.dtype("float32")}
    wanted = gradient(SMALL)[0]
    assert 0 < np.abs(logits - wanted).max() < 0.1 * np.abs(wanted).max()
    levels = jax.eval_shape(
        lambda given: MobileNetV2(dataclasses.replace(SMALL, dtype="bfloat16")).apply(
            given, IMAGE, train=False, method="levels"
        ),
        variables(SMALL),
    )
    assert {leaf.dtype for leaf in levels.values()} == {jnp.dtype("bfloat16")}


def test_dropout_is_for_training():
    config = dataclasses.replace(SMALL, dropout=0.5)
    apply = partial(MobileNetV2(config).apply, variables(SMALL), IMAGE)
    trained = lambda seed: apply(train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(seed)})[0]
    assert np.abs(trained(0) - trained(1)).max() > 0.01
    np.testing.assert_array_equal(apply(train=False), apply(train=False))


def test_layers_rise_from_stem_to_head():
    found = {path.split("/")[1]: layer_of(SMALL, path) for path in named(shapes(SMALL)) if path.startswith("params/")}
    assert found == {
        "stem_conv": 0,
        "stem_norm": 0,
        "stage_1_block_0": 1,
        "stage_2_block_0": 2,
        "stage_2_block_1": 3,
        "stage_3_block_0": 4,
        "last_conv": 5,
        "last_norm": 5,
        "head": 6,
    }
    assert layers(SMALL) == 7


def test_stages_that_are_not_equally_many_are_refused():
    with pytest.raises(UserError, match="7 expansions, 7 widths, 2 depths and 7 strides: give each stage one of all"):
        shapes(dataclasses.replace(MOBILENET_V2, depths=(1, 1)))
