"""Masks from prototypes: which anchors learn them, the loss against numpy, and detections of a network made by hand."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_assignment import answers as slow_answers

from vision.data.letterbox import Letterbox
from vision.errors import UserError
from vision.models.instances.prototypes import PrototypeConfig, PrototypePredictions, PrototypeYolo
from vision.models.yolo import STRIDES, YoloConfig, scaled_anchors
from vision.ops.prototype_masks import prototype_masks
from vision.ops.rle import decode
from vision.parallel.sharding import path_name
from vision.ranges import check_ranges
from vision.tasks.detection import detection_losses
from vision.tasks.prototypes import (
    AssignedAnchors,
    PrototypeDetectorConfig,
    PrototypeLossConfig,
    assigned_anchors,
    mask_loss,
    prototype_candidates,
    prototype_detector,
    prototype_loss,
    sampled,
    shares,
)

HEIGHT, WIDTH, SLOTS = 64, 96, 6
MODEL = YoloConfig(depth=0.33, width=0.125, classes=2, anchors=scaled_anchors(160))
CONFIG = PrototypeConfig(MODEL, prototypes=3, width=32)
ALL = PrototypeLossConfig(positives=10**6)


def random_batch(seed=0):
    """Rectangles that hide each other, with whole pixels as borders; one without a pixel, and an image without any."""
    random = np.random.default_rng(seed)
    low = random.integers(0, [WIDTH - 20, HEIGHT - 20], (3, SLOTS, 2))
    boxes = np.concatenate([low, low + random.integers(3, 20, low.shape)], axis=-1).astype(np.float32)
    valid = np.arange(SLOTS) < np.array([SLOTS, 3, 0])[:, None]
    instances = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    for image, slot in np.argwhere(valid)[:-1]:
        x0, y0, x1, y1 = boxes[image, slot].astype(int)
        instances[image, y0:y1, x0:x1] = 1 + slot
    return {
        "image": random.normal(size=(3, HEIGHT, WIDTH, 3)).astype(np.float32),
        "boxes": boxes,
        "labels": random.integers(0, 2, (3, SLOTS)).astype(np.int32),
        "valid": valid,
        "instances": instances,
        "dropped_boxes": np.array([0, 1, 2], np.int32),
    }


def random_predictions(seed=0):
    random = np.random.default_rng(seed)
    level = lambda stride, last: random.normal(size=(3, HEIGHT // stride, WIDTH // stride, 3, last)).astype(np.float32)
    return PrototypePredictions(
        raw=[level(stride, 7) for stride in STRIDES],
        coefficients=[level(stride, 3) for stride in STRIDES],
        prototypes=random.normal(size=(3, HEIGHT // 4, WIDTH // 4, 3)).astype(np.float32),
    )


def slow_mask_loss(found, batch, objective):
    """Anchor by anchor and pixel by pixel of the prototypes, of all assigned ones."""
    losses = [[] for _ in batch["valid"]]
    for level, stride, anchors in zip(found.coefficients, STRIDES, MODEL.anchor_levels.tolist(), strict=True):
        of_level = slow_answers(
            batch["boxes"], batch["valid"], anchors=anchors, stride=stride, grid=(level.shape[1], level.shape[2])
        )
        for image, row, column, anchor, slot in of_level:
            logits = found.prototypes[image].astype(np.float64) @ level[image, row, column, anchor]
            x0, y0, x1, y1 = batch["boxes"][image, slot]
            true, sure = [], []
            for r, c in np.ndindex(HEIGHT // 4, WIDTH // 4):
                if x0 <= 4 * c + 2 < x1 and y0 <= 4 * r + 2 < y1:
                    cell = batch["instances"][image, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4]
                    true.append(np.mean(cell == 1 + slot))
                    sure.append(1 / (1 + np.exp(-logits[r, c])))
            t, s = np.array(true), np.array(sure)
            if objective == "dice":
                losses[image].append(1 - 2 * (t * s).sum() / (t.sum() + s.sum()) if t.sum() else 0.0)
            else:
                losses[image].append(np.mean(-t * np.log(s) - (1 - t) * np.log1p(-s)) if len(t) else 0.0)
    assert min(map(len, losses[:2])) > 10
    return np.mean([np.mean(each or [0]) for each in losses])


@pytest.mark.parametrize("objective", ["cross_entropy", "dice"])
def test_the_loss_of_all_assigned_anchors_is_the_references(objective):
    config = replace(ALL, objective=objective)
    compute = jax.jit(lambda *of: mask_loss(*of, model=MODEL, config=config, key=jax.random.key(0)))
    for seed in range(2):
        found, batch = random_predictions(seed), random_batch(seed)
        np.testing.assert_allclose(compute(found, batch), slow_mask_loss(found, batch, objective), rtol=1e-5)


def test_assigned_anchors_are_in_the_order_of_decoding():
    batch, found = random_batch(), random_predictions()
    place, box, valid = jax.jit(lambda *of: assigned_anchors(*of, model=MODEL, ratio=4.0))(found.raw, batch)
    images = np.broadcast_to(np.arange(3)[:, None], place.shape)
    made = {tuple(row) for row in np.stack([images, place, box], -1)[np.asarray(valid)].tolist()}
    expected, before = set(), 0
    for level, stride, anchors in zip(found.raw, STRIDES, MODEL.anchor_levels.tolist(), strict=True):
        rows, columns = level.shape[1:3]
        expected |= {
            (image, before + (row * columns + column) * 3 + anchor, slot)
            for image, row, column, anchor, slot in slow_answers(
                batch["boxes"], batch["valid"], anchors=anchors, stride=stride, grid=(rows, columns)
            )
        }
        before += rows * columns * 3
    assert made == expected
    assert int(valid.sum()) == len(expected)  # each once


def test_samples_are_uniform_over_assigned_anchors_and_hold_nothing_else():
    valid = np.array([[True, False, True, True, False, True, True], [False] * 7, [False] * 6 + [True]])
    place = np.arange(21).reshape(3, 7)
    anchors = AssignedAnchors(jnp.asarray(place), jnp.asarray(100 + place), jnp.asarray(valid))
    keys = jax.random.split(jax.random.key(0), 3000)
    found = jax.jit(jax.vmap(lambda key: sampled(anchors, 2, key=key)))(keys)
    assert found.place.shape == (3000, 3, 2)
    assert np.array_equal(found.valid[0], [[True, True], [False, False], [True, False]])
    assert np.array_equal(found.valid, np.broadcast_to(found.valid[0], found.valid.shape))
    assert np.array_equal(np.asarray(found.box)[found.valid], 100 + np.asarray(found.place)[found.valid])
    first = np.asarray(found.place[:, 0])
    assert (first[:, 0] != first[:, 1]).all()
    counts = np.bincount(first.ravel(), minlength=7)
    assert not counts[[1, 4]].any()
    # two of five: 1200 each, with a standard deviation of 27
    assert (np.abs(counts[[0, 2, 3, 5, 6]] - 1200) < 130).all()
    assert (np.asarray(found.place[:, 2, 0]) == 20).all()


def test_shares_are_those_of_the_pixels_of_a_cell():
    random = np.random.default_rng(0)
    instances = random.integers(0, 4, (2, 8, 12)).astype(np.uint8)
    number = random.integers(1, 6, (2, 5)).astype(np.int32)
    found = jax.jit(shares)(instances, number)
    for image, n, row, column in np.ndindex(2, 5, 2, 3):
        cell = instances[image, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert found[image, n, row, column] == np.mean(cell == number[image, n])


@pytest.fixture(scope="module")
def variables():
    make = jax.jit(lambda key: PrototypeYolo(CONFIG).init(key, jnp.zeros((1, 64, 64, 3)), train=False))
    return jax.device_get(make(jax.random.key(0)))


@pytest.fixture(scope="module")
def losses():
    """Compiled: (variables, batch, key) -> ((loss, (state, scalars)), gradients), of four anchors an image."""
    loss = prototype_loss(PrototypeYolo(CONFIG), CONFIG, PrototypeLossConfig(positives=4, mask=2.0))

    @jax.jit
    def run(variables, batch, key):
        state = {"batch_stats": variables["batch_stats"]}
        of = lambda params: loss(params, state, batch, key=key, step=jnp.int32(0))
        return jax.value_and_grad(of, has_aux=True)(variables["params"])

    return run


def test_every_parameter_has_a_gradient(variables, losses):
    (value, (state, scalars)), gradients = jax.device_get(losses(variables, random_batch(), jax.random.key(0)))
    assert scalars.keys() == {"box", "objectness", "class", "mask", "anchor_recall", "dropped_boxes"}
    parts = [scalars[name] for name in ("box", "objectness", "class", "mask")]
    np.testing.assert_allclose(value, sum(parts), rtol=1e-6)
    assert all(part > 0 for part in parts)
    assert scalars["dropped_boxes"] == 1
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path_name(path)
        assert np.abs(leaf).max() > 0, path_name(path)
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, state["batch_stats"], variables["batch_stats"])))


def test_chance_depends_on_the_key_alone(variables, losses):
    run = lambda seed: losses(variables, random_batch(), jax.random.key(seed))[0][1][1]
    assert run(0) == run(0)
    assert run(0)["mask"] != run(1)["mask"]
    assert run(0)["box"] == run(1)["box"]


def test_images_without_objects_have_no_mask_loss(variables, losses):
    batch = random_batch()
    batch["valid"][:] = False
    batch["boxes"][:] = 0
    batch["instances"][:] = 0
    (value, (_, scalars)), gradients = jax.device_get(losses(variables, batch, jax.random.key(0)))
    assert np.isfinite(value)
    assert scalars["mask"] == scalars["box"] == scalars["class"] == 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path_name(path)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients["prototypes"]))


def test_running_statistics_stay_and_the_detectors_part_is_the_detectors(variables):
    """With the gain of the masks at 0, the loss is that of the detector for the same predictions."""
    network, batch = PrototypeYolo(CONFIG), random_batch()
    del batch["dropped_boxes"]
    loss = prototype_loss(network, CONFIG, replace(ALL, mask=0.0), running_statistics=True)
    state = {"batch_stats": variables["batch_stats"]}

    @jax.jit
    def both(params, batch):
        found = network.apply({"params": params, **state}, batch["image"], train=False)
        ours = loss(params, state, batch, key=jax.random.key(0), step=jnp.int32(0))
        return ours, detection_losses(found.raw, batch, model=MODEL, config=ALL.detection)

    (value, (new, scalars)), expected = both(variables["params"], batch)
    np.testing.assert_allclose(value, expected["loss"], rtol=1e-5)
    assert scalars.keys() == {"box", "objectness", "class", "mask", "anchor_recall"}
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, new, state)))


class Says(nn.Module):
    """A network that predicts its variables."""

    def __call__(self, image, *, train):
        del image, train
        return PrototypePredictions(**{name: self.get_variable("given", name) for name in PrototypePredictions._fields})


HALF = 8 * (2 / (1 + np.exp(-1.0))) ** 2
"""Of the side of each object's box: 17.1 pixels."""


def scene(*objects, side=64):
    """Predictions: each object is (row, column, class, logit of the score, coefficients) of stride 16.

    The prototypes are the disc around (16, 16), that around (48, 40), and ones, at a quarter of 64 x 64 pixels.
    """
    raw = [np.full((1, side // s, side // s, 3, 7), -20.0, np.float32) for s in STRIDES]
    coefficients = [np.full((1, side // s, side // s, 3, 3), 0.5, np.float32) for s in STRIDES]
    for row, column, label, sure, weights in objects:
        # the middle of the cell, and HALF to all sides
        raw[1][0, row, column, 0] = [0, 0, 1, 1, sure, 20 - 40 * label, 40 * label - 20]
        coefficients[1][0, row, column, 0] = weights
    y, x = np.mgrid[:16, :16] * 4 + 2
    disc = lambda cx, cy: 14.0 - np.hypot(x - cx, y - cy)
    prototypes = np.stack([disc(16, 16), disc(48, 40), np.ones((16, 16))], -1)[None].astype(np.float32)
    return {"given": {"raw": raw, "coefficients": coefficients, "prototypes": prototypes}}


SQUARE = PrototypeConfig(replace(MODEL, anchors=(4.0, 4.0) * 3 + (16.0, 16.0) * 3 + (60.0, 60.0) * 3), prototypes=3)
IMAGE = jnp.zeros((1, 64, 64, 3))


def detected(given, classes=None, config=SQUARE, **how):
    detect = prototype_detector(Says(), config, PrototypeDetectorConfig(max_detections=5, **{"confidence": 0.3} | how))
    return jax.device_get(jax.jit(lambda *of: detect(*of, classes))(given, IMAGE))


FIRST, SECOND = (1, 1, 0, 3.0, (1, 0, 0)), (2, 2, 1, 2.0, (0, 1, 0))


@pytest.mark.parametrize("suppression", ["greedy", "matrix"])
def test_two_objects_have_their_masks(suppression):
    """One disc each, of a radius of 14 pixels, which the boxes cut on one or two sides, in an image of 128 x 64."""
    found = detected(scene(FIRST, SECOND), suppression=suppression)
    assert found.logits.shape == (1, 5, 16, 16)
    assert found.valid.tolist() == [[True, True, False, False, False]]
    assert found.labels[0, :2].tolist() == [0, 1]
    np.testing.assert_allclose(found.scores[0, :2], 1 / (1 + np.exp([-3.0, -2.0])), rtol=1e-5)
    np.testing.assert_allclose(
        found.boxes[0, :2], [[c - HALF, c - HALF, c + HALF, c + HALF] for c in (24, 40)], rtol=1e-5
    )
    assert not any(np.any(of[0, 2:]) for of in (found.boxes, found.scores, found.labels, found.logits))

    masks = prototype_masks(found.logits[0, :2], found.boxes[0, :2], Letterbox(128, 64, 64))
    y, x = (np.mgrid[:64, :128] + 0.5) / 2
    for rle, (cx, cy), box in zip(masks, ((16, 16), (48, 40)), found.boxes[0], strict=False):
        # the image fills rows 16 to 48 of the square
        distance = np.hypot(x - cx, y + 16 - cy)
        inside = (x >= box[0]) & (x < box[2]) & (y + 16 >= box[1]) & (y + 16 < box[3])
        mask = decode(rle)
        clear = np.abs(distance - 14) > 0.5  # bilinear interpolation of a disc
        assert np.array_equal(mask[clear], (inside & (distance < 14))[clear])
        assert mask.any()


def test_greedy_goes_by_boxes_and_matrix_by_masks():
    """Two boxes of a class with an IoU of 0.36: with masks of their own, and with the same one."""
    other = (1, 2, 0, 2.0, (-1, 0, 0))
    apart, same = scene(FIRST, other), scene(FIRST, (1, 2, 0, 2.0, (1, 0, 0)))
    scores = 1 / (1 + np.exp([-3.0, -2.0]))
    for given in (apart, same):
        assert detected(given, iou=0.3).valid.sum() == 1
        assert detected(given, iou=0.5).valid.sum() == 2
    kept = detected(apart, suppression="matrix")
    np.testing.assert_allclose(kept.scores[0, :2], scores, rtol=1e-5)
    # cropped to their boxes, the masks are a disc and its right part
    y, x = np.mgrid[:16, :16] * 4 + 2
    disc = (np.hypot(x - 16, y - 16) < 14) & (y >= 24 - HALF)
    whole, part = disc & (x >= 24 - HALF), disc & (x >= 40 - HALF)
    overlap = part.sum() / whole.sum()
    assert 0 < overlap < 1
    decayed = detected(same, suppression="matrix")
    np.testing.assert_allclose(decayed.scores[0, :2], scores * [1, np.exp(-(overlap**2) / 0.5)], rtol=1e-5)
    # of two classes, only if agnostic
    given = scene(FIRST, (1, 2, 1, 2.0, (1, 0, 0)))
    np.testing.assert_allclose(detected(given, suppression="matrix").scores[0, :2], scores, rtol=1e-5)
    agnostic = detected(given, suppression="matrix", agnostic=True)
    np.testing.assert_allclose(agnostic.scores, decayed.scores, rtol=1e-5)
    assert detected(given, iou=0.3, agnostic=True).valid.sum() == 1


@pytest.mark.parametrize("suppression", ["greedy", "matrix"])
def test_classes_and_limits(suppression):
    given = scene(FIRST, SECOND)
    found = detected(given, classes=[1], suppression=suppression)
    assert found.labels[found.valid].tolist() == [1]
    assert (found.logits[0, 0] > 0).sum() == (given["given"]["prototypes"][..., 1] > 0).sum()
    assert detected(given, candidates=1, suppression=suppression).labels[0, 0] == 0
    assert not detected(given, confidence=0.99, suppression=suppression).valid.any()


def test_candidates_are_all_predictions_within_the_image():
    given = scene((0, 3, 0, 2.0, (1, 2, 3)))
    found = jax.jit(prototype_candidates(Says(), SQUARE))(given, IMAGE)
    count = 3 * (64 + 16 + 4)
    assert found.boxes.shape == (1, count, 4)
    assert found.scores.shape == (1, count, 2)
    at = int(jnp.argmax(found.scores[0, :, 0]))
    assert at == 3 * (64 + 3)
    assert found.coefficients[0, at].tolist() == [1, 2, 3]
    np.testing.assert_allclose(found.boxes[0, at], [56 - HALF, 0, 64, 8 + HALF], rtol=1e-5)
    assert np.array_equal(found.prototypes, given["given"]["prototypes"])


@pytest.mark.parametrize("suppression", ["greedy", "matrix"])
def test_detectors_are_exported_for_any_number_of_images(variables, suppression):
    detect = prototype_detector(PrototypeYolo(CONFIG), CONFIG, PrototypeDetectorConfig(suppression=suppression))
    images = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 32, 64, 3"), jnp.float32)
    found = jax.export.export(jax.jit(lambda x: detect(variables, x)))(images)
    assert [str(of.shape) for of in found.out_avals] == [
        "(b, 100, 4)",
        *["(b, 100)"] * 3,
        "(b, 100, 8, 16)",
    ]


def test_settings_out_of_range():
    with pytest.raises(UserError, match="positives must be at least 1,"):
        check_ranges(replace(ALL, positives=0))
    with pytest.raises(UserError, match="iou must be at least 0 and at most 1, not 2"):
        check_ranges(PrototypeDetectorConfig(iou=2.0))
    assert PrototypeDetectorConfig().max_detections == 100
