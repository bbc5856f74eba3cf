"""Parts of Mask R-CNN against torchvision's: anchors, matching, the five losses and their gradients, masks.

The golden arrays are made by make_mask_rcnn_golden.py with PyTorch, in float64.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from mask_rcnn_scene import LABELS, masks
from published_weights import uniform

from vision.models.instances.mask_rcnn import MaskRcnnConfig
from vision.models.instances.region_proposals import cell_anchors, grid_anchors
from vision.ops.roi_masks import crop_masks, paste_masks
from vision.tasks.instances import head_losses, mask_loss
from vision.tasks.region_proposals import match, region_losses

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "mask_rcnn.npz")


def normal(name, *shape):
    return (2 * uniform(name, shape)).astype(np.float32)


def test_anchors():
    """Of an image of 160x96, whose last level has cells 53 and 48 pixels apart."""
    config = MaskRcnnConfig()
    made = [
        grid_anchors(
            cell_anchors(side, config.anchor_ratios), grid=(-(-160 // stride), -(-96 // stride)), image=(160, 96)
        )
        for side, stride in zip(config.anchor_sizes, (4, 8, 16, 32, 64), strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(made), GOLDEN["anchors"])


def test_matching_with_equal_overlaps():
    """-1 is background and -2 between the limits there."""
    boxes = jnp.asarray(GOLDEN["match_boxes"], jnp.float32)
    own = jnp.concatenate([boxes[:5], jnp.array([[0.0, 0.0, 9.0, 9.0]])])[None]
    valid = jnp.arange(6)[None] < 5
    for name, how in (("closest", {"high": 0.7, "low": 0.3, "closest": True}), ("plain", {"high": 0.5, "low": 0.5})):
        found = jax.jit(partial(match, **how))(own, valid, boxes[None, 5:])
        expected = GOLDEN[f"match_{name}"]
        np.testing.assert_array_equal(found.positive[0], expected >= 0)
        np.testing.assert_array_equal(found.negative[0], expected == -1)
        np.testing.assert_array_equal(np.asarray(found.box[0])[expected >= 0], expected[expected >= 0])
        assert (expected >= 0).any()
    assert (GOLDEN["match_closest"] == -2).any()


def test_losses_of_the_first_stage():
    """Anchors that do not count are there as places that are not valid."""
    state = np.array([[1, 0, 0, -1, 1, 0]] * 2)
    offsets, targets = normal("anchors", 12, 4).reshape(2, 6, 4), normal("wanted", 12, 4).reshape(2, 6, 4)
    # what is true of background is never a number
    targets[state < 1] = np.nan
    where = {"positive": jnp.asarray(state == 1), "valid": jnp.asarray(state >= 0)}

    def loss(objectness, offsets):
        found = region_losses(objectness, offsets, jnp.asarray(targets), **where)
        return sum(found.values()), found

    run = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (to_objectness, to_offsets), found = run(normal("objectness", 12).reshape(2, 6), offsets)
    np.testing.assert_allclose([found["objectness"], found["region_box"]], GOLDEN["region_losses"], rtol=1e-5)
    np.testing.assert_allclose(to_objectness.reshape(-1), GOLDEN["objectness_gradient"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(to_offsets.reshape(-1, 4), GOLDEN["anchors_gradient"], rtol=1e-4, atol=1e-7)


def test_losses_of_the_second_stage():
    """Two of the twelve places are empty, and everything is lost there."""
    padded = lambda x: np.concatenate([x, np.full((2, *x.shape[1:]), 100, x.dtype)]).reshape(2, 6, *x.shape[1:])
    labels, valid = padded(np.arange(10) % 4) % 4, jnp.arange(12).reshape(2, 6) < 10
    targets = padded(normal("targets", 10, 4))
    targets[labels == 0] = np.nan

    def loss(logits, offsets):
        found = head_losses(logits, offsets, jnp.asarray(targets), labels=jnp.asarray(labels, jnp.int32), valid=valid)
        return sum(found.values()), found

    logits, offsets = padded(normal("logits", 10, 4)), padded(normal("offsets", 10, 16).reshape(10, 4, 4))
    gradients, found = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(logits, offsets)
    np.testing.assert_allclose([found["class"], found["box"]], GOLDEN["head_losses"], rtol=1e-5)
    for gradient, name in zip(gradients, ("logits", "offsets"), strict=True):
        expected = GOLDEN[f"{name}_gradient"]
        gradient = np.asarray(gradient).reshape(12, -1)
        np.testing.assert_allclose(gradient[:10], expected, rtol=1e-4, atol=1e-7)
        assert not gradient[10:].any()


REGIONS = np.float32([[10, 20, 100, 110], [60, 40, 230.5, 170.25], [0, 100, 60, 199], [80, 0, 83, 2]])
INDEX = np.int32([0, 1, 3, 2])


def test_the_loss_of_masks():
    """A fifth region is background, and a sixth place empty."""
    targets = jax.jit(partial(crop_masks, size=28))(masks()[None], INDEX[None], REGIONS[None])
    np.testing.assert_allclose(targets[0], GOLDEN["mask_targets"], atol=1e-4)
    more = lambda x, value: np.concatenate([x, np.full((2, *x.shape[1:]), value, x.dtype)])[None]
    labels = more(1 + np.int32(LABELS)[INDEX], 0)
    labels[0, 5] = 2
    logits = more(normal("masks", 4, 4, 28, 28).transpose(0, 2, 3, 1), 100.0)
    valid = np.arange(6)[None] < 5
    true = more(np.asarray(targets[0]), 0.0)
    loss = lambda logits: mask_loss(logits, jnp.asarray(true), labels=jnp.asarray(labels), valid=jnp.asarray(valid))
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    np.testing.assert_allclose(value, GOLDEN["mask_loss"], rtol=1e-5)
    for k in range(4):
        np.testing.assert_allclose(gradient[0, k, ..., labels[0, k]], GOLDEN["mask_gradient"][k], rtol=1e-3, atol=1e-8)
    assert np.count_nonzero(gradient) == np.count_nonzero(GOLDEN["mask_gradient"])


def test_pasted_masks():
    probability = ((uniform("paste", (3, 28, 28)) + 1) / 2).astype(np.float32)
    found = paste_masks(probability, GOLDEN["pasted_boxes"], height=36, width=44, rounded=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GOLDEN["pasted"], atol=1e-5)
