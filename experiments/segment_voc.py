"""Segment PASCAL VOC 2012 (Everingham et al. 2010): 20 classes of things and the background.

DeepLabV3 on a ResNet-50 with output stride 8 (Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image
Segmentation", section 4): 30,000 steps of 16 crops of 513 pixels, polynomial decay of the learning rate. From ImageNet
weights, on the 10,582 images with the annotations of Hariharan et al. 2011, the paper's ResNet-101 has a mIoU of 77.2
on val at output stride 16; this code has not been run to that length.

    python -m experiments.segment_voc --quick                                        the shapes world, on a laptop
    python -m experiments.segment_voc --data.dir VOCdevkit/VOC2012 --init-from resnet50.safetensors
    python -m experiments.segment_voc --data.dir VOCdevkit/VOC2012 --decoder deeplab_v3_plus --backbone resnet101 \
        --init-from resnet101.safetensors
    python -m vision evaluate segment_voc --data.dir VOCdevkit/VOC2012 --init-from deeplabv3_resnet50.safetensors

The masks of Hariharan et al. lie in SegmentationClass too, and their names in ImageSets/Segmentation/trainaug.txt:
``--data.train trainaug``.
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.data.semantic import SemanticConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.recipes.segmentation import (
    QUICK_SEGMENTATION,
    SEGMENTATION_ABLATIONS,
    TINY_SEGMENTATION,
    SegmentationRunConfig,
    segmentation,
)
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="segmentation", paper="Chen et al. 2017, arXiv:1706.05587", quick="5 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(SegmentationRunConfig):
    """The recipe."""

    data: SemanticConfig = SemanticConfig(name="voc", test="val", height=513, width=513, stream=True)
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.007, weight_decay=1e-4, schedule="polynomial")
    intervals: Intervals = Intervals(log=2_000, evaluate=50_000, save=50_000)
    images: int = 480_000


QUICK = Config(**QUICK_SEGMENTATION)
TINY = Config(**TINY_SEGMENTATION)

ABLATIONS: dict[str, dict[str, Any]] = {
    **SEGMENTATION_ABLATIONS,
    "no_auxiliary": {"auxiliary": False},
    "multi_scale_tta": {"segmenter.flip": True, "segmenter.scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)},
}


def build(config: Config) -> Experiment:
    """The recipe of semantic segmentation."""
    return segmentation(config)


if __name__ == "__main__":
    sys.exit(main("segment_voc", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
