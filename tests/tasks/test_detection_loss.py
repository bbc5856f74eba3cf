"""The loss against a slow reference that is written from its description in float64, one answer after another."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_assignment import answers

from vision.models.yolo import STRIDES, Yolo, YoloConfig
from vision.tasks import detection
from vision.tasks.detection import DetectionLossConfig, binary_cross_entropy, detection_losses

MODEL = YoloConfig(classes=3)
ONE_CLASS = YoloConfig(classes=1)
HEIGHT, WIDTH, SLOTS = 64, 96, 12


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def box_iou(a, b):
    wide, high = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(areas) - wide * high)


def box_ciou(a, b):
    """Zheng et al. 2020, equations 6, 8, 9 and 11."""
    overlap = box_iou(a, b)
    diagonal = sum((max(a[i + 2], b[i + 2]) - min(a[i], b[i])) ** 2 for i in (0, 1))
    apart = sum(((a[i] + a[i + 2]) / 2 - (b[i] + b[i + 2]) / 2) ** 2 for i in (0, 1))
    angle = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    v = 4 / math.pi**2 * (angle[1] - angle[0]) ** 2
    return overlap - apart / diagonal - (v * v / ((1 - overlap) + v) if v else 0.0)


def slow_entropy(logit, target, config):
    p = sigmoid(logit)
    loss = -target * math.log(p) - (1 - target) * math.log1p(-p)
    if config.focal:
        right = target * p + (1 - target) * (1 - p)
        weight = target * config.focal_alpha + (1 - target) * (1 - config.focal_alpha)
        loss *= weight * (1 - right) ** config.focal
    return loss


def slow(raw, batch, model, config):
    """(box, objectness, class) with their gains."""
    parts = np.zeros(3)
    for level, stride, anchors, balance in zip(raw, STRIDES, model.anchor_levels.tolist(), config.balance, strict=True):
        rows, columns = level.shape[1:3]
        boxes, classes, wanted = [], [], np.zeros(level.shape[:4])
        for image, row, column, anchor, slot in answers(
            batch["boxes"], batch["valid"], anchors=anchors, stride=stride, grid=(rows, columns)
        ):
            t = level[image, row, column, anchor].astype(np.float64)
            x, y = (2 * sigmoid(t[0]) - 0.5 + column) * stride, (2 * sigmoid(t[1]) - 0.5 + row) * stride
            w, h = ((2 * sigmoid(t[2 + i])) ** 2 * anchors[anchor][i] for i in (0, 1))
            predicted = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            truth = batch["boxes"][image, slot].astype(np.float64)
            boxes.append(1 - box_ciou(predicted, truth))
            place = (image, row, column, anchor)
            wanted[place] = max(wanted[place], box_iou(predicted, truth))
            for k in range(model.classes):
                hit = 1.0 if k == batch["labels"][image, slot] else 0.0
                classes.append(slow_entropy(t[5 + k], hit * (1 - config.smoothing) + config.smoothing / 2, config))
        places = list(np.ndindex(wanted.shape))
        entropies = [slow_entropy(float(level[(*place, 4)]), wanted[place], config) for place in places]
        parts += [np.mean(boxes or [0]), balance * np.mean(entropies), np.mean(classes or [0])]
    area = HEIGHT * WIDTH / 640**2
    gains = (config.box, config.objectness * area, config.classes * model.classes / 80 * (model.classes > 1))
    return parts * gains


def batch_of(boxes, labels, valid):
    return {
        "image": np.zeros((len(boxes), HEIGHT, WIDTH, 3), np.float32),
        "boxes": np.asarray(boxes, np.float32),
        "labels": np.asarray(labels, np.int32),
        "valid": np.asarray(valid, bool),
    }


def random_batch(seed, classes):
    """Boxes of all sizes, on borders of cells, at the edges of the image, twice in one place, and none at all."""
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, [WIDTH, HEIGHT], (3, SLOTS, 2))
    corner[0] = np.round(corner[0] / 8) * 8
    sides = np.exp(generator.uniform(np.log(2), np.log(90), (3, SLOTS, 2)))
    boxes = np.clip(np.concatenate([corner, corner + sides], -1), 0, [WIDTH, HEIGHT] * 2)
    boxes[1, 0], boxes[1, 1] = [0, 0, WIDTH, HEIGHT], [WIDTH - 5, HEIGHT - 5, WIDTH, HEIGHT]
    boxes[1, 3], boxes[1, 5] = boxes[1, 2], boxes[1, 2] + 0.25
    valid = np.arange(SLOTS) < np.array([SLOTS, 8, 0])[:, None]
    return batch_of(boxes, generator.integers(0, classes, (3, SLOTS)), valid)


def random_raw(seed, model):
    generator = np.random.default_rng(seed)
    shape = lambda s: (3, HEIGHT // s, WIDTH // s, 3, 5 + model.classes)
    return [generator.normal(size=shape(s)).astype(np.float32) for s in STRIDES]


CONFIGS = {
    "published": (MODEL, DetectionLossConfig()),
    "focal": (MODEL, DetectionLossConfig(focal=1.5, smoothing=0.1)),
    "one class": (ONE_CLASS, DetectionLossConfig(box=1.0, balance=(1.0, 2.0, 3.0))),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_reference(name):
    model, config = CONFIGS[name]
    compute = jax.jit(
        lambda raw, batch: detection_losses(raw, batch, model=model, config=config),
    )
    for seed in range(2):
        raw, batch = random_raw(seed, model), random_batch(seed, model.classes)
        found = jax.device_get(compute(raw, batch))
        expected = slow(raw, batch, model, config)
        np.testing.assert_allclose([found[part] for part in ("box", "objectness", "class")], expected, rtol=2e-5)
        np.testing.assert_allclose(found["loss"], expected.sum(), rtol=2e-5)


def test_boxes_that_nothing_answers_for_are_counted():
    boxes = [[[0, 0, 16, 16], [0, 0, 1, 1], [0, 0, 96, 2], [0, 0, 0, 0]]]
    batch = batch_of(boxes, np.zeros((1, 4)), [[True, True, True, False]])
    raw = [level[:1] for level in random_raw(0, MODEL)]
    found = jax.jit(lambda *of: detection_losses(*of, model=MODEL, config=DetectionLossConfig()))(raw, batch)
    np.testing.assert_allclose(found["anchor_recall"], 1 / 3)


def test_no_boxes_teach_background_alone():
    raw, batch = random_raw(0, MODEL), random_batch(0, 3)
    batch["valid"][:] = False

    def loss(raw, batch):
        found = detection_losses(raw, batch, model=MODEL, config=DetectionLossConfig())
        return found["loss"], found

    gradient, found = jax.jit(jax.grad(loss, has_aux=True))(raw, batch)
    assert found["box"] == found["class"] == found["anchor_recall"] == 0
    for level in gradient:
        assert np.isfinite(level).all()
        assert (level[..., 4] > 0).all()
        assert not np.any(level[..., :4])
        assert not np.any(level[..., 5:])


def test_gradients_are_finite_where_boxes_degenerate():
    """Raw values so large that predicted boxes have no size, and boxes that are points."""
    raw = [np.full_like(level, -200.0) for level in random_raw(0, MODEL)]
    boxes = np.zeros((3, SLOTS, 4))
    boxes[0] = [0, 0, WIDTH, HEIGHT]
    batch = batch_of(boxes, np.zeros((3, SLOTS)), np.ones((3, SLOTS)))
    loss = lambda *of: detection_losses(*of, model=MODEL, config=DetectionLossConfig(focal=1.5))["loss"]
    value, gradient = jax.jit(jax.value_and_grad(loss))(raw, batch)
    assert np.isfinite(value)
    assert all(np.isfinite(level).all() for level in gradient)


def test_the_focal_loss_of_hard_targets_is_the_papers():
    """Lin et al. 2017, equation 5: -alpha_t (1 - p_t)^gamma log(p_t)."""
    logits = np.linspace(-4, 4, 9).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    for target, p_t, alpha in ((1.0, p, 0.25), (0.0, 1 - p, 0.75)):
        found = binary_cross_entropy(jnp.asarray(logits), jnp.full(9, target), focal=2.0, alpha=0.25)
        np.testing.assert_allclose(found, -alpha * (1 - p_t) ** 2 * np.log(p_t), rtol=1e-5)
    plain = binary_cross_entropy(jnp.asarray(logits), jnp.full(9, 0.3))
    np.testing.assert_allclose(plain, -0.3 * np.log(p) - 0.7 * np.log1p(-p), rtol=1e-5)


def test_the_loss_trains_a_network_and_moves_its_statistics():
    """A LossFn: with batch statistics, or with the running ones for fine-tuning."""
    model = replace(MODEL, width=0.125)
    network = Yolo(model)
    batch = random_batch(0, 3)
    batch["dropped_boxes"] = np.array([0, 1, 2], np.int32)
    batch["image"] = np.random.default_rng(0).normal(size=(3, HEIGHT, 96, 3)).astype(np.float32)
    variables = jax.jit(lambda key: network.init(key, jnp.asarray(batch["image"]), train=False))(jax.random.key(0))
    state = {"batch_stats": variables["batch_stats"]}
    for running in (False, True):
        loss = detection.detection_loss(network, model, DetectionLossConfig(), running_statistics=running)
        run = jax.jit(partial(loss, key=jax.random.key(0), step=jnp.int32(0)))
        value, (new, scalars) = run(variables["params"], state, batch)
        assert np.isfinite(value)
        assert scalars.keys() == {"box", "objectness", "class", "anchor_recall", "dropped_boxes"}
        assert scalars["dropped_boxes"] == 1.0
        same = jax.tree.map(np.array_equal, new, state)
        assert all(jax.tree.leaves(same)) if running else not any(jax.tree.leaves(same))
