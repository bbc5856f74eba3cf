"""Detect the 80 classes of COCO with YOLOv5, from scratch.

Redmon & Farhadi 2018 (arXiv:1804.02767), Bochkovskiy et al. 2020 (arXiv:2004.10934) and the published description of
the fifth version: 300 epochs at 640 pixels, mosaics, SGD. Published average precision (0.50:0.95) of validation 2017
at 640 pixels: n 28.0, s 37.4, m 45.4, l 49.0, x 50.7. A run of s takes days on one accelerator; none was made here,
so these are not numbers of this code.

    python -m experiments.yolo_coco --quick                                    a small one, shapes world, six minutes
    python -m experiments.yolo_coco --data.dir ~/coco                          the size s
    python -m experiments.yolo_coco --data.dir ~/coco --model.width 0.25       the size n
    python -m vision predict RUN photos/                                       after training, RUN being its folder
    python -m vision evaluate yolo_coco --data.dir ~/coco --model.width 0.25 --model.pixels unit \
        --init-from yolov5n.safetensors                                        published weights of the size n

``~/coco`` has ``annotations/instances_{train,val}2017.json`` and the folders ``train2017`` and ``val2017``.
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.data.detection import DetectionConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.yolo import YOLO_S, YoloConfig
from vision.recipes.detection import DETECTION_ABLATIONS, QUICK_DETECTION, TINY_DETECTION, DetectionRunConfig, detection
from vision.train.experiment import Experiment

ABOUT = About(
    task="detection",
    paper="Redmon & Farhadi 2018, arXiv:1804.02767; Bochkovskiy et al. 2020, arXiv:2004.10934",
    quick="6 minutes",
)


@dataclass(frozen=True, kw_only=True)
class Config(DetectionRunConfig):
    """The recipe."""

    model: YoloConfig = YOLO_S
    data: DetectionConfig = DetectionConfig(name="coco", stream=True)


QUICK = Config(**QUICK_DETECTION)
TINY = Config(**TINY_DETECTION)

ABLATIONS: dict[str, dict[str, Any]] = DETECTION_ABLATIONS


def build(config: Config) -> Experiment:
    """The recipe of detectors."""
    return detection(config)


if __name__ == "__main__":
    sys.exit(main("yolo_coco", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
