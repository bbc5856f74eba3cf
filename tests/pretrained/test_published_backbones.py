"""Published ConvNeXts, MobileNetV2s and ViTs: logits of torchvision and timm, with weights by a formula of the name.

Also position embeddings on other grids, as timm interpolates them. The golden arrays are made by
make_backbone_golden.py with PyTorch, with the names and shapes of its state dicts.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_weights import golden_image, published_array, uniform

from vision.errors import UserError
from vision.models.convnext import ConvNeXt, ConvNeXtConfig
from vision.models.mobilenet import MobileNetV2, MobileNetV2Config
from vision.models.vit import ViT, ViTConfig
from vision.pretrained.convnext import convnext_rules
from vision.pretrained.initial import read_initial_values
from vision.pretrained.mobilenet import mobilenet_rules
from vision.pretrained.resnet import IGNORED
from vision.pretrained.rules import from_published, to_published
from vision.pretrained.state_dict import write_state_dict
from vision.pretrained.variables import write_variables
from vision.pretrained.vit import resampled_positions, vit_rules, vit_weights

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "backbone_logits.npz")
CONVNEXT = ConvNeXtConfig(depths=(1, 1, 2, 1), widths=(8, 16, 24, 32), classes=10)
MOBILENET = MobileNetV2Config(classes=10)
VIT = ViTConfig(patch=8, width=16, depth=2, heads=2, classes=10)
NETWORKS = {
    "convnext_torchvision": (CONVNEXT, 64),
    "convnext_timm": (CONVNEXT, 64),
    "convnext_facebook": (CONVNEXT, 64),
    "vit_torchvision": (VIT, 32),
    "vit_timm": (VIT, 32),
    "mobilenet_torchvision": (MOBILENET, 64),
    "mobilenet_timm": (MobileNetV2Config(width=0.5, classes=10), 64),
}


def built(config, side):
    """The network, its rules, and the shapes of its variables."""
    if isinstance(config, ConvNeXtConfig):
        model, rules = ConvNeXt(config), convnext_rules(config)
    elif isinstance(config, MobileNetV2Config):
        model, rules = MobileNetV2(config), mobilenet_rules(config)
    else:
        model, rules = ViT(config), vit_rules(config)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return model, rules, jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)


def published_shapes(name):
    """The names and shapes of the published state dict."""
    return {key: tuple(shape) for key, shape in json.loads(str(GOLDEN[f"names_{name}"])).items()}


def published_tensors(name):
    """A published state dict, with the counters of batches of which a network has no use."""
    gain = 2.0 if "mobilenet" in name else 1.0
    return {key: np.asarray(published_array(key, shape, gain=gain)) for key, shape in published_shapes(name).items()}


def difference(name, config, side):
    """Largest difference to the golden logits as a share of their largest value."""
    model, rules, target = built(config, side)
    variables, left = from_published(published_tensors(name), target, rules=rules, ignored=IGNORED)
    assert left == ()
    found = jax.jit(partial(model.apply, train=False))(variables, golden_image(side, side))
    return np.abs(found - GOLDEN[name]).max() / np.abs(GOLDEN[name]).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_pytorch(name):
    # 35 layers with ReLU6, which cuts a fifth of the values, in float32 and in float64: in PyTorch 1.2e-5
    assert difference(name, *NETWORKS[name]) < (1e-4 if "mobilenet" in name else 1e-5)


@pytest.mark.parametrize(
    ("name", "config", "side"),
    [
        ("convnext_torchvision", CONVNEXT, 64),
        ("vit_torchvision", VIT, 32),
        ("convnext_tiny_torchvision", ConvNeXtConfig(classes=10), 64),
        ("vit_b16_torchvision", ViTConfig(width=768, heads=12, classes=10), 224),
        ("mobilenet_torchvision", MOBILENET, 64),
    ],
)
def test_what_is_written_has_the_names_and_shapes_of_torchvision(name, config, side):
    """So that ``load_state_dict(strict=True)`` takes it, which does without counters of batches."""
    _, rules, target = built(config, side)
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), target)
    wanted = {key: shape for key, shape in published_shapes(name).items() if "num_batches" not in key}
    assert {key: array.shape for key, array in to_published(empty, rules=rules).items()} == wanted


@pytest.mark.parametrize("name", ["convnext_torchvision", "mobilenet_torchvision", "vit_torchvision"])
def test_there_and_back_changes_nothing(name):
    _, rules, target = built(*NETWORKS[name])
    tensors = published_tensors(name)
    variables, _ = from_published(tensors, target, rules=rules, ignored=IGNORED)
    written = to_published(variables, rules=rules)
    assert written.keys() == {key for key in tensors if "num_batches" not in key}
    for key, array in written.items():
        np.testing.assert_array_equal(array, tensors[key], err_msg=key)


@pytest.mark.parametrize("grid", [(6, 6), (3, 5), (2, 2)])
def test_position_embeddings_on_another_grid(grid):
    embeddings = uniform("position", (1, 17, 3)).astype(np.float32)
    found = resampled_positions(embeddings, grid)
    np.testing.assert_allclose(found, GOLDEN[f"position_{grid[0]}x{grid[1]}"], atol=1e-5)
    np.testing.assert_allclose(resampled_positions(embeddings, (4, 4)), embeddings, atol=1e-6)


@pytest.mark.parametrize("kind", ["vit_torchvision", "vit_timm", "ours"])
def test_published_positions_fit_another_resolution_and_it_is_reported(kind, tmp_path, capsys):
    path = tmp_path / "weights.safetensors"
    name = "vit_timm" if kind == "ours" else kind
    tensors = {key: published_array(key, shape) for key, shape in published_shapes(name).items()}
    _, rules, small = built(VIT, 32)
    variables, _ = from_published(tensors, small, rules=rules)
    write_variables(path, variables) if kind == "ours" else write_state_dict(path, tensors)
    _, _, target = built(VIT, 48)
    values = read_initial_values(path, target, published=rules, adapt=vit_weights)
    said = capsys.readouterr().err
    assert said.endswith(f"in {path}; position embeddings of 4x4 patches are interpolated to 6x6\n")
    np.testing.assert_array_equal(
        values["params/position"], resampled_positions(variables["params"]["position"], (6, 6))
    )
    np.testing.assert_array_equal(values["params/class_token"], variables["params"]["class_token"])
    same = read_initial_values(path, small, published=rules, adapt=vit_weights)
    assert capsys.readouterr().err.endswith(f"in {path}\n")
    np.testing.assert_array_equal(same["params/position"], variables["params"]["position"])


def test_positions_that_are_no_square_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    tensors = {key: published_array(key, shape) for key, shape in published_shapes("vit_timm").items()}
    _, rules, target = built(VIT, 32)
    write_state_dict(path, {**tensors, "pos_embed": tensors["pos_embed"][:, :12]})
    with pytest.raises(UserError, match=r"pos_embed of shape \(1, 12, 16\), where params/position needs"):
        read_initial_values(path, target, published=rules, adapt=vit_weights)
