"""Segment street scenes: Cityscapes (Cordts et al. 2016), 2,975 finely annotated images, 19 classes.

DeepLabV3+ (Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation") on a
ResNet-101 with output stride 16: crops of 769 pixels, polynomial decay. Published at 90,000 steps of 16 crops, with an
Xception: 79.14 on val at output stride 16; this code has not been run to that length.

    python -m experiments.segment_cityscapes --quick                                 the shapes world, on a laptop
    python -m experiments.segment_cityscapes --data.dir cityscapes --init-from resnet101.safetensors

``cityscapes`` has ``leftImg8bit`` and ``gtFine`` as they are downloaded. Evaluation takes whole images of 1024x2048
pixels; ``--segmenter.window 769`` shows them in windows.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.augment.masks import MaskAugmentConfig
from vision.data.semantic import SemanticConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.resnet import RESNET101
from vision.models.segmentation.deeplab import DeepLabConfig
from vision.models.segmentation.segmenter import DecoderConfig
from vision.ranges import Pixels
from vision.recipes.backbones import classifier_by_name
from vision.recipes.classifiers import ClassifierConfig
from vision.recipes.segmentation import (
    QUICK_SEGMENTATION,
    SEGMENTATION_ABLATIONS,
    SMALL_DECODERS,
    TINY_SEGMENTATION,
    SegmentationRunConfig,
    decoder_by_name,
    segmentation,
)
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="segmentation", paper="Chen et al. 2018, arXiv:1802.02611", quick="5 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(SegmentationRunConfig):
    """The recipe."""

    backbone: ClassifierConfig = classifier_by_name(replace(RESNET101, output_stride=16), output_stride=16)
    decoder: DecoderConfig = decoder_by_name(DeepLabConfig(plus=True))
    classes: int = 19
    data: SemanticConfig = SemanticConfig(name="cityscapes", test="val", height=1024, width=2048, stream=True)
    crop: tuple[Pixels, ...] = (769, 769)
    augment: MaskAugmentConfig = MaskAugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig(lr=0.01, weight_decay=1e-4, schedule="polynomial")
    intervals: Intervals = Intervals(log=2_000, evaluate=100_000, save=50_000)
    images: int = 1_440_000
    evaluation_batch: int = 1


# a dilated ResNet and DeepLabV3+ as in the recipe, with few channels
SMALL: dict[str, Any] = {
    "backbone": replace(RESNET101, depths=(1, 1, 1, 1), width=32, output_stride=16),
    "decoder": SMALL_DECODERS["deeplab_v3_plus"],
}
QUICK = Config(**{**QUICK_SEGMENTATION, **SMALL})
TINY = Config(**{**TINY_SEGMENTATION, **SMALL, "backbone": replace(SMALL["backbone"], width=8)})

ABLATIONS: dict[str, dict[str, Any]] = {
    **SEGMENTATION_ABLATIONS,
    "output_stride_8": {"backbone.output_stride": 8},
    "no_auxiliary": {"auxiliary": False},
}


def build(config: Config) -> Experiment:
    """The recipe of semantic segmentation."""
    return segmentation(config)


if __name__ == "__main__":
    sys.exit(main("segment_cityscapes", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
