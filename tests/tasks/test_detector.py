"""What a detector makes of raw predictions: decoding, choice, test-time augmentation, filters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.yolo import STRIDES, YoloConfig
from vision.tasks.detection import DetectorConfig, after_nms, decode, detector

MODEL = YoloConfig(classes=2)


def logit(p):
    return np.log(p / (1 - p))


class Sees(nn.Module):
    """A network that sees colours: the first anchor of a cell of stride 8 finds class 0 in red, class 1 in green."""

    @nn.compact
    def __call__(self, image, *, train):
        del train
        levels = []
        for stride in STRIDES:
            cells = image[:, 4::stride, 4::stride] if stride == 8 else jnp.full_like(image[:, ::stride, ::stride], -1)
            red, green = cells[..., 0], cells[..., 1]
            sure = jnp.where(jnp.maximum(red, green) > 0, 6.0, -12.0)
            flat = jnp.zeros_like(red)
            one = jnp.stack([flat, flat, flat, flat, sure, 8 * red, 8 * green], -1)
            rest = jnp.full_like(one, -12.0)
            levels.append(jnp.stack([one, rest, rest], axis=3))
        return levels


def image_with(*spots, side=64):
    """Black but for cells (row, column, channel)."""
    image = np.full((1, side, side, 3), -1.0, np.float32)
    for row, column, channel in spots:
        image[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8, channel] = 1.0
    return jnp.asarray(image)


def found(config, image, **more):
    result = jax.jit(lambda x: detector(Sees(), MODEL, config)({}, x, **more))(image)
    rows = jax.device_get(result)
    return [
        (int(label), tuple(np.round(box, 3).tolist()))
        for box, label, valid in zip(rows.boxes[0], rows.labels[0], rows.valid[0], strict=True)
        if valid
    ]


def box(row, column):
    """The first anchor, 10 x 13, about the middle of a cell."""
    x, y = 8 * column + 4, 8 * row + 4
    return tuple(float(v) for v in (max(x - 5, 0), max(y - 6.5, 0), min(x + 5, 64), min(y + 6.5, 64)))


def test_decoding_by_hand():
    """A raw 0 is the middle of the cell and the anchor itself; the extremes reach half a cell beyond."""
    raw = [np.zeros((1, 64 // s, 96 // s, 3, 7), np.float32) for s in STRIDES]
    raw[1][0, 2, 3, 1] = [logit(0.75), logit(0.25), logit(0.5), 40.0, logit(0.5), logit(0.9), logit(0.2)]
    boxes, scores = decode([jnp.asarray(level) for level in raw], MODEL)
    assert boxes.shape == (1, 3 * (96 + 24 + 6), 4)
    first = np.array([4 - 5, 4 - 6.5, 4 + 5, 4 + 6.5])
    np.testing.assert_allclose(boxes[0, 0], first, rtol=1e-6)
    np.testing.assert_allclose(scores[0, 0], [0.25, 0.25], rtol=1e-6)
    at = 3 * 96 + (2 * 6 + 3) * 3 + 1
    x, y, w, h = (1.0 + 3) * 16, (0.0 + 2) * 16, 62.0, 4 * 45.0
    np.testing.assert_allclose(boxes[0, at], [x - w / 2, y - h / 2, x + w / 2, y + h / 2], rtol=1e-5)
    np.testing.assert_allclose(scores[0, at], [0.45, 0.1], rtol=1e-5)
    _, sure = decode([jnp.asarray(level[..., :6]) for level in raw], YoloConfig(classes=1))
    np.testing.assert_allclose(sure[0, at], [0.5], rtol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        DetectorConfig(confidence=0.3),
        DetectorConfig(confidence=0.3, flip_tta=True),
        DetectorConfig(confidence=0.3, scales=(1.0,)),
    ],
    ids=["plain", "flip TTA", "scaled too"],
)
def test_objects_are_found_where_they_are(config):
    image = image_with((1, 2, 0), (5, 6, 1))
    assert sorted(found(config, image)) == [(0, box(1, 2)), (1, box(5, 6))]


def test_other_scales_are_brought_back():
    """A network of anchors sees a thing at half its size as one of twice the anchor."""
    image = image_with((2, 2, 0), (2, 3, 0), (3, 2, 0), (3, 3, 0))
    only = DetectorConfig(confidence=0.3, iou=0.99, scales=(0.5,))
    large = [box for _, box in found(only, image) if box[2] - box[0] > 15]
    assert large == [(24 - 10, 24 - 13, 24 + 10, 24 + 13)]


def test_classes_can_be_left_out_and_detections_limited():
    image = image_with((1, 2, 0), (5, 6, 1))
    assert found(DetectorConfig(confidence=0.3), image, classes=[1]) == [(1, box(5, 6))]
    assert len(found(DetectorConfig(confidence=0.3, max_detections=1), image)) == 1
    assert found(DetectorConfig(confidence=0.9999), image) == []


def test_classes_suppress_each_other_only_if_agnostic():
    boxes = jnp.array([[[0.0, 0, 10, 10], [0.0, 0, 10, 11]]])
    scores = jnp.array([[[0.9, 0.1], [0.2, 0.8]]])
    labels = lambda **how: [
        int(label)
        for label, valid in zip(*(x[0] for x in after_nms(boxes, scores, DetectorConfig(**how))[2:]), strict=True)
        if valid
    ]
    assert labels() == [0, 1]
    assert labels(agnostic=True) == [0]
    assert labels(iou=0.95) == [0, 1, 0, 1]  # each box with each of its classes
    assert labels(candidates=1) == [0]
