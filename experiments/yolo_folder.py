"""Detect your own objects with YOLOv5 n: a folder of images, a text of boxes beside each, a list of classes.

The recipe of ``experiments.yolo_coco`` (Redmon & Farhadi 2018; Bochkovskiy et al. 2020) at 416 pixels. What to expect
depends on the data; blood cells in docs/results.md are a measured example (``experiments.yolo_bccd``), in an hour of
two CPU cores.

    python -m experiments.yolo_folder --quick                           the shapes world, six minutes on a laptop
    python -m experiments.yolo_folder --data.dir my_data --model.classes 5
    python -m experiments.yolo_folder --data.dir my_data --model.classes 5 --init-from runs/yolo_coco/default \
        --optimizer.frozen backbone --running-statistics                fine-tuning on few images
    python -m vision predict RUN new_images/                          after training, RUN being its folder

``my_data`` has ``images/train`` and ``images/val``, ``labels/train`` and ``labels/val`` with a text file an image (a
line a box: class number, centre and size as fractions of the image's sides), and ``classes.txt`` with a name on each
line.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

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

    model: YoloConfig = replace(YOLO_N, anchors=scaled_anchors(416))
    data: DetectionConfig = DetectionConfig(
        name="text", train_images="images/train", test_images="images/val", resolution=416
    )
    optimizer: SgdConfig = SgdConfig(warmup=2_000)
    intervals: Intervals = Intervals(log=500, evaluate=5_000, save=2_500)
    images: int = 50_000
    batch_size: int = 16
    ema: float = 0.999


QUICK = Config(**QUICK_DETECTION)
TINY = Config(**TINY_DETECTION)

ABLATIONS: dict[str, dict[str, Any]] = {
    **DETECTION_ABLATIONS,
    "frozen_backbone": {"optimizer.frozen": ("backbone",)},
    "running_statistics": {"running_statistics": True},
}


def build(config: Config) -> Experiment:
    """The recipe of detectors."""
    return detection(config)


if __name__ == "__main__":
    sys.exit(main("yolo_folder", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
