"""VGG: published sizes, levels, activations by name, gradients, recomputation, precision, layers, what is refused."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.vgg import SHARDING_RULES, VGG16, VGG19, Vgg, VggConfig, layer_of, layers
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name, shardings
from vision.pretrained.rules import named

SMALL = VggConfig(depths=(2, 1, 3), widths=(4, 8, 8), hidden=6, dropout=0.0, classes=3)
IMAGE = jax.random.normal(jax.random.key(0), (2, 17, 20, 3))


@cache
def shapes(config, side=32):
    """Shapes of all variables; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, side, side, config.channels), jnp.float32)
    return jax.eval_shape(lambda image: Vgg(config).init(jax.random.key(0), image, train=False), image)


@cache
def variables(config):
    """Variables none of which is zero."""
    generator = np.random.default_rng(0)
    spread = lambda leaf: generator.normal(size=leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]) / 2, 4))
    return jax.tree.map(lambda leaf: jnp.asarray(spread(leaf), jnp.float32), shapes(config))


@cache
def gradient(config):
    """(logits, gradients of the parameters)."""

    def loss(params):
        logits = Vgg(config).apply({"params": params}, IMAGE, train=True)
        return jnp.sum(jnp.sin(logits)), logits

    gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(variables(SMALL)["params"])
    return logits, gradients


@pytest.mark.parametrize(("config", "parameters"), [(VGG16, 138_357_544), (VGG19, 143_667_240)])
def test_published_sizes(config, parameters):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(config))) == parameters
    without = shapes(dataclasses.replace(config, classes=0))["params"]
    assert {name.split("_")[0] for name in without} == {"stage"}


def test_levels_halve_and_round_down():
    image = jax.ShapeDtypeStruct((2, 100, 75, 3), jnp.float32)
    apply = partial(Vgg(VGG16).apply, train=False, method="features")
    assert {name: leaf.shape for name, leaf in jax.eval_shape(apply, shapes(VGG16), image).items()} == {
        "c0": (2, 100, 75, 64),
        "c1": (2, 50, 37, 128),
        "c2": (2, 25, 18, 256),
        "c3": (2, 12, 9, 512),
        "c4": (2, 6, 4, 512),
        "c5": (2, 3, 2, 512),
        "pooled": (2, 512),
    }
    assert Vgg(VGG16).output_stride == 32


def test_activations_by_name():
    names = ("relu3_2", "conv1_2", "pool2", "relu1_2", "conv3_2")
    bare = {"params": {name: leaf for name, leaf in variables(SMALL)["params"].items() if "stage" in name}}
    found, levels, pooled = jax.jit(
        lambda v: (
            Vgg(SMALL).apply(v, IMAGE, names, method="activations"),
            Vgg(SMALL).apply(v, IMAGE, train=False, method="levels"),
            Vgg(dataclasses.replace(SMALL, classes=0)).apply(v, IMAGE, train=False),
        )
    )(bare)
    assert tuple(sorted(found)) == tuple(sorted(names))
    for stage, number in ((1, 2), (3, 2)):
        np.testing.assert_array_equal(found[f"relu{stage}_{number}"], jnp.maximum(found[f"conv{stage}_{number}"], 0))
        assert found[f"conv{stage}_{number}"].min() < 0
    np.testing.assert_array_equal(found["relu1_2"], levels["c0"])
    squares = levels["c1"][:, :8, :10].reshape(2, 4, 2, 5, 2, 8)
    np.testing.assert_array_equal(found["pool2"], squares.max((2, 4)))
    np.testing.assert_allclose(levels["c3"].mean((1, 2)), pooled, rtol=1e-5)
    # what comes after the last stage that is asked for needs no variables
    first = {"params": {"stage_1": bare["params"]["stage_1"]}}
    alone = Vgg(SMALL).apply(first, IMAGE, ["relu1_2"], method="activations")
    np.testing.assert_allclose(alone["relu1_2"], found["relu1_2"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["conv4_1", "relu2_2", "conv1_0", "pool0", "fc6", "conv1_1 "])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match=f"stages have 2, 1, 3 convolutions has no activations '{name}': choose"):
        Vgg(SMALL).apply(variables(SMALL), IMAGE, [name], method="activations")


def test_every_parameter_receives_a_gradient():
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(SMALL)[1]):
        assert float(jnp.abs(leaf).max()) > 1e-6, path_name(path)


def test_remat_changes_no_gradient():
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, gradient(dataclasses.replace(SMALL, remat=True)), gradient(SMALL))
    text = str(
        jax.make_jaxpr(lambda v: Vgg(dataclasses.replace(SMALL, remat=True)).apply(v, IMAGE, train=True))(
            variables(SMALL)
        )
    )
    assert text.count("remat2[") + text.count("checkpoint[") == 3


def test_bfloat16_is_near_and_its_logits_are_float32():
    logits, gradients = gradient(dataclasses.replace(SMALL, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, gradients))} == {jnp.dtype("float32")}
    wanted = gradient(SMALL)[0]
    assert 0 < np.abs(logits - wanted).max() < 0.05 * np.abs(wanted).max()


def test_dropout_is_for_training():
    apply = partial(Vgg(dataclasses.replace(SMALL, dropout=0.5)).apply, variables(SMALL), IMAGE)
    trained = lambda seed: apply(train=True, rngs={"dropout": jax.random.key(seed)})
    assert np.abs(trained(0) - trained(1)).max() > 1e-3
    np.testing.assert_allclose(apply(train=False), gradient(SMALL)[0], rtol=1e-4, atol=1e-5)


def test_layers_rise_from_the_first_convolution_to_the_head():
    found = {path.removeprefix("params/"): layer_of(SMALL, path) for path in named(shapes(SMALL)) if "kernel" in path}
    assert found == {
        "stage_1/conv_1/kernel": 0,
        "stage_1/conv_2/kernel": 1,
        "stage_2/conv_1/kernel": 2,
        "stage_3/conv_1/kernel": 3,
        "stage_3/conv_2/kernel": 4,
        "stage_3/conv_3/kernel": 5,
        "dense_1/kernel": 6,
        "dense_2/kernel": 7,
        "head/kernel": 8,
    }
    assert layers(SMALL) == 9


def test_sharding_rules_hold():
    mesh = make_mesh(MeshConfig(tensor=4))
    for config in (VGG16, VGG19):
        placed = shardings(shapes(config), mesh=mesh, rules=SHARDING_RULES)["params"]
        assert placed["stage_1"]["conv_1"]["kernel"].spec[3] == placed["stage_3"]["conv_3"]["bias"].spec[0] == "tensor"
        assert placed["stage_1"]["conv_2"]["kernel"].spec[2] == placed["dense_2"]["kernel"].spec[0] == "tensor"


def test_small_images_and_stages_that_are_not_equally_many_are_refused():
    with pytest.raises(UserError, match=r"images of 31x31 pixels are too small for 5 stages of a VGG, .* at least 32"):
        shapes(VGG16, 31)
    with pytest.raises(UserError, match="a VGG with 2 depths cannot have 5 widths: give each stage one of both"):
        shapes(dataclasses.replace(VGG16, depths=(1, 1)))
