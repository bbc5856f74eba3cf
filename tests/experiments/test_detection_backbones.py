"""Classifiers as backbones of detectors: sizes, gradients, folding, sharding, published weights, what is refused."""

import re
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import yolo_folder
from vision.errors import UserError
from vision.launch import run as launcher
from vision.launch import verbs
from vision.launch.options import parse
from vision.models.convnext import CONVNEXT_TINY, ConvNeXtConfig
from vision.models.mobilenet import MOBILENET_V2, MobileNetV2Config
from vision.models.resnet import RESNET50, ResNetConfig
from vision.models.vgg import VGG16, VggConfig
from vision.models.yolo import YOLO_S
from vision.nn.fusion import fold
from vision.ops.pixels import scaled
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import partition_spec, path_name
from vision.pretrained.initial import read_initial_values
from vision.pretrained.rules import named, to_published
from vision.pretrained.state_dict import write_state_dict
from vision.pretrained.variables import write_variables
from vision.recipes.backbones import BACKBONES, backbone, classifier_backbone, classifier_by_name
from vision.recipes.classifiers import CLASSIFIERS, network
from vision.recipes.detection import HEAD, chosen_backbone, detection, detection_network
from vision.train.records import read_metrics

pytestmark = pytest.mark.usefixtures("on_one_device")

RESNET = ResNetConfig(depths=(1, 1, 1, 1), width=8, classes=5)
CONVNEXT = ConvNeXtConfig(depths=(1, 1, 1, 1), widths=(8, 16, 24, 32), layer_scale=0.5, classes=5)
MOBILENET = MobileNetV2Config(
    expansions=(1, 2, 2, 2, 2),
    widths=(8, 8, 16, 16, 24),
    depths=(1,) * 5,
    strides=(1, 2, 2, 2, 2),
    stem_width=8,
    last_width=32,
    classes=5,
)
VGG = VggConfig(depths=(1, 1, 1, 1, 2), widths=(4, 8, 8, 16, 16), hidden=8, classes=5)
MODEL = replace(yolo_folder.TINY.model, pixels="imagenet")
CONFIGS = {
    "resnet": replace(yolo_folder.TINY, model=MODEL, backbone=RESNET),
    "convnext": replace(yolo_folder.TINY, model=MODEL, backbone=CONVNEXT),
    "mobilenet": replace(yolo_folder.TINY, model=MODEL, backbone=MOBILENET),
    "vgg": replace(yolo_folder.TINY, model=MODEL, backbone=VGG),
}
IMAGE = jax.random.uniform(jax.random.key(0), (2, 64, 64, 3), minval=-1.0)


def shapes(config):
    return jax.eval_shape(
        lambda key: detection_network(config).init(key, jnp.zeros((1, 64, 64, 3)), train=False), jax.random.key(0)
    )


def filled(tree):
    """Variables none of which is what it begins with."""
    generator = np.random.default_rng(0)
    draw = {"kernel": lambda s: 0.2 * generator.normal(size=s), "var": lambda s: generator.uniform(0.5, 2, s)}
    other = lambda s: generator.normal(1.0, 0.3, size=s)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: draw.get(path[-1].key, other)(leaf.shape).astype(np.float32), tree
    )


@cache
def classifier(kind):
    """(the network of a backbone as a classifier, its variables)."""
    config = CONFIGS[kind].backbone
    model = network(config).model
    return model, filled(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)))


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# what the publishers state, less the head and, of ConvNeXt, the normalisation before it
@pytest.mark.parametrize(
    ("config", "of_backbone", "whole"),
    [
        (RESNET50, 25_557_032 - 1000 * 2049, 31_015_101),
        (CONVNEXT_TINY, 28_589_128 - 1000 * 769 - 2 * 768, 32_006_621),
        (MOBILENET_V2, 3_504_872 - 1000 * 1281, 7_366_781),
        (VGG16, 14_714_688, 18_550_205),
    ],
)
def test_sizes(config, of_backbone, whole):
    params = shapes(replace(yolo_folder.Config(), model=YOLO_S, backbone=config))["params"]
    assert size(params["backbone"]) == of_backbone
    assert size(params) == whole


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_parameter_has_a_gradient_and_folding_changes_nothing(kind):
    config = CONFIGS[kind]
    variables, model = filled(shapes(config)), detection_network(config)

    def loss(params):
        raw, _ = model.apply({**variables, "params": params}, IMAGE, train=True, mutable=["batch_stats"])
        return sum(jnp.mean((level - 1.0) ** 2) for level in raw)

    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"])):
        assert np.abs(leaf).max() > 0, path_name(path)
    plain = jax.jit(partial(model.apply, train=False))(variables, IMAGE)
    epsilon = lambda path: 1e-5 if path.startswith("backbone/") else 1e-3
    found = jax.jit(partial(detection_network(config, folded=True).apply, train=False))(
        fold(variables, epsilon=epsilon), IMAGE
    )
    for level, same in zip(plain, found, strict=True):
        np.testing.assert_allclose(level, same, rtol=1e-3, atol=1e-3 * np.abs(level).max())


@pytest.mark.parametrize("kind", CONFIGS)
def test_sharding_rules_of_both(kind):
    experiment = detection(CONFIGS[kind])
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    leaves = {name: leaf for name, leaf in named(shapes(CONFIGS[kind])).items() if name.startswith("params/")}
    specs = {
        name: partition_spec(name, leaf.shape, rules=experiment.rules, mesh=mesh, strict=True)
        for name, leaf in leaves.items()
    }
    assert any("tensor" in spec for name, spec in specs.items() if "/backbone/" in name)
    assert any("tensor" in spec for name, spec in specs.items() if "/neck/" in name)


def read(config, path):
    """What --init-from reads."""
    chosen = chosen_backbone(config)
    assert chosen is not None
    return read_initial_values(
        path, shapes(config), published=chosen.published, ignored=chosen.ignored, adapt=chosen.adapt, replaced=HEAD
    )


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_classifier_fills_the_backbone_and_gives_its_features(kind, published, tmp_path, capsys):
    config, path = CONFIGS[kind], tmp_path / "weights.safetensors"
    model, variables = classifier(kind)
    if published:
        write_state_dict(path, to_published(variables, rules=network(config.backbone).published))
    else:
        write_variables(path, variables)
    values = read(config, path)
    said = capsys.readouterr().err
    origin = "published weights" if published else "variables of this project"
    assert said.startswith(
        f"starting from {origin} in {path}; they are those of a classifier and fill the backbone; batch_stats/neck/"
    )
    assert said.endswith(" more stay random, since there are no matching values\n")
    wanted = named(shapes(config))
    assert values.keys() == {name for name in wanted if "/backbone/" in name}
    if published:  # the same features, with the classifier's own normalisation
        random = filled(shapes(config))
        leaves = [values.get(name, leaf) for name, leaf in named(random).items()]
        _, state = detection_network(config).apply(
            jax.tree.map(jnp.asarray, jax.tree.unflatten(jax.tree.structure(random), leaves)),
            IMAGE[:1],
            train=False,
            capture_intermediates=lambda module, method: method == "levels",
            mutable=["intermediates"],
        )
        (found,) = state["intermediates"]["backbone"]["levels"]
        expected = model.apply(
            jax.tree.map(jnp.asarray, variables), scaled(IMAGE[:1], "imagenet"), train=False, method="features"
        )
        for level in ("c3", "c4", "c5"):
            np.testing.assert_allclose(found[level], expected[level], rtol=1e-5, atol=1e-5)


def test_a_whole_detector_with_this_backbone_is_read_whole(tmp_path, capsys):
    path, variables = tmp_path / "weights.safetensors", filled(shapes(CONFIGS["resnet"]))
    write_variables(path, variables)
    assert read(CONFIGS["resnet"], path).keys() == named(variables).keys()
    assert capsys.readouterr().err == f"starting from variables of this project in {path}\n"


@pytest.mark.parametrize("pixels", ["symmetric", "unit"])
def test_other_pixels_than_published_weights_expect_are_refused(pixels, tmp_path):
    config, path = CONFIGS["resnet"], tmp_path / "weights.safetensors"
    write_state_dict(path, to_published(classifier("resnet")[1], rules=network(RESNET).published))
    with pytest.raises(UserError, match=f"model.pixels is {pixels}: set --model.pixels imagenet"):
        read(replace(config, model=replace(MODEL, pixels=pixels)), path)


def test_another_network_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_state_dict(path, to_published(classifier("convnext")[1], rules=network(CONVNEXT).published))
    with pytest.raises(UserError, match="these weights are not of this network"):
        read(CONFIGS["resnet"], path)


FIT = {
    "csp_darknet",
    *(name for name in CLASSIFIERS if re.fullmatch(r"(wide_)?resne.*|convnext.*|mobilenet.*|vgg.*", name)),
}
FIT -= {"resnet18_cifar", *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110))}


@pytest.mark.parametrize("name", BACKBONES)
def test_all_names_are_built_or_refused_before_anything_else(name):
    parsed = parse(
        "", default=yolo_folder.Config(), quick=yolo_folder.QUICK, description="", arguments=["--backbone", name]
    )
    if name in FIT:
        assert detection(parsed.config).rules
    else:
        with pytest.raises(UserError, match=r"a \w+ has no features of strides 8, 16 and 32, which a backbone needs"):
            detection(parsed.config)


def test_dilated_networks_have_no_features_of_stride_32():
    with pytest.raises(UserError, match="a ResNet with output_stride=8 has no features of stride 32, which"):
        backbone(replace(RESNET, output_stride=8), pixels="symmetric", dtype="float32")


def test_fields_without_a_backbone_of_their_own():
    """Classifiers alone; ResNets have the output stride asked for, as the quick relatives, except CIFAR's."""
    metadata = classifier_by_name(RESNET, output_stride=8).metadata
    for table in (metadata["choices"], metadata["quick_choices"]):
        assert table.keys() == CLASSIFIERS.keys()
        strides = {name: config.output_stride for name, config in table.items() if isinstance(config, ResNetConfig)}
        assert {name for name, stride in strides.items() if stride == 8} == {
            name for name in FIT if re.match("(wide_)?resn", name)
        }
    made = classifier_backbone(metadata["choices"]["resnet50"], pixels="imagenet", dtype="float32")
    assert made.make(made.norm)(name="backbone").output_stride == 8


def test_one_dtype():
    with pytest.raises(UserError, match="the backbone computes in float32 and the rest of the network in bfloat16"):
        backbone(RESNET, pixels="symmetric", dtype="bfloat16")


OPTIONS = (
    "--quick --data.resolution 32 --data.shapes-count 16 --data.max_boxes 4 --data.shapes.max-objects 2 "
    "--data.shapes.min-size 0.4 --data.shapes.max-size 0.6 --model.width 0.125 --batch-size 8 --images 8 "
    "--intervals.log 8 --intervals.evaluate 8 --intervals.save 8 --model.pixels imagenet --backbone convnext_tiny "
    "--backbone.depths 1 1 1 1 --backbone.widths 8 16 24 32 --backbone.stochastic-depth 0.1"
)


def test_a_run_from_a_classifier(tmp_path, capsys):
    """From the command line, with random depth, to a prediction."""
    weights, run = tmp_path / "weights.safetensors", tmp_path / "run"
    write_state_dict(weights, to_published(classifier("convnext")[1], rules=network(CONVNEXT).published))
    words = [*OPTIONS.split(), "--init-from", str(weights)]
    how = {"config": yolo_folder.Config(), "quick": yolo_folder.QUICK, "build": yolo_folder.build, "description": ""}
    assert launcher.main("yolo_folder", **how, arguments=[*words, "--workdir", str(run)]) == 0, capsys.readouterr().err
    assert "fill the backbone" in capsys.readouterr().err
    assert np.isfinite(
        [line["train/loss"] for line in read_metrics(run / "metrics.jsonl") if "train/loss" in line]
    ).all()
    assert verbs.main(["describe", str(run)]) == 0, capsys.readouterr().err
    assert "backbone/stage_4_block_0/dense_in/kernel" in capsys.readouterr().out
    assert verbs.main(["export", str(run), str(tmp_path / "w.safetensors")]) == 2
    assert "has no published names" in capsys.readouterr().err
    # from a classifier alone nothing can be predicted
    assert verbs.main(["evaluate", "yolo_folder", *words]) == 2
    assert "which would be random: train first" in capsys.readouterr().err
