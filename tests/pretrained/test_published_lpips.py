"""LPIPS against the package lpips (make_lpips_golden.py), with random networks; its weights by name; gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_weights import published_array
from restoration_images import golden_unit_image

from vision.errors import UserError
from vision.metrics.reconstruction.lpips import lpips
from vision.models.alexnet import ALEXNET, AlexNetConfig, AlexNetFeatures
from vision.models.vgg import VGG16, Vgg, VggConfig
from vision.pretrained.lpips import (
    IGNORED_OF_ALEXNET,
    LPIPS_RULES,
    alexnet_rules,
    lpips_features,
    read_lpips_weights,
)
from vision.pretrained.rules import from_published, named, to_published
from vision.pretrained.state_dict import write_state_dict
from vision.pretrained.vgg import vgg_rules

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "lpips.npz")
CONFIGS = {
    "vgg16": VggConfig(depths=VGG16.depths, widths=(4, 4, 8, 8, 8)),
    "alexnet": AlexNetConfig(widths=(4, 6, 8, 8, 6)),
}


def backbone(name):
    """Variables of the convolutions by the formula, under torchvision's names."""
    config = CONFIGS[name]
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    if name == "alexnet":
        make = lambda x: AlexNetFeatures(config).init(jax.random.key(0), x, train=False)
        rules = alexnet_rules()
    else:
        make = lambda x: Vgg(config).init(jax.random.key(0), x, ["relu5_3"], method="activations")
        rules = vgg_rules(config)
    target = jax.eval_shape(make, image)
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), target)
    shapes = {key: array.shape for key, array in to_published(empty, rules=rules).items()}
    tensors = {key: published_array(key, shape) for key, shape in shapes.items()}
    tensors["classifier.1.weight"] = np.zeros((3, 4), np.float32)
    return from_published(tensors, target, rules=rules, ignored=IGNORED_OF_ALEXNET)[0]


def channel_weights(name, folder):
    """Written as the package does, and read."""
    widths = CONFIGS[name].widths
    shapes = {f"lin{n}.model.1.weight": (1, width, 1, 1) for n, width in enumerate(widths)}
    path = folder / f"{name}.safetensors"
    write_state_dict(path, {key: np.abs(published_array(key, shape)) for key, shape in shapes.items()})
    return read_lpips_weights(path, CONFIGS[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_distances_of_the_package(name, tmp_path):
    variables, weights = backbone(name), channel_weights(name, tmp_path)
    one, other = jnp.asarray(2 * golden_unit_image(70, 64, 3) - 1)
    images, references = jnp.stack([one, one]), jnp.stack([other, 0.9 * one + 0.1 * other])
    features = lpips_features(CONFIGS[name])

    @jax.jit
    def distance(images, references):
        return lpips(images, references, features=lambda x: features(variables, x), weights=weights)

    np.testing.assert_allclose(distance(images, references), GOLDEN[name], rtol=1e-5)
    np.testing.assert_array_equal(distance(images, images), [0, 0])


def test_its_gradient_is_finite_where_all_features_are_zero():
    image = jnp.full((1, 3, 4, 3), -1.0)
    distance = lambda x: lpips(x, image + 0.5, features=lambda x: [jnp.maximum(x, 0)], weights=[jnp.ones(3)])[0]
    assert np.isfinite(jax.grad(distance)(image)).all()
    by_hand = lpips(image + 1.9, image, features=lambda x: [x], weights=[jnp.array([0.0, 0.0, 2.0])])
    normalised = lambda value: (value + np.array([0.030, 0.088, 0.188])) / [0.458, 0.448, 0.450]
    unit = lambda value: normalised(value) / np.linalg.norm(normalised(value))
    np.testing.assert_allclose(by_hand, [2 * (unit(0.9) - unit(-1))[2] ** 2], rtol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path):
    channel_weights("vgg16", tmp_path)
    with pytest.raises(UserError, match="arrays that do not fit"):
        read_lpips_weights(tmp_path / "vgg16.safetensors", CONFIGS["alexnet"])
    image = jnp.zeros((1, 2, 2, 3))
    with pytest.raises(UserError, match="LPIPS of features with 3 channels needs as many weights, and got 4"):
        lpips(image, image, features=lambda x: [x], weights=[jnp.ones(4)])


def test_names_of_the_weights():
    """Both names that files have; what is written has the shape of a 1x1 convolution."""
    target = {"params": {"level_0": np.arange(3, dtype=np.float32)}}
    assert {name: array.shape for name, array in to_published(target, rules=LPIPS_RULES).items()} == {
        "lin0.model.1.weight": (1, 3, 1, 1)
    }
    found, _ = from_published({"lins.0.model.1.weight": np.ones((1, 3, 1, 1), np.float32)}, target, rules=LPIPS_RULES)
    np.testing.assert_array_equal(found["params"]["level_0"], [1, 1, 1])


def test_alexnet():
    """The features of torchvision's AlexNet have 2,469,696 parameters; sides are those of its pools."""
    image = jax.ShapeDtypeStruct((2, 224, 160, 3), jnp.float32)
    run = lambda x: AlexNetFeatures(ALEXNET).init_with_output(jax.random.key(0), x, train=False)
    found, variables = jax.eval_shape(run, image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 2_469_696
    assert [level.shape[1:] for level in found] == [
        (55, 39, 64),
        (27, 19, 192),
        (13, 9, 384),
        (13, 9, 256),
        (13, 9, 256),
    ]
    assert len(named(variables)) == 10
    with pytest.raises(UserError, match="images of 30x40 pixels are too small for AlexNet"):
        AlexNetFeatures().init(jax.random.key(0), jnp.zeros((1, 30, 40, 3)), train=False)
