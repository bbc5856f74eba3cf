"""Published ResNets: logits of torchvision, timm and a CIFAR network under the weights that a formula gives by name.

The golden logits are made by make_resnet_golden.py with PyTorch. Since a weight follows from its published name, a name
that our table has wrong gives other weights and other logits.
"""

import dataclasses
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_weights import golden_image, published_array

from vision.errors import UserError
from vision.models.resnet import (
    CIFAR_RESNET18,
    RESNET18,
    RESNET50,
    RESNET50_D,
    RESNET152,
    SE_RESNET50,
    ResNet,
    ResNetConfig,
    cifar_resnet,
)
from vision.pretrained.resnet import (
    HEAD,
    IGNORED,
    cifar_resnet_rules,
    resnet_rules,
)
from vision.pretrained.rules import from_published, to_published
from vision.pretrained.state_dict import read_state_dict, write_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "resnet_logits.npz"
VARIANTS = ResNetConfig(
    depths=(1, 2, 1, 1),
    stem="deep",
    shortcut="average",
    groups=32,
    group_width=4,
    squeeze_excite=1 / 16,
    classes=10,
)
NETWORKS = {
    "resnet18": (dataclasses.replace(RESNET18, classes=10), resnet_rules, (65, 49)),
    "resnet50": (dataclasses.replace(RESNET50, classes=10), resnet_rules, (65, 49)),
    "variants": (VARIANTS, resnet_rules, (65, 49)),
    **{f"cifar_resnet{depth}": (cifar_resnet(depth), cifar_resnet_rules, (32, 32)) for depth in (20, 32, 44, 56, 110)},
}


@cache
def _target(config):
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(lambda x: ResNet(config).init(jax.random.key(0), x, train=False), image)


def _published(config, rules):
    """A published state dict, as the names and shapes of our table have it."""
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), _target(config))
    shapes = {name: array.shape for name, array in to_published(empty, rules=rules(config)).items()}
    return {name: published_array(name, shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_pytorch(name):
    config, rules, (height, width) = NETWORKS[name]
    variables, left = from_published(_published(config, rules), _target(config), rules=rules(config))
    assert left == ()
    run = jax.jit(partial(ResNet(config).apply, train=False))
    found = run(variables, golden_image(height, width))
    expected = np.load(GOLDEN)[name]
    largest = np.abs(expected).max()
    assert 0.1 < largest < 100
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(largest, 1))


# How many arrays the state dicts of torchvision and timm have, without num_batches_tracked: counted there
@pytest.mark.parametrize(
    ("config", "arrays"), [(RESNET18, 102), (RESNET50, 267), (RESNET152, 777), (RESNET50_D, 277), (SE_RESNET50, 331)]
)
def test_every_variable_has_a_unique_name(config, arrays):
    published = to_published(
        jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), _target(config)),
        rules=resnet_rules(config),
    )
    assert len(published) == len(jax.tree.leaves(_target(config))) == arrays


def test_names_by_hand():
    names = set(_published(RESNET50_D, resnet_rules))
    assert {"conv1.0.weight", "conv1.4.running_var", "conv1.6.weight", "bn1.bias", "fc.bias"} <= names
    assert {"layer1.0.downsample.1.weight", "layer4.0.downsample.2.running_mean", "layer3.5.conv3.weight"} <= names
    names = set(_published(CIFAR_RESNET18, cifar_resnet_rules))
    assert {"conv1.weight", "layer2.0.shortcut.0.weight", "layer4.0.shortcut.1.bias", "linear.weight"} <= names


def test_through_files_with_what_pytorch_adds(tmp_path):
    """A file with counters is read, ours is written, and both hold the same."""
    config, rules, _ = NETWORKS["cifar_resnet20"]
    published = _published(config, rules)
    counted = dict(published)
    counted |= {f"{name[:-4]}num_batches_tracked": np.array(5) for name in published if name.endswith("n1.bias")}
    write_state_dict(tmp_path / "theirs.safetensors", counted)
    tensors = read_state_dict(tmp_path / "theirs.safetensors")
    variables, _ = from_published(tensors, _target(config), rules=rules(config), ignored=IGNORED)
    write_state_dict(tmp_path / "ours.safetensors", to_published(variables, rules=rules(config)))
    found = read_state_dict(tmp_path / "ours.safetensors")
    assert set(found) == set(published)
    for name, array in published.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_another_depth_and_another_head():
    config, rules, _ = NETWORKS["cifar_resnet20"]
    deeper = cifar_resnet(32)
    with pytest.raises(UserError, match=r"these weights are not of this network.*60 variables that nothing sets"):
        from_published(_published(config, rules), _target(deeper), rules=rules(deeper))
    hundred = cifar_resnet(20, classes=100)
    target = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), _target(hundred))
    with pytest.raises(
        UserError, match=r"linear.weight of shape \(10, 64\), where params/head/kernel needs \(100, 64\)"
    ):
        from_published(_published(config, rules), target, rules=rules(hundred))
    _, left = from_published(_published(config, rules), target, rules=rules(hundred), replaced=HEAD)
    assert left == ("params/head/bias", "params/head/kernel")
