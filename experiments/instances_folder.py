"""Find your own objects with their masks: a folder of images, and polygons beside each or in one COCO file.

Prototypes on YOLOv5 n (Bolya et al. 2019) at 416 pixels; ``--method mask_rcnn_resnet18`` for Mask R-CNN (He et al.
2017). What to expect depends on the data; nuclei in docs/results.md are a measured example
(``experiments.instances_nuclei``). With ``--quick``: mask AP 0.718.

    python -m experiments.instances_folder --quick                    the shapes world, five minutes on a laptop
    python -m experiments.instances_folder --data.dir my_data --method.model.yolo.classes 5
    python -m experiments.instances_folder --data.dir my_data --data.name coco --data.train-json train.json \
        --data.test-json val.json --method.model.yolo.classes 5
    python -m vision predict RUN new_images/                          after training, RUN being its folder

``my_data`` has ``images/train`` and ``images/val``, ``labels/train`` and ``labels/val`` with a text file an image (a
line an object: class number, and the points x y of its outline as fractions of the image's sides), and ``classes.txt``
with a name on each line.
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.data.detection import DetectionConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.recipes.instance_methods import MethodConfig, method_by_name, methods
from vision.recipes.instances import (
    INSTANCE_ABLATIONS,
    QUICK_INSTANCES,
    QUICK_METHODS,
    TINY_INSTANCES,
    InstanceRunConfig,
    instances,
)
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(
    task="instances", paper="Bolya et al. 2019, arXiv:1904.02689; He et al. 2017, arXiv:1703.06870", quick="5 minutes"
)


@dataclass(frozen=True, kw_only=True)
class Config(InstanceRunConfig):
    """The recipe."""

    method: MethodConfig = method_by_name(
        methods(classes=80, side=416)["prototypes_n"], classes=80, side=416, quick=QUICK_METHODS
    )
    data: DetectionConfig = DetectionConfig(
        name="text", train_images="images/train", test_images="images/val", resolution=416
    )
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", lr=1e-3, weight_decay=0.01, warmup=1_000)
    intervals: Intervals = Intervals(log=500, evaluate=5_000, save=2_500)
    images: int = 50_000
    batch_size: int = 16
    ema: float = 0.999


QUICK = Config(**QUICK_INSTANCES)
TINY = Config(**TINY_INSTANCES)

ABLATIONS: dict[str, dict[str, Any]] = {**INSTANCE_ABLATIONS, "frozen_backbone": {"optimizer.frozen": ("backbone",)}}


def build(config: Config) -> Experiment:
    """The recipe of instance segmentation."""
    return instances(config)


if __name__ == "__main__":
    sys.exit(main("instances_folder", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
