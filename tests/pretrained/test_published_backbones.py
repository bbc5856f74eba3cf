"""Published ConvNeXts and ViTs: logits of torchvision and timm under the weights that a formula gives by name.

The golden logits are made by make_backbone_golden.py with PyTorch, with the names and shapes of its state dicts.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_weights import golden_image, published_array

from vision.models.convnext import ConvNeXt, ConvNeXtConfig
from vision.models.vit import ViT, ViTConfig
from vision.pretrained.convnext import convnext_rules
from vision.pretrained.rules import from_published, to_published
from vision.pretrained.vit import vit_rules

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "backbone_logits.npz")
CONVNEXT = ConvNeXtConfig(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32), classes=10)
VIT = ViTConfig(patch=8, width=16, depth=2, heads=2, classes=10)
NETWORKS = {
    "convnext_torchvision": (CONVNEXT, 64),
    "convnext_timm": (CONVNEXT, 64),
    "convnext_facebook": (CONVNEXT, 64),
    "vit_torchvision": (VIT, 32),
    "vit_timm": (VIT, 32),
}


def built(config, side):
    """The network, its rules, and the shapes of its variables."""
    if isinstance(config, ConvNeXtConfig):
        model, rules = ConvNeXt(config), convnext_rules(config)
    else:
        model, rules = ViT(config), vit_rules(config)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return model, rules, jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)


def published_shapes(name):
    """The names and shapes of the published state dict."""
    return {key: tuple(shape) for key, shape in json.loads(str(GOLDEN[f"names_{name}"])).items()}


def difference(name, config, side):
    """Largest difference to the golden logits as a share of their largest value."""
    model, rules, target = built(config, side)
    tensors = {key: published_array(key, shape) for key, shape in published_shapes(name).items()}
    variables, left = from_published(tensors, target, rules=rules)
    assert left == ()
    found = jax.jit(partial(model.apply, train=False))(variables, golden_image(side, side))
    return np.abs(found - GOLDEN[name]).max() / np.abs(GOLDEN[name]).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_pytorch(name):
    assert difference(name, *NETWORKS[name]) < 1e-5


@pytest.mark.parametrize(
    ("name", "config", "side"),
    [
        ("convnext_torchvision", CONVNEXT, 64),
        ("vit_torchvision", VIT, 32),
        ("convnext_tiny_torchvision", ConvNeXtConfig(classes=10), 64),
        ("vit_b16_torchvision", ViTConfig(width=768, heads=12, classes=10), 224),
    ],
)
def test_what_is_written_has_the_names_and_shapes_of_torchvision(name, config, side):
    """So that ``load_state_dict(strict=True)`` takes it."""
    _, rules, target = built(config, side)
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), target)
    assert {key: array.shape for key, array in to_published(empty, rules=rules).items()} == published_shapes(name)


@pytest.mark.parametrize("name", ["convnext_torchvision", "vit_torchvision"])
def test_there_and_back_changes_nothing(name):
    _, rules, target = built(*NETWORKS[name])
    tensors = {key: published_array(key, shape) for key, shape in published_shapes(name).items()}
    variables, _ = from_published(tensors, target, rules=rules)
    written = to_published(variables, rules=rules)
    assert written.keys() == tensors.keys()
    for key, array in tensors.items():
        np.testing.assert_array_equal(written[key], array, err_msg=key)
