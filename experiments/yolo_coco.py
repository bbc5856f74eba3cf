"""Detect the 80 classes of COCO with YOLOv5, from scratch.

Redmon & Farhadi 2018 (arXiv:1804.02767), Bochkovskiy et al. 2020 (arXiv:2004.10934) and the published description of
the fifth version: 300 epochs at 640 pixels, mosaics, SGD. Published average precision (0.50:0.95) of validation 2017
at 640 pixels: n 28.0, s 37.4, m 45.4, l 49.0, x 50.7. A run of s takes days on one accelerator; none was made here,
so these are not numbers of this code.

    python -m experiments.yolo_coco --quick                                    a small one, shapes world, six minutes
    python -m experiments.yolo_coco --data.dir ~/coco                          the size s
    python -m experiments.yolo_coco --data.dir ~/coco --model.width 0.25       the size n
    python -m vision predict RUN photos/                                       after training, RUN being its folder

``~/coco`` has ``annotations/instances_{train,val}2017.json`` and the folders ``train2017`` and ``val2017``.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from experiments import detection
from experiments.detection import SgdConfig, compose
from vision.data.augment.boxes import BoxAugmentConfig
from vision.data.detection import DetectionConfig
from vision.data.shapes.world import ShapesConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.yolo import YOLO_N, YOLO_S, YoloConfig, scaled_anchors
from vision.train.experiment import Experiment, Intervals

ABOUT = About(
    task="detection",
    paper="Redmon & Farhadi 2018, arXiv:1804.02767; Bochkovskiy et al. 2020, arXiv:2004.10934",
    quick="6 minutes",
)


@dataclass(frozen=True)
class Config(detection.Config):
    """The recipe."""

    model: YoloConfig = YOLO_S
    data: DetectionConfig = DetectionConfig(name="coco", stream=True)


QUICK = Config(
    model=replace(YOLO_N, width=0.125, classes=3, anchors=scaled_anchors(128)),
    data=DetectionConfig(
        name="shapes",
        resolution=128,
        max_boxes=16,
        shapes=ShapesConfig(
            resolution=128, shapes=("circle", "square", "star"), max_objects=4, min_size=0.2, max_size=0.5
        ),
        shapes_count=4_000,
    ),
    augment=BoxAugmentConfig(mosaic=0.0, scale=0.2, hue=0.0, saturation=0.0, value=0.0),
    optimizer=SgdConfig(warmup=2_000),
    intervals=Intervals(log=3_000, evaluate=33_000, save=11_000),
    images=66_000,
    batch_size=16,
    ema=0.998,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "no_mosaic": {"augment.mosaic": 0.0},
    "mixup": {"augment.mixup": 0.1},
    "focal": {"loss.focal": 1.5},
    "smoothing": {"loss.smoothing": 0.1},
    "equal_balance": {"loss.balance": (1.0, 1.0, 1.0)},
    "no_momentum_warmup": {"optimizer.warmup_momentum": 0.937},
    "mirrored_too": {"detector.mirror": True},
}


def build(config: Config) -> Experiment:
    """Compose the recipe."""
    return compose(config)


if __name__ == "__main__":
    sys.exit(main("yolo_coco", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
