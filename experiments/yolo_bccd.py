"""Detect blood cells (BCCD: 364 images, red and white cells and platelets) with YOLOv5 n, from scratch, on a CPU.

The recipe of ``experiments.yolo_coco`` (Redmon & Farhadi 2018; Bochkovskiy et al. 2020) at 320 pixels; cells have no
up and down, so that images are turned over too. Published for comparison: a YOLOv7 trained on COCO before reaches
0.906 (0.5) and 0.610 (0.5:0.95). Not all cells are annotated, which bounds what can be reached.

    python -m experiments.yolo_bccd --quick                           the shapes world, six minutes on a laptop
    python -m experiments.yolo_bccd --data.dir bccd                   40 minutes of CPU time
    python -m vision evaluate RUN --data.test-json test.json          after training, RUN being its folder
    python -m vision predict RUN photos/

``bccd`` has ``train.json``, ``val.json`` and ``test.json`` in COCO's form and the folder ``images``.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.augment.boxes import BoxAugmentConfig
from vision.data.detection import DetectionConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.yolo import YOLO_N, YoloConfig, scaled_anchors
from vision.recipes.detection import (
    DETECTION_ABLATIONS,
    QUICK_DETECTION,
    TINY_DETECTION,
    DetectionRunConfig,
    SgdConfig,
    detection,
)
from vision.train.experiment import Experiment, Intervals

ABOUT = About(
    task="detection",
    paper="Redmon & Farhadi 2018, arXiv:1804.02767; Bochkovskiy et al. 2020, arXiv:2004.10934",
    quick="6 minutes",
)


@dataclass(frozen=True, kw_only=True)
class Config(DetectionRunConfig):
    """The recipe."""

    model: YoloConfig = replace(YOLO_N, classes=3, anchors=scaled_anchors(320))
    data: DetectionConfig = DetectionConfig(
        name="coco",
        train_json="train.json",
        test_json="val.json",
        train_images="images",
        test_images="images",
        resolution=320,
        max_boxes=60,
    )
    augment: BoxAugmentConfig = BoxAugmentConfig(flip_vertical=0.5)
    optimizer: SgdConfig = SgdConfig(warmup=1_600)
    intervals: Intervals = Intervals(log=410, evaluate=4_100, save=2_050)
    images: int = 24_600
    batch_size: int = 16
    ema: float = 0.999


QUICK = Config(**QUICK_DETECTION)
TINY = Config(**TINY_DETECTION)

ABLATIONS: dict[str, dict[str, Any]] = {
    **DETECTION_ABLATIONS,
    "no_vertical_flip": {"augment.flip_vertical": 0.0},
    "no_colour": {"augment.hue": 0.0, "augment.saturation": 0.0, "augment.value": 0.0},
}


def build(config: Config) -> Experiment:
    """The recipe of detectors."""
    return detection(config)


if __name__ == "__main__":
    sys.exit(main("yolo_bccd", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
