"""Published YOLOv5: names and shapes, predictions of PyTorch under the same weights, anchors, pixels, and files.

The golden arrays are made by make_yolo_golden.py with PyTorch, from the public description of the architecture.
"""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_weights import published_array, uniform

from vision.errors import UserError
from vision.models.yolo import YOLO_L, YOLO_M, YOLO_N, YOLO_S, YOLO_X, Yolo, YoloConfig
from vision.nn.csp import NORM_EPSILON, yolo_norm
from vision.nn.fusion import fold
from vision.pretrained.initial import read_initial_values
from vision.pretrained.rules import from_published, named, to_published
from vision.pretrained.state_dict import write_state_dict
from vision.pretrained.yolo import ANCHORS, HEAD, IGNORED, yolo_rules, yolo_state_dict, yolo_weights
from vision.tasks.detection import DetectorConfig, decode, detector

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "yolo.npz")
SMALL = YoloConfig(depth=0.67, width=0.125, classes=2, pixels="unit")
TINY = replace(SMALL, depth=0.33)
TABLES = {"published": yolo_rules(), "ignored": IGNORED, "replaced": HEAD}


def shapes(config):
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(lambda x: Yolo(config).init(jax.random.key(0), x, train=False), image)


def empty(config):
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes(config))


def state_dict(config):
    """Published arrays with the weights that a formula gives, and what PyTorch adds."""
    names = {name: array.shape for name, array in to_published(empty(config), rules=yolo_rules()).items()}
    made: dict = {name: published_array(name, shape) for name, shape in names.items()}
    made |= {name.replace("running_var", "num_batches_tracked"): np.array(7) for name in names if "running_var" in name}
    return {**made, ANCHORS: config.anchor_levels / np.array([8, 16, 32], np.float32)[:, None, None]}


def loaded(config, tensors):
    adapted = yolo_weights(config)(tensors, shapes(config))
    variables, left = from_published(adapted.tensors, empty(config), rules=yolo_rules(), ignored=IGNORED)
    assert left == ()
    return variables


def by_hand(config):
    """Names and shapes of a state dict, written from the description of the layers."""
    c = lambda of_l: math.ceil(of_l * config.width / 8) * 8
    n = lambda of_l: max(round(of_l * config.depth), 1)
    convolutions = {0: (3, 64, 6), 1: (64, 128, 3), 3: (128, 256, 3), 5: (256, 512, 3), 7: (512, 1024, 3)}
    convolutions |= {10: (1024, 512, 1), 14: (512, 256, 1), 18: (256, 256, 3), 21: (512, 512, 3)}
    blocks = {2: (128, 128, 3), 4: (256, 256, 6), 6: (512, 512, 9), 8: (1024, 1024, 3)}
    blocks |= {13: (1024, 512, 3), 17: (512, 256, 3), 20: (512, 512, 3), 23: (1024, 1024, 3)}
    units = {f"{at}": (c(i) if at else 3, c(o), size) for at, (i, o, size) in convolutions.items()}
    for at, (inputs, outputs, depth) in blocks.items():
        half = c(outputs) // 2
        units |= {
            f"{at}.cv1": (c(inputs), half, 1),
            f"{at}.cv2": (c(inputs), half, 1),
            f"{at}.cv3": (2 * half, c(outputs), 1),
        }
        for block in range(n(depth)):
            units |= {f"{at}.m.{block}.cv1": (half, half, 1), f"{at}.m.{block}.cv2": (half, half, 3)}
    units |= {"9.cv1": (c(1024), c(1024) // 2, 1), "9.cv2": (2 * c(1024), c(1024), 1)}
    found = {ANCHORS: (3, 3, 2)}
    for name, (inputs, outputs, size) in units.items():
        found[f"model.{name}.conv.weight"] = (outputs, inputs, size, size)
        for each in ("weight", "bias", "running_mean", "running_var"):
            found[f"model.{name}.bn.{each}"] = (outputs,)
        found[f"model.{name}.bn.num_batches_tracked"] = ()
    for level, inputs in enumerate((256, 512, 1024)):
        found[f"model.24.m.{level}.weight"] = (3 * (5 + config.classes), c(inputs), 1, 1)
        found[f"model.24.m.{level}.bias"] = (3 * (5 + config.classes),)
    return found


@pytest.mark.parametrize(("size", "config"), [("n", YOLO_N), ("s", YOLO_S)])
def test_names_and_shapes_of_the_published_state_dicts(size, config):
    """By the description, by PyTorch, and by our table."""
    expected = by_hand(config)
    assert {name: tuple(shape) for name, shape in json.loads(str(GOLDEN[f"names_{size}"])).items()} == expected
    written = yolo_state_dict(empty(config), replace(config, pixels="unit"))
    assert {name: array.shape for name, array in written.items()} == {
        name: shape for name, shape in expected.items() if "num_batches_tracked" not in name
    }


@pytest.mark.parametrize(
    ("config", "count"),
    [(YOLO_N, 1_867_405), (YOLO_S, 7_225_885), (YOLO_M, 21_172_173), (YOLO_L, 46_533_693), (YOLO_X, 86_705_005)],
)
def test_published_parameter_counts(config, count):
    """Those that the publisher prints are of the network whose normalisations are folded: a bias for each channel."""
    folded = jax.eval_shape(partial(fold, epsilon=lambda path: NORM_EPSILON), shapes(config))
    assert sum(leaf.size for leaf in jax.tree.leaves(folded)) == count
    made = by_hand(config)
    scales = sum(shape[0] for name, shape in made.items() if name.endswith("bn.weight"))
    parameters = [shape for name, shape in made.items() if name.endswith((".weight", ".bias"))]
    assert sum(map(math.prod, parameters)) == count + scales


def test_normalisation_is_the_published_one():
    """PyTorch's momentum of 0.03 is 0.97 here."""
    norm = yolo_norm(train=True)
    assert (norm.epsilon, norm.momentum) == (1e-3, 0.97)


def test_predictions_and_boxes_of_pytorch():
    variables = loaded(SMALL, state_dict(SMALL))
    image = (uniform("image", (2, 64, 96, 3))).astype(np.float32)
    levels = jax.jit(partial(Yolo(SMALL).apply, train=False))(variables, image)
    for level, raw in enumerate(levels):
        expected = GOLDEN[f"level_{level}"]
        assert np.abs(raw - expected).max() < 1e-4 * np.abs(expected).max()
    centre, sides = np.split(np.concatenate([GOLDEN[f"boxes_{n}"].reshape(2, -1, 4) for n in range(3)], 1), 2, -1)
    expected = np.concatenate([centre - sides / 2, centre + sides / 2], -1)
    np.testing.assert_allclose(decode(levels, SMALL)[0], expected, rtol=1e-4, atol=1e-3)


def test_a_file_detects_what_the_network_did(tmp_path, capsys):
    """Written under published names, with and without a prefix, and read by --init-from."""
    generator = np.random.default_rng(0)
    scale = lambda path: 0.05 if path[-1].key in ("mean", "bias") else 0.2
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            generator.uniform(0.5, 1.5, leaf.shape)
            if path[-1].key in ("var", "scale")
            else generator.normal(0.0, scale(path), leaf.shape)
        ).astype(np.float32),
        shapes(TINY),
    )
    detect = jax.jit(detector(Yolo(TINY), TINY, DetectorConfig(confidence=0.01, max_detections=20)))
    image = generator.uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    before = detect(variables, image)
    assert before.valid.sum() > 5
    tensors = yolo_state_dict(variables, TINY)
    for prefix in ("", "model."):
        path = tmp_path / f"{prefix}safetensors"
        write_state_dict(path, {f"{prefix}{name}": array for name, array in tensors.items()})
        values = read_initial_values(path, shapes(TINY), adapt=yolo_weights(TINY), **TABLES)
        note = "; the prefix model. of all names is left out" if prefix else ""
        assert capsys.readouterr().err == f"starting from published weights in {path}{note}\n"
        again = jax.tree.unflatten(jax.tree.structure(variables), [values[name] for name in named(variables)])
        for one, other in zip(before, detect(again, image), strict=True):
            np.testing.assert_array_equal(one, other)


def test_anchors_of_the_file_are_those_of_its_head(tmp_path, capsys):
    path, tensors = tmp_path / "yolo.safetensors", state_dict(TINY)
    write_state_dict(path, {name: array.astype(np.float16) if array.ndim else array for name, array in tensors.items()})
    read = lambda config: read_initial_values(path, shapes(config), adapt=yolo_weights(config), **TABLES)
    assert read(TINY).keys() == named(shapes(TINY)).keys()
    others = replace(TINY, anchors=(5.0, 6.5, *TINY.anchors[2:]))
    with pytest.raises(
        UserError, match=r"for other anchors than model.anchors: set --model.anchors 10 13 16 30 .* 373 326$"
    ):
        read(others)
    more = replace(TINY, anchors=(*TINY.anchors, *TINY.anchors[:6]))
    capsys.readouterr()
    for config in (replace(others, classes=3), more):
        assert not [name for name in read(config) if "detect" in name]
        said = capsys.readouterr().err
        assert "of the file's other anchors none is used, since the head is new" in said
        assert "params/detect_3/bias, params/detect_3/kernel, params/detect_4/bias and 3 more stay random" in said
    write_state_dict(path, {**tensors, ANCHORS: np.ones((2, 2), np.float32)})
    with pytest.raises(UserError, match=r"model.24.anchors has the shape \(2, 2\)"):
        read(TINY)


@pytest.mark.parametrize("pixels", ["symmetric", "imagenet"])
def test_other_pixels_than_the_weights_expect_are_refused(pixels):
    config = replace(TINY, pixels=pixels)
    with pytest.raises(UserError, match=f"expect images in .0, 1., and model.pixels is {pixels}: set --model.pixels"):
        yolo_weights(config)(state_dict(TINY), shapes(TINY))
    with pytest.raises(UserError, match=f"was trained with model.pixels {pixels}: train with --model.pixels unit"):
        yolo_state_dict(empty(TINY), config)


def test_weights_of_another_size_and_of_another_network_are_refused():
    with pytest.raises(
        UserError, match=r"arrays that do not fit: model\.2\.m\.0.* of shape \(8,\), where .* needs \(16,\)"
    ):
        loaded(replace(TINY, width=0.25), state_dict(TINY))
    with pytest.raises(UserError, match=r"2 arrays that belong nowhere here: conv1\.weight, fc\.bias"):
        loaded(TINY, {"conv1.weight": np.zeros((1, 1, 1, 1), np.float32), "fc.bias": np.zeros(1, np.float32)})
