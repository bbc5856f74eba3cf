"""Mask R-CNN as a whole: gradients of all parameters, empty images, crowds, sizes, masks of lower resolution."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_mask_rcnn import TINY
from vision.errors import UserError
from vision.models.instances.mask_rcnn import MaskRcnn
from vision.parallel.sharding import path_name
from vision.tasks.instances import (
    InstanceDetectorConfig,
    InstanceLossConfig,
    instance_detector,
    mask_rcnn_loss,
)
from vision.tasks.region_proposals import ProposalConfig

# All anchors, so that the few of the coarse levels are among them
FEW = InstanceLossConfig(
    proposals=ProposalConfig(before=20, after=16), anchors=2000, regions=24, region_positive=0.5, region_iou=0.4
)
SIDE, SLOTS = 64, 40


def batch_of(seed=0, images=2, side=SIDE, count=SLOTS):
    """As many boxes in each image as there are places, more than there are proposals, with masks that fill them."""
    random = np.random.default_rng(seed)
    low = random.uniform(0, side - 12, (images, count, 2))
    boxes = np.concatenate([low, np.minimum(low + random.uniform(8, 30, low.shape), side)], axis=-1)
    y, x = np.mgrid[:side, :side] + 0.5
    inside = lambda b: (x > b[0]) & (x < b[2]) & (y > b[1]) & (y < b[3])
    return {
        "image": random.normal(size=(images, side, side, 3)).astype(np.float32),
        "size": np.full((images, 2), side, np.int32),
        "boxes": boxes.astype(np.float32),
        "labels": random.integers(0, 3, (images, count)).astype(np.int32),
        "valid": np.ones((images, count), bool),
        "masks": np.stack([[inside(b) for b in each] for each in boxes]),
    }


@pytest.fixture(scope="module")
def tiny():
    """A network whose proposals are near its anchors, and whose heads say something."""
    made = jax.jit(lambda key: MaskRcnn(TINY).init(key, jnp.zeros((1, SIDE, SIDE, 3)), train=False))(jax.random.key(0))
    return jax.device_get(made)


@pytest.fixture(scope="module")
def losses():
    """Compiled: (variables, batch, key) -> ((loss, (state, scalars)), gradients)."""
    loss = mask_rcnn_loss(MaskRcnn(TINY), FEW)

    @jax.jit
    def run(variables, batch, key):
        state = {"batch_stats": variables["batch_stats"]}
        of = lambda params: loss(params, state, batch, key=key, step=jnp.int32(0))
        return jax.value_and_grad(of, has_aux=True)(variables["params"])

    return run


def test_every_parameter_has_a_gradient(tiny, losses):
    """With more boxes than proposals, of which some are valid."""
    batch = batch_of()
    (value, (state, scalars)), gradients = jax.device_get(losses(tiny, batch, jax.random.key(0)))
    assert scalars.keys() == {"objectness", "region_box", "class", "box", "mask", "positive_regions"}
    parts = [scalars[name] for name in scalars if name != "positive_regions"]
    np.testing.assert_allclose(value, sum(parts), rtol=1e-6)
    assert all(part > 0 for part in parts)
    # up to half of 24 are of a box, and there are 40 true boxes among the candidates
    assert scalars["positive_regions"] == 12
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path_name(path)
        assert np.abs(leaf).max() > 0, path_name(path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state["batch_stats"]):
        before = tiny["batch_stats"]
        for each in path:
            before = before[each.key]
        assert not np.array_equal(leaf, before), path_name(path)


def test_images_without_boxes_teach_background_alone(tiny, losses):
    batch = batch_of()
    batch["valid"][:] = False
    batch["boxes"][:] = 0  # as padding is
    (value, (_, scalars)), gradients = jax.device_get(losses(tiny, batch, jax.random.key(0)))
    assert np.isfinite(value)
    assert scalars["region_box"] == scalars["box"] == scalars["mask"] == scalars["positive_regions"] == 0
    assert scalars["objectness"] > 0
    assert scalars["class"] > 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path_name(path)
        silent = "mask_head" in path_name(path) or "offsets/" in path_name(path)
        assert np.any(leaf) != silent, path_name(path)


def test_empty_places_and_the_other_images_do_not_count(tiny, losses):
    """What is in places that are not valid changes nothing, and chance depends on the key alone."""
    run = lambda batch, seed: jax.device_get(losses(tiny, batch, jax.random.key(seed)))[0][0]
    batch = batch_of()
    assert run(batch, 0) == run(batch, 0) != run(batch, 1)
    batch["valid"][:, 5:] = False
    other = {name: array.copy() for name, array in batch.items()}
    other["boxes"][:, 5:], other["labels"][:, 5:], other["masks"][:, 5:] = [3, 3, 60, 60], 2, True
    assert run(batch, 0) == run(other, 0)


def test_masks_may_have_a_lower_resolution(tiny, losses):
    """Of objects that fill their boxes, whose borders lie between four cells of them."""
    batch = batch_of()
    batch["boxes"] = np.round(batch["boxes"] / 4) * 4
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    inside = lambda b: (x > b[0]) & (x < b[2]) & (y > b[1]) & (y < b[3])
    batch["masks"] = np.stack([[inside(b) for b in each] for each in batch["boxes"]])
    small = {**batch, "masks": batch["masks"][:, :, ::4, ::4]}
    full, low = (jax.device_get(losses(tiny, each, jax.random.key(0)))[0][1][1] for each in (batch, small))
    for name in ("objectness", "class", "box"):
        np.testing.assert_allclose(low[name], full[name], rtol=1e-5)
    np.testing.assert_allclose(low["mask"], full["mask"], rtol=0.1)
    assert low["mask"] != full["mask"]


def test_detections_lie_within_the_size_of_each_image(tiny):
    model = MaskRcnn(TINY)
    config = InstanceDetectorConfig(proposals=ProposalConfig(before=30, after=20), confidence=0.2, max_detections=12)
    detect = jax.jit(instance_detector(model, config))
    images = batch_of(seed=3)["image"]
    size = np.int32([[40, 64], [64, 33]])
    found = jax.device_get(detect(tiny, images, size))
    assert found.masks.shape == (2, 12, 28, 28)
    for image in range(2):
        count = int(found.valid[image].sum())
        assert found.valid[image, :count].all()
        assert count > 0
        boxes, scores = found.boxes[image], found.scores[image]
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= size[image, 1]).all()
        assert (boxes[:, 3] <= size[image, 0]).all()
        assert (np.diff(scores[:count]) <= 0).all()
        assert (scores[:count] >= 0.2).all()
        assert ((found.masks[image, :count] > 0) & (found.masks[image, :count] < 1)).all()
        assert not any(np.any(each[image, count:]) for each in (found.boxes, found.scores, found.labels, found.masks))
    assert set(np.unique(found.labels)) <= {0, 1, 2}


def test_faster_rcnn_has_no_masks(tiny):
    """Nor are any asked of the batch; and without a size, the image is the whole array."""
    faster = MaskRcnn(replace(TINY, mask=False))
    batch = batch_of()
    del batch["masks"]
    params = {name: tree for name, tree in tiny["params"].items() if name != "mask_head"}
    loss = mask_rcnn_loss(faster, FEW)
    _, (_, scalars) = jax.jit(lambda p, s, b: loss(p, s, b, key=jax.random.key(0), step=jnp.int32(0)))(
        params, {"batch_stats": tiny["batch_stats"]}, batch
    )
    assert scalars.keys() == {"objectness", "region_box", "class", "box", "positive_regions"}
    found = jax.eval_shape(
        instance_detector(faster, InstanceDetectorConfig()), {**tiny, "params": params}, batch["image"]
    )
    assert found.masks is None
    assert found.boxes.shape == (2, 100, 4)


def test_limits_of_anchors_in_the_wrong_order():
    with pytest.raises(UserError, match=r"anchor_low must be at most anchor_high, not 0.8 where that is 0.7"):
        InstanceLossConfig(anchor_low=0.8)
