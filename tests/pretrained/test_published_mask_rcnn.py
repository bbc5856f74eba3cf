"""Published Faster and Mask R-CNN: names and shapes, and what a small one of torchvision detects and learns.

The golden arrays are made by make_mask_rcnn_golden.py with PyTorch.
"""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mask_rcnn_scene import ANCHORS, BOXES, CLASSES, LABELS, SIZES, masks, pixels, weight
from published_weights import uniform

from vision.errors import UserError
from vision.models.instances.mask_rcnn import MaskRcnn, MaskRcnnConfig
from vision.models.resnet import ResNetConfig
from vision.pretrained.backbone import backbone_weights
from vision.pretrained.initial import read_initial_values
from vision.pretrained.mask_rcnn import (
    COCO_IDS,
    HEADS,
    IGNORED,
    mask_rcnn_backbone_rules,
    mask_rcnn_rules,
    mask_rcnn_weights,
)
from vision.pretrained.resnet import resnet_rules
from vision.pretrained.rules import from_published, named, to_published
from vision.pretrained.state_dict import write_state_dict
from vision.tasks.instances import InstanceDetectorConfig, InstanceLossConfig, instance_detector, mask_rcnn_loss
from vision.tasks.region_proposals import ProposalConfig, select_proposals

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "mask_rcnn.npz")
SMALL = MaskRcnnConfig(
    classes=CLASSES,
    backbone=ResNetConfig(depths=(1, 1, 1, 1), group_width=8),
    norm_epsilon=0.0,
    channels=16,
    box_width=24,
    mask_width=16,
    mask_depth=2,
    anchor_sizes=tuple(map(float, ANCHORS)),
    pixels="symmetric",
)
PUBLISHED = MaskRcnnConfig(classes=90)


@cache
def shapes(config):
    image = jnp.zeros((1, 64, 64, 3))
    return jax.eval_shape(lambda key: MaskRcnn(config).init(key, image, train=False), jax.random.key(0))


def empty(config):
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes(config))


def state_dict(config):
    """Published arrays with the weights that a formula gives."""
    names = {name: array.shape for name, array in to_published(empty(config), rules=mask_rcnn_rules(config)).items()}
    return {name: weight(name, shape) for name, shape in names.items()}


def loaded(config, tensors, **how):
    return from_published(tensors, empty(config), rules=mask_rcnn_rules(config), ignored=IGNORED, **how)


@pytest.fixture(scope="module")
def small():
    variables, left = loaded(SMALL, state_dict(SMALL))
    assert left == ()
    return variables


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"])
def test_names_and_shapes_of_the_published_state_dicts(name, norm):
    """Every array has a place, every variable an array, and ours are written under the same names."""
    config = replace(PUBLISHED, mask=name.startswith("mask"), norm=norm)
    expected = {name: tuple(shape) for name, shape in json.loads(str(GOLDEN[name])).items()}
    theirs = {name: np.broadcast_to(np.float32(0), shape) for name, shape in expected.items()}
    variables, left = loaded(config, theirs)
    assert left == ()
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, empty(config))
    written = to_published(empty(config), rules=mask_rcnn_rules(config))
    assert {name: array.shape for name, array in written.items()} == {
        name: shape for name, shape in expected.items() if "num_batches_tracked" not in name
    }


def old(name):
    """The name of before torchvision 0.13, as in the published files."""
    name = re.sub(r"((inner|layer)_blocks\.\d)\.0\.", r"\1.", name).replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    return re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name)


def test_files_of_old_and_new_names_have_the_same_weights(small):
    tensors = state_dict(SMALL)
    before = {old(name): array for name, array in tensors.items()}
    assert len(before.keys() - tensors.keys()) == 2 * (8 + 1 + 2)
    variables, _ = loaded(SMALL, before)
    jax.tree.map(np.testing.assert_array_equal, variables, small)
    again = to_published(small, rules=mask_rcnn_rules(SMALL))
    assert again.keys() == tensors.keys()
    for name, array in again.items():
        np.testing.assert_array_equal(array, tensors[name], err_msg=name)
    with pytest.raises(UserError, match="arrays for what another array has set: rpn"):
        loaded(SMALL, {**tensors, "rpn.head.conv.weight": tensors["rpn.head.conv.0.0.weight"]})
    with pytest.raises(UserError, match=r"belong nowhere here: roi_heads\.keypoint"):
        loaded(SMALL, {**tensors, "roi_heads.keypoint.weight": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match="variables that nothing sets: params/mask_head/double/bias"):
        loaded(SMALL, {name: array for name, array in tensors.items() if "conv5_mask.bias" not in name})


def test_other_classes_replace_the_last_layers_of_the_heads():
    other = replace(SMALL, classes=CLASSES + 2)
    _, left = loaded(other, state_dict(SMALL), replaced=HEADS)
    assert left == tuple(
        f"params/{layer}/{kind}"
        for layer in ("box_head/classes", "box_head/offsets", "mask_head/logits")
        for kind in ("bias", "kernel")
    )
    # a file without masks starts a detector with masks, but its mask head
    without = {name: array for name, array in state_dict(SMALL).items() if "mask" not in name}
    _, left = loaded(SMALL, without, replaced=(*HEADS, "^params/mask_head/"))
    assert all(name.startswith("params/mask_head/") for name in left)


def test_pixels_and_weights_of_a_classifier(tmp_path, capsys):
    config = replace(SMALL, pixels="imagenet")
    assert mask_rcnn_weights(config)(state_dict(SMALL), {}).tensors.keys() == state_dict(SMALL).keys()
    with pytest.raises(UserError, match=r"model\.pixels is symmetric: set --model.pixels imagenet"):
        mask_rcnn_weights(SMALL)(state_dict(SMALL), {})
    path = tmp_path / "resnet.safetensors"
    body = "backbone.body."
    tensors = {name.removeprefix(body): array for name, array in state_dict(SMALL).items() if name.startswith(body)}
    write_state_dict(
        path, {**tensors, "fc.weight": np.zeros((9, 2048), np.float32), "fc.bias": np.zeros(9, np.float32)}
    )
    rules = resnet_rules(config.backbone)
    for norm in ("frozen", "batch"):
        chosen = replace(config, norm=norm)
        values = read_initial_values(
            path,
            shapes(chosen),
            published=mask_rcnn_backbone_rules(chosen),
            ignored=IGNORED,
            adapt=backbone_weights(rules, config.pixels),
        )
        assert values.keys() == {name for name in named(shapes(chosen)) if "/backbone/" in name}
        scale = f"{'batch_stats' if norm == 'frozen' else 'params'}/backbone/stem_norm/scale"
        np.testing.assert_array_equal(values[scale], tensors["bn1.weight"])
        assert "those of a classifier and fill the backbone" in capsys.readouterr().err


def test_proposals_and_detections_of_torchvision(small):
    """On padded images of two sizes: boxes, in pixels, scores and masks within 1e-3."""
    model = MaskRcnn(SMALL)
    few = ProposalConfig(before=60, after=40)
    detect = instance_detector(model, InstanceDetectorConfig(proposals=few, iou=0.1, max_detections=6))
    size = jnp.array(SIZES, jnp.int32)

    def run(variables, images):
        levels = model.apply(variables, images, train=False, method="levels")
        return select_proposals(model.apply(variables, levels, method="regions"), size, few), detect(
            variables, images, size
        )

    proposals, found = jax.device_get(jax.jit(run)(small, pixels()))
    for image in range(2):
        assert proposals.valid[image].all()
        np.testing.assert_allclose(proposals.boxes[image], GOLDEN[f"proposals_{image}"], atol=1e-3)
        assert found.valid[image].all()
        np.testing.assert_array_equal(found.labels[image] + 1, GOLDEN[f"labels_{image}"])
        np.testing.assert_allclose(found.boxes[image], GOLDEN[f"boxes_{image}"], atol=1e-3)
        np.testing.assert_allclose(found.scores[image], GOLDEN[f"scores_{image}"], atol=1e-3)
        np.testing.assert_allclose(found.masks[image], GOLDEN[f"masks_{image}"][:, 0], atol=1e-3)
    assert found.boxes[0, :, 2].max() <= SIZES[0][1]


def test_losses_and_gradients_of_torchvision(small):
    """Where all anchors and proposals are sampled, there is no chance: five losses, and each parameter's gradient."""
    config = InstanceLossConfig(
        proposals=ProposalConfig(before=40, after=30),
        anchors=10**6,
        anchor_positive=1.0,
        regions=10**6,
        region_positive=1.0,
    )
    loss = mask_rcnn_loss(MaskRcnn(SMALL), config)
    batch = {
        "image": pixels(),
        "size": np.int32(SIZES),
        "boxes": np.stack([BOXES, 0 * BOXES]),
        "labels": np.int32([LABELS, LABELS]),
        "valid": np.array([[True] * 4, [False] * 4]),
        "masks": np.stack([masks(), masks()]).astype(bool),
    }
    run = jax.value_and_grad(lambda *of: loss(*of, key=jax.random.key(0), step=jnp.int32(0)), has_aux=True)
    (value, (state, scalars)), gradients = jax.device_get(
        jax.jit(run)(small["params"], {"batch_stats": small["batch_stats"]}, batch)
    )
    jax.tree.map(np.testing.assert_array_equal, state["batch_stats"], small["batch_stats"])
    names = {
        "objectness": "objectness",
        "region_box": "rpn_box_reg",
        "class": "classifier",
        "box": "box_reg",
        "mask": "mask",
    }
    expected = {ours: float(GOLDEN[f"loss_{theirs}"]) for ours, theirs in names.items()}
    for name, number in expected.items():
        np.testing.assert_allclose(scalars[name], number, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(value, sum(expected.values()), rtol=1e-4)
    written = to_published({"params": gradients}, rules=mask_rcnn_rules(SMALL))
    expected = json.loads(str(GOLDEN["gradients"]))
    assert written.keys() == expected.keys()
    for name, (norm, projected) in expected.items():
        gradient = written[name].astype(np.float64)
        assert norm > 0
        np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-3, err_msg=name)
        np.testing.assert_allclose((gradient * uniform(name, gradient.shape)).sum(), projected, atol=1e-3 * norm)


def test_coco_takes_the_outputs_of_its_categories_from_all_numbers():
    """COCO's own list of categories leaves out ten numbers; its 80th is toothbrush, number 90."""
    assert len(COCO_IDS) == 80
    assert (COCO_IDS[0], COCO_IDS[10], COCO_IDS[11], COCO_IDS[79]) == (1, 11, 13, 90)
    one = np.arange(91, dtype=np.float32)
    file = {
        "roi_heads.box_predictor.cls_score.weight": one[:, None] * np.ones((1, 5), np.float32),
        "roi_heads.box_predictor.cls_score.bias": one,
        "roi_heads.box_predictor.bbox_pred.bias": np.repeat(one, 4),
        "roi_heads.mask_predictor.mask_fcn_logits.weight": one[:, None, None, None] * np.ones((1, 3, 1, 1), np.float32),
        "roi_heads.box_head.fc7.bias": np.zeros(91, np.float32),
    }
    adapted = mask_rcnn_weights(replace(PUBLISHED, classes=80))(file, {})
    assert "80 categories" in adapted.notes[0]
    wanted = np.array([0, *COCO_IDS], np.float32)
    found = adapted.tensors
    np.testing.assert_array_equal(found["roi_heads.box_predictor.cls_score.weight"], wanted[:, None] * np.ones((1, 5)))
    np.testing.assert_array_equal(found["roi_heads.box_predictor.cls_score.bias"], wanted)
    np.testing.assert_array_equal(found["roi_heads.box_predictor.bbox_pred.bias"], np.repeat(wanted, 4))
    assert found["roi_heads.mask_predictor.mask_fcn_logits.weight"].shape == (81, 3, 1, 1)
    assert found["roi_heads.box_head.fc7.bias"].shape == (91,)
    assert mask_rcnn_weights(PUBLISHED)(file, {}).tensors is file
