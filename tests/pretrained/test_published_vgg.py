"""Published VGGs: logits and activations of torchvision, with weights by a formula of the name; files of features.

The golden arrays are made by make_vgg_golden.py with PyTorch.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_weights import golden_image, published_array

from vision.errors import UserError
from vision.models.vgg import VGG16, VGG19, Vgg, VggConfig
from vision.pretrained.initial import read_initial_values
from vision.pretrained.rules import from_published, to_published
from vision.pretrained.state_dict import write_state_dict
from vision.pretrained.vgg import vgg_rules
from vision.recipes.backbones import classifier_backbone

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "vgg.npz")
NARROW = VggConfig(depths=VGG16.depths, widths=(4, 4, 8, 8, 8), hidden=16, classes=10)


def target(config):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(lambda x: Vgg(config).init(jax.random.key(0), x, train=False), image)


def empty(tree):
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), tree)


def published():
    """A published state dict of the narrow network, as the names and shapes of our table have it."""
    shapes = to_published(empty(target(NARROW)), rules=vgg_rules(NARROW))
    return {name: published_array(name, array.shape) for name, array in shapes.items()}


def variables():
    found, left = from_published(published(), target(NARROW), rules=vgg_rules(NARROW))
    assert left == ()
    return found


# the last features are 3x2 pixels, 7x7 and 8x9: cells of the grid repeat them, are them, and overlap
@pytest.mark.parametrize("size", [(100, 75), (224, 224), (260, 290)])
def test_logits_of_pytorch(size):
    found = jax.jit(partial(Vgg(NARROW).apply, train=False))(variables(), golden_image(*size))
    expected = GOLDEN[f"logits_{size[0]}x{size[1]}"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_activations_of_pytorch():
    names = ("conv3_2", "relu3_2", "pool2")
    run = jax.jit(partial(Vgg(NARROW).apply, names=names, method="activations"))
    found = run(variables(), golden_image(40, 36))
    for name in names:
        np.testing.assert_allclose(found[name], GOLDEN[name], rtol=0, atol=1e-5 * np.abs(GOLDEN[name]).max())


@pytest.mark.parametrize(("name", "config"), [("vgg16", VGG16), ("vgg19", VGG19)])
def test_what_is_written_has_the_names_and_shapes_of_torchvision(name, config):
    wanted = {key: tuple(shape) for key, shape in json.loads(str(GOLDEN[f"names_{name}"])).items()}
    written = to_published(empty(target(config)), rules=vgg_rules(config))
    assert {key: array.shape for key, array in written.items()} == wanted


def test_there_and_back_changes_nothing():
    tensors = published()
    written = to_published(variables(), rules=vgg_rules(NARROW))
    assert written.keys() == tensors.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, tensors[name], err_msg=name)


def test_a_file_of_features_alone_fills_a_backbone(tmp_path, capsys):
    """In half precision, as such files are; as a classifier it is refused, since its dense layers would be random."""
    path = tmp_path / "features.safetensors"
    features = {
        name: array.astype(np.float16 if name.endswith("weight") else np.float32)
        for name, array in published().items()
        if name.startswith("features.")
    }
    write_state_dict(path, features)
    with pytest.raises(UserError, match="variables that nothing sets: params/dense_1/bias"):
        read_initial_values(path, target(NARROW), published=vgg_rules(NARROW))
    chosen = classifier_backbone(NARROW, pixels="imagenet", dtype="float32")
    shapes = {"params": {"backbone": {k: v for k, v in target(NARROW)["params"].items() if "stage" in k}}}
    shapes["params"]["decoder"] = {"kernel": jax.ShapeDtypeStruct((3, 2), jnp.float32)}
    how = {"published": chosen.published, "ignored": chosen.ignored, "adapt": chosen.adapt}
    values = read_initial_values(path, shapes, **how)
    assert capsys.readouterr().err == (
        f"starting from published weights in {path}; they are those of a classifier and fill the backbone; "
        "params/decoder/kernel stay random, since there are no matching values\n"
    )
    assert len(values) == 26
    kernel = values["params/backbone/stage_3/conv_2/kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, features["features.12.weight"].transpose(2, 3, 1, 0).astype(np.float32))
    # a whole classifier fills it too, without its dense layers
    write_state_dict(path, published())
    assert read_initial_values(path, shapes, **how).keys() == values.keys()
