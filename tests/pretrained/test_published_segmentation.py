"""Published FCN and DeepLabV3: logits of torchvision, with weights by a formula of the name, and what files may lack.

The golden arrays are made by make_segmentation_golden.py with PyTorch.
"""

import dataclasses
import json
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_weights import golden_image, published_array

from vision.errors import UserError
from vision.models.resnet import RESNET50, RESNET101, ResNetConfig
from vision.models.segmentation.deeplab import DeepLabConfig
from vision.models.segmentation.fcn import FcnConfig
from vision.models.segmentation.segmenter import Segmenter
from vision.models.segmentation.unet_decoder import UNetDecoderConfig
from vision.pretrained.initial import read_initial_values
from vision.pretrained.rules import from_published, named, to_published
from vision.pretrained.segmentation import HEAD, segmentation_rules, segmentation_weights
from vision.pretrained.state_dict import write_state_dict
from vision.pretrained.variables import write_variables
from vision.recipes.backbones import classifier_backbone
from vision.recipes.classifiers import network

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "segmentation.npz")
NARROW = ResNetConfig(depths=(1, 2, 2, 3), width=8, output_stride=8, classes=10)
NETWORKS = {
    "fcn_8": (NARROW, FcnConfig()),
    "deeplab_8": (NARROW, DeepLabConfig()),
    "deeplab_16": (dataclasses.replace(NARROW, output_stride=16), DeepLabConfig()),
}
CLASSES = 5


def chosen(backbone, pixels="imagenet"):
    return classifier_backbone(backbone, pixels=pixels, dtype="float32")


def segmenter(backbone, decoder, *, classes=CLASSES, auxiliary=True):
    made = chosen(backbone)
    return Segmenter(made.make(made.norm), decoder, classes, auxiliary)


@cache
def target(backbone, decoder, classes=CLASSES, auxiliary=True):
    model = segmenter(backbone, decoder, classes=classes, auxiliary=auxiliary)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)


def rules(backbone, decoder):
    return segmentation_rules(chosen(backbone).published, decoder)


def empty(tree):
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), tree)


@cache
def published(backbone, decoder, classes=CLASSES, auxiliary=True):
    """A published state dict, as the names and shapes of our table have it."""
    shapes = to_published(empty(target(backbone, decoder, classes, auxiliary)), rules=rules(backbone, decoder))
    return {name: published_array(name, array.shape) for name, array in shapes.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_pytorch(name):
    """At every fourth pixel; sides are no multiples of the stride."""
    tensors = published(*NETWORKS[name])
    variables, left = from_published(tensors, target(*NETWORKS[name]), rules=rules(*NETWORKS[name]))
    assert left == ()
    made = jax.jit(partial(segmenter(*NETWORKS[name]).apply, train=False))(variables, golden_image(65, 50))
    for logits, key in ((made.logits, "out"), (made.auxiliary, "aux")):
        assert logits.shape == (2, 65, 50, CLASSES)
        expected = GOLDEN[f"{name}_{key}"]
        np.testing.assert_allclose(logits[:, ::4, ::4], expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "backbone", "decoder"),
    [
        ("fcn_resnet50", RESNET50, FcnConfig()),
        ("deeplabv3_resnet50", RESNET50, DeepLabConfig()),
        ("deeplabv3_resnet101", RESNET101, DeepLabConfig()),
    ],
)
def test_what_is_written_has_the_names_and_shapes_of_torchvision(name, backbone, decoder):
    """So that ``load_state_dict(strict=True)`` takes it, which does without counters of batches."""
    shapes = json.loads(str(GOLDEN[f"names_{name}"])).items()
    wanted = {key: tuple(shape) for key, shape in shapes if "num_batches" not in key}
    backbone = dataclasses.replace(backbone, output_stride=8)
    written = to_published(empty(target(backbone, decoder, 21)), rules=rules(backbone, decoder))
    assert {key: array.shape for key, array in written.items()} == wanted


@pytest.mark.parametrize("name", ["fcn_8", "deeplab_8"])
def test_there_and_back_changes_nothing(name):
    tensors = published(*NETWORKS[name])
    variables, _ = from_published(tensors, target(*NETWORKS[name]), rules=rules(*NETWORKS[name]))
    written = to_published(variables, rules=rules(*NETWORKS[name]))
    assert written.keys() == tensors.keys()
    for key, array in written.items():
        np.testing.assert_array_equal(array, tensors[key], err_msg=key)


def test_decoders_without_published_weights_have_no_rules():
    for decoder in (DeepLabConfig(plus=True), DeepLabConfig(separable=True), UNetDecoderConfig()):
        assert rules(NARROW, decoder) == ()


def read(path, backbone=NARROW, decoder=NETWORKS["fcn_8"][1], *, pixels="imagenet", **of):
    """What --init-from reads."""
    made = chosen(backbone, pixels)
    return read_initial_values(
        path,
        target(backbone, decoder, **of),
        published=(*segmentation_rules(made.published, decoder), *made.published),
        ignored=made.ignored,
        replaced=HEAD,
        adapt=segmentation_weights(made.adapt, pixels=pixels),
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def test_a_published_network_is_read_whole(path, capsys):
    tensors = published(NARROW, FcnConfig())
    counters = {name.replace("running_var", "num_batches_tracked"): np.array(3) for name in tensors if "_var" in name}
    write_state_dict(path, {**tensors, **counters})
    values = read(path)
    assert capsys.readouterr().err == f"starting from published weights in {path}\n"
    assert values.keys() == named(target(NARROW, FcnConfig())).keys()
    np.testing.assert_array_equal(
        values["params/decoder/mix/conv/kernel"],
        tensors["classifier.0.weight"].transpose(2, 3, 1, 0),
    )


@pytest.mark.parametrize("kind", ["theirs", "ours"])
def test_other_classes_and_auxiliary_heads(kind, path, capsys):
    """The head for other classes is new; an auxiliary head is left out where there is none, and new where it lacks."""

    def write(**of):
        if kind == "theirs":
            write_state_dict(path, published(NARROW, FcnConfig(), **of))
        else:
            write_variables(
                path, jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), target(NARROW, FcnConfig(), **of))
            )

    write()
    origin = "published weights" if kind == "theirs" else "variables of this project"
    said = lambda: capsys.readouterr().err.removeprefix(f"starting from {origin} in {path}; ")
    heads = ("auxiliary/logits/bias", "auxiliary/logits/kernel", "decoder/logits/bias", "decoder/logits/kernel")
    values = read(path, classes=4)
    assert set(named(target(NARROW, FcnConfig(), 4))) - set(values) == {f"params/{name}" for name in heads}
    assert said().endswith(" stay random, since there are no matching values\n")
    values = read(path, auxiliary=False)
    assert said() == "their auxiliary head is left out\n"
    assert values.keys() == named(target(NARROW, FcnConfig(), auxiliary=False)).keys()
    write(auxiliary=False)
    values = read(path)
    wanted = named(target(NARROW, FcnConfig()))
    assert set(wanted) - set(values) == {name for name in wanted if "/auxiliary/" in name}
    assert said().startswith("batch_stats/auxiliary/mix/norm/mean")


def test_a_classifier_fills_the_backbone(path, capsys):
    """And so does a backbone alone, under the names of either."""
    model = network(NARROW).model
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    names = to_published(empty(shapes), rules=network(NARROW).published)
    tensors = {name: published_array(name, array.shape) for name, array in names.items()}
    write_state_dict(path, tensors)
    for decoder in (FcnConfig(), UNetDecoderConfig()):
        values = read(path, decoder=decoder)
        assert "; they are those of a classifier and fill the backbone; " in capsys.readouterr().err
        assert values.keys() == {name for name in named(target(NARROW, decoder)) if "/backbone/" in name}
    write_state_dict(path, {f"backbone.{name}": array for name, array in tensors.items() if "fc." not in name})
    for decoder in (FcnConfig(), UNetDecoderConfig()):
        found = read(path, decoder=decoder)
        assert found.keys() == values.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, values[name])


def test_files_that_do_not_fit(path):
    write_state_dict(path, published(*NETWORKS["deeplab_8"]))
    with pytest.raises(UserError, match="these weights are not of this network"):
        read(path)
    write_state_dict(path, published(NARROW, FcnConfig()))
    with pytest.raises(UserError, match=r"model.pixels is unit: set --model.pixels imagenet"):
        read(path, pixels="unit")
    with pytest.raises(UserError, match=r"variables that nothing sets|arrays that belong nowhere"):
        read(path, dataclasses.replace(NARROW, depths=(1, 2, 3, 3)))
