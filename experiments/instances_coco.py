"""Find every object of COCO with its mask: Mask R-CNN on ResNet-50, from a classifier's weights.

He et al. 2017; Lin et al. 2017 (feature pyramid). torchvision's network of this kind has a mask AP of 0.346 and a box
AP of 0.379 after 26 epochs of images whose sides are 800 to 1,333 pixels. Here images are letterboxed to 1,024 pixels
and the learning rate falls along a cosine; not run on the whole data yet.

    python -m experiments.instances_coco --quick                      the shapes world, five minutes on a laptop
    python -m experiments.instances_coco --data.dir coco --init-from resnet50.pth
    python -m experiments.instances_coco --data.dir coco --method prototypes_l --optimizer.name adamw \
        --optimizer.lr 1e-3                                           one stage: prototypes on YOLOv5 l
    python -m vision predict RUN photos/                              after training, RUN being its folder

``coco`` has ``annotations/instances_train2017.json``, ``train2017`` and the same of ``val2017``.
"""

import sys
from dataclasses import dataclass
from typing import Any

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

ABOUT = About(task="instances", paper="He et al. 2017, arXiv:1703.06870", quick="5 minutes")

METHODS = methods(classes=80, side=1024)


@dataclass(frozen=True, kw_only=True)
class Config(InstanceRunConfig):
    """The recipe."""

    method: MethodConfig = method_by_name(METHODS["mask_rcnn_frozen"], classes=80, side=1024, quick=QUICK_METHODS)
    optimizer: OptimizerConfig = OptimizerConfig(
        lr=0.02, weight_decay=1e-4, warmup=8_000, frozen=("backbone/(stem|stage_1)",)
    )
    intervals: Intervals = Intervals(log=1_600, evaluate=360_000, save=36_000)
    images: int = 3_050_000
    batch_size: int = 16


QUICK = Config(**QUICK_INSTANCES)
TINY = Config(**TINY_INSTANCES)

ABLATIONS: dict[str, dict[str, Any]] = {**INSTANCE_ABLATIONS, "frozen_nothing": {"optimizer.frozen": ()}}


def build(config: Config) -> Experiment:
    """The recipe of instance segmentation."""
    return instances(config)


if __name__ == "__main__":
    sys.exit(main("instances_coco", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
