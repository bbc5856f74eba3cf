"""Divide scenes into segments, those of things and those of stuff: panoptic feature pyramid networks, from scratch.

Kirillov et al. 2019 ("Panoptic Segmentation" and "Panoptic Feature Pyramid Networks"): a Mask R-CNN for things and a
semantic branch on its pyramid for stuff, merged into segments that do not overlap. In the shapes world the figures are
things, and the kind of background is stuff. Panoptic quality with ``--quick``: 0.634, of things 0.824, of stuff 0.330.
Published for the default network on COCO: PQ 0.390 of all classes, 0.459 of things, 0.287 of stuff; not run here.

    python -m experiments.panoptic_shapes --quick                     figures on backgrounds, on a laptop
    python -m experiments.panoptic_shapes --data.dir coco --init-from resnet50.pth
    python -m vision predict RUN photos/                              after training, RUN being its folder

``coco`` has ``annotations/panoptic_train2017.json`` and beside it the folder ``panoptic_train2017`` of PNG files, the
images in ``train2017``, and the same of ``val2017``.
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.recipes.panoptic import (
    PANOPTIC_ABLATIONS,
    QUICK_PANOPTIC,
    TINY_PANOPTIC,
    PanopticRunConfig,
    panoptic,
)
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="segmentation", paper="Kirillov et al. 2019, arXiv:1801.00868, arXiv:1901.02446", quick="20 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(PanopticRunConfig):
    """The recipe."""

    optimizer: OptimizerConfig = OptimizerConfig(
        lr=0.02, weight_decay=1e-4, warmup=8_000, frozen=("backbone/(stem|stage_1)",)
    )
    intervals: Intervals = Intervals(log=1_600, evaluate=360_000, save=36_000)


QUICK = Config(**QUICK_PANOPTIC)
TINY = Config(**TINY_PANOPTIC)

ABLATIONS: dict[str, dict[str, Any]] = PANOPTIC_ABLATIONS


def build(config: Config) -> Experiment:
    """The recipe of panoptic segmentation."""
    return panoptic(config)


if __name__ == "__main__":
    sys.exit(main("panoptic_shapes", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
