"""Segment your own images: a folder of images, a mask for each, a list of classes.

DeepLabV3 on a ResNet-50 (Chen et al. 2017, "Rethinking Atrous Convolution for Semantic Image Segmentation"), or any
other decoder and backbone. What to expect depends on the data; street scenes in docs/results.md are a measured example
(``experiments.segment_camvid``).

    python -m experiments.segment_folder --quick                        the shapes world, five minutes on a laptop
    python -m experiments.segment_folder --data.dir my_data --classes 5 --data.height 512 --data.width 512
    python -m experiments.segment_folder --data.dir my_data --classes 5 --init-from deeplabv3_resnet50_coco.safetensors
    python -m experiments.segment_folder --data.dir my_data --classes 5 --decoder unet --backbone resnet18 \
        --no-auxiliary --init-from resnet18.safetensors                 a smaller network
    python -m vision predict RUN new_images/                            after training, RUN being its folder

``my_data`` has ``train/images`` and ``train/masks``, ``test/images`` and ``test/masks`` (or ``images`` and ``masks``
alone: then a tenth is held out by name), with masks as PNG files of the images' names: palette or grey ones with the
index of the class, 255 where there is none, or RGB ones with the colours of ``classes.txt``. That file has a class a
line, "road", or "road 128 64 128" with its colour; without it, classes are the values that occur.
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

    data: SemanticConfig = SemanticConfig(name="folder")
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=3e-4, weight_decay=0.01, warmup=1_000, schedule="polynomial", layer_decay=0.3
    )
    intervals: Intervals = Intervals(log=500, evaluate=5_000, save=5_000)
    images: int = 50_000
    ema: float = 0.99


QUICK = Config(**QUICK_SEGMENTATION)
TINY = Config(**TINY_SEGMENTATION)

ABLATIONS: dict[str, dict[str, Any]] = {
    **SEGMENTATION_ABLATIONS,
    "frozen_backbone": {"optimizer.frozen": ("^backbone/",)},
    "one_learning_rate": {"optimizer.layer_decay": 1.0},
}


def build(config: Config) -> Experiment:
    """The recipe of semantic segmentation."""
    return segmentation(config)


if __name__ == "__main__":
    sys.exit(main("segment_folder", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
