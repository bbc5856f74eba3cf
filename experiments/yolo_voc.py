"""Detect the 20 classes of PASCAL VOC 2012 with YOLOv5 s, from scratch.

The recipe of ``experiments.yolo_coco`` (Redmon & Farhadi 2018; Bochkovskiy et al. 2020) at 512 pixels, 300 epochs:
hours on one accelerator, not run here. Average precision is COCO's, not VOC's of 2007; objects that are marked
difficult are ignored.

    python -m experiments.yolo_voc --quick                              the shapes world, six minutes on a laptop
    python -m experiments.yolo_voc --data.dir VOCdevkit/VOC2012
    python -m experiments.yolo_voc --data.dir VOCdevkit/VOC2012 --init-from runs/yolo_coco/default     fine-tuned
    python -m experiments.yolo_voc --data.dir VOCdevkit/VOC2012 --backbone resnet50 --model.pixels imagenet \
        --init-from resnet50.safetensors                                another backbone, with published weights

The folder has ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.detection import DetectionConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.yolo import YOLO_S, YoloConfig, scaled_anchors
from vision.recipes.detection import (
    DETECTION_ABLATIONS,
    QUICK_DETECTION,
    TINY_DETECTION,
    DetectionRunConfig,
    SgdConfig,
    detection,
)
from vision.train.experiment import Experiment

ABOUT = About(
    task="detection",
    paper="Redmon & Farhadi 2018, arXiv:1804.02767; Bochkovskiy et al. 2020, arXiv:2004.10934",
    quick="6 minutes",
)


@dataclass(frozen=True, kw_only=True)
class Config(DetectionRunConfig):
    """The recipe."""

    model: YoloConfig = replace(YOLO_S, classes=20, anchors=scaled_anchors(512))
    data: DetectionConfig = DetectionConfig(name="voc", resolution=512, stream=True)
    optimizer: SgdConfig = SgdConfig(warmup=17_000)
    images: int = 1_700_000
    ema: float = 0.9998


QUICK = Config(**QUICK_DETECTION)
TINY = Config(**TINY_DETECTION)

ABLATIONS: dict[str, dict[str, Any]] = DETECTION_ABLATIONS


def build(config: Config) -> Experiment:
    """The recipe of detectors."""
    return detection(config)


if __name__ == "__main__":
    sys.exit(main("yolo_voc", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
