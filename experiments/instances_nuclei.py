"""Find every cell nucleus of microscope images with its mask, from scratch, on a CPU.

Prototypes on YOLOv5 n (Bolya et al. 2019); images of 256 pixels are enlarged to 384, since nuclei of 14 pixels are
small for features of stride 8. Microscopes know no up and down, so that images are flipped along both axes. Trained on
93 images (docs/results.md), mask AP50 is 0.805 after 6,000 images in about 15 minutes of two shared CPU cores.

    python -m experiments.instances_nuclei --quick                    the shapes world, five minutes on a laptop
    python -m experiments.instances_nuclei --data.dir nuclei
    python -m experiments.instances_nuclei --data.dir nuclei --method mask_rcnn_resnet18
    python -m vision predict RUN photos/                              after training, RUN being its folder

``nuclei`` has ``train.json`` and ``val.json`` in COCO's form and the folder ``images``.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.augment.boxes import BoxAugmentConfig
from vision.data.detection import DetectionConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.instances.prototypes import PrototypeConfig
from vision.models.yolo import YOLO_N
from vision.recipes.instance_methods import MethodConfig, Prototypes, method_by_name
from vision.recipes.instances import (
    INSTANCE_ABLATIONS,
    QUICK_INSTANCES,
    QUICK_METHODS,
    TINY_INSTANCES,
    InstanceRunConfig,
    instances,
)
from vision.tasks.prototypes import PrototypeDetectorConfig, PrototypeLossConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(
    task="instances", paper="Bolya et al. 2019, arXiv:1904.02689; He et al. 2017, arXiv:1703.06870", quick="5 minutes"
)

# fitted to the boxes of the training set at 384 pixels: from 10 to 50
ANCHORS = tuple(float(side) for side in (9, 13, 18, 23, 28, 33, 38, 45, 55) for _ in range(2))


@dataclass(frozen=True, kw_only=True)
class Config(InstanceRunConfig):
    """The recipe."""

    method: MethodConfig = method_by_name(
        Prototypes(
            PrototypeConfig(replace(YOLO_N, classes=1, anchors=ANCHORS)),
            PrototypeLossConfig(positives=100),
            PrototypeDetectorConfig(max_detections=200),
        ),
        classes=1,
        side=384,
        quick=QUICK_METHODS,
    )
    data: DetectionConfig = DetectionConfig(
        name="coco",
        train_json="train.json",
        test_json="val.json",
        train_images="images",
        test_images="images",
        resolution=384,
        max_boxes=200,
    )
    augment: BoxAugmentConfig = BoxAugmentConfig(mosaic=0.5, scale=0.3, flip_vertical=0.5)
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", lr=2e-3, weight_decay=0.01, warmup=500)
    intervals: Intervals = Intervals(log=400, evaluate=4_000, save=2_000)
    images: int = 20_000
    batch_size: int = 8
    ema: float = 0.998


QUICK = Config(**QUICK_INSTANCES)
TINY = Config(**TINY_INSTANCES)

ABLATIONS: dict[str, dict[str, Any]] = {**INSTANCE_ABLATIONS, "no_vertical_flip": {"augment.flip_vertical": 0.0}}


def build(config: Config) -> Experiment:
    """The recipe of instance segmentation."""
    return instances(config)


if __name__ == "__main__":
    sys.exit(main("instances_nuclei", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
