"""A small Mask R-CNN's weights and a scene for it, by formulas that need no file and no framework."""

import numpy as np
from published_weights import published_array, uniform

HEIGHT, WIDTH = 256, 320
SIZES = ((200, 250), (256, 320))
"""Height and width of the two images within their arrays."""
CLASSES = 3
"""Without the background."""
ANCHORS = (16, 32, 64, 128, 256)
BOXES = np.float32([[20, 30, 80, 90], [60, 40, 220, 180], [150.5, 20.25, 190, 60], [3, 120, 40, 199]])
"""Of the first image; the second has none."""
LABELS = (0, 1, 2, 1)
"""From 0, without the background."""


_GAINS = {
    "backbone.fpn.layer_blocks.0.0.weight": 0.4,
    "backbone.fpn.layer_blocks.2.0.weight": 2.0,
    "backbone.fpn.layer_blocks.3.0.weight": 3.0,
    "rpn.head.bbox_pred.weight": 0.2,
    "roi_heads.box_predictor.cls_score.weight": 2.0,
    "roi_heads.box_predictor.cls_score.bias": 10.0,
}


def weight(name, shape):
    """A parameter or statistic by its published name, so that objects of all sizes and classes are detected."""
    return published_array(name, shape) * np.float32(_GAINS.get(name, 1.0))


def pixels():
    """The two images as the networks take them, normalised, with 0 outside of their sizes: float32 [2 h w 3]."""
    image = (2.0 * uniform("scene", (2, HEIGHT // 8, WIDTH // 8, 3))).astype(np.float32)
    image = np.repeat(np.repeat(image, 8, axis=1), 8, axis=2)
    for each, (height, width) in zip(image, SIZES, strict=True):
        each[height:], each[:, width:] = 0, 0
    return image


def masks():
    """An ellipse in each of the boxes of the first image, uint8 [4 h w]."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    centre, half = (BOXES[:, :2] + BOXES[:, 2:]) / 2, (BOXES[:, 2:] - BOXES[:, :2]) / 2
    of = lambda c, h: ((x - c[0]) / h[0]) ** 2 + ((y - c[1]) / h[1]) ** 2 <= 1
    return np.stack([of(c, h) for c, h in zip(centre, half, strict=True)]).astype(np.uint8)
