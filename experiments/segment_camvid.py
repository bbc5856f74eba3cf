"""Segment street scenes: CamVid (Brostow et al. 2009), 367 training images of 11 classes.

A UNet decoder (Ronneberger et al. 2015) on a VGG16, whose published weights help much on so few images. At 480x360
pixels, from scratch, ENet (Paszke et al. 2016) reaches a test mIoU of 51.3 and FC-DenseNet56 (Jégou et al. 2017) 58.9.

    python -m experiments.segment_camvid --quick                                the shapes world, on a laptop
    python -m experiments.segment_camvid --data.dir camvid
    python -m experiments.segment_camvid --data.dir camvid --init-from vgg16.safetensors
    python -m experiments.segment_camvid --data.dir camvid --data.height 144 --data.width 192    reduced images
    python -m experiments.ablate segment_camvid --vary init_from None,vgg16.safetensors --seeds 3 -- --data.dir camvid

``camvid`` has ``train``, ``val`` and ``test``, each with ``images`` and ``masks`` (palette PNG files, 11 where there is
no class), and ``classes.txt`` with the 11 names.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.augment.masks import MaskAugmentConfig
from vision.data.semantic import SemanticConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.segmentation.segmenter import DecoderConfig
from vision.models.segmentation.unet_decoder import UNetDecoderConfig
from vision.models.vgg import VGG16
from vision.recipes.backbones import classifier_by_name
from vision.recipes.classifiers import ClassifierConfig
from vision.recipes.segmentation import (
    QUICK_SEGMENTATION,
    SEGMENTATION_ABLATIONS,
    TINY_SEGMENTATION,
    SegmentationRunConfig,
    decoder_by_name,
    segmentation,
)
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="segmentation", paper="Ronneberger et al. 2015, arXiv:1505.04597", quick="5 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(SegmentationRunConfig):
    """The recipe."""

    backbone: ClassifierConfig = classifier_by_name(replace(VGG16, classes=0))
    decoder: DecoderConfig = decoder_by_name(UNetDecoderConfig())
    classes: int = 11
    auxiliary: bool = False
    data: SemanticConfig = SemanticConfig(name="folder", height=360, width=480, void=(11,))
    augment: MaskAugmentConfig = MaskAugmentConfig(brightness=0.3, contrast=0.3, saturation=0.3)
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=5e-4, weight_decay=0.01, warmup=500, schedule="polynomial", layer_decay=0.2
    )
    intervals: Intervals = Intervals(log=500, evaluate=5_000, save=5_000)
    images: int = 40_000
    batch_size: int = 8
    ema: float = 0.99


QUICK = Config(**QUICK_SEGMENTATION)
TINY = Config(**TINY_SEGMENTATION)

ABLATIONS: dict[str, dict[str, Any]] = {
    **{name: change for name, change in SEGMENTATION_ABLATIONS.items() if name != "unet"},
    "no_colour": {"augment.brightness": 0.0, "augment.contrast": 0.0, "augment.saturation": 0.0},
    "one_learning_rate": {"optimizer.layer_decay": 1.0},
}


def build(config: Config) -> Experiment:
    """The recipe of semantic segmentation."""
    return segmentation(config)


if __name__ == "__main__":
    sys.exit(main("segment_camvid", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
