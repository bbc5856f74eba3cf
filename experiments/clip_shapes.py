"""Images and texts in one space, learned from captions (CLIP, Radford et al. 2021).

The towers, the temperature and the optimizer are the paper's, for any captioned images; its own 400 million pairs are
not public, and its largest model took 12 days on 256 V100s (section 2.5). ViT-B/32 of the paper has 63.2 % zero-shot
top 1 on ImageNet (table 11). This code has not been run to that length.

    python -m experiments.clip_shapes --quick                                     the shapes world
    python -m experiments.clip_shapes --data.name coco --data.dir coco --data.resolution 224 --data.stream \
        --tokenizer.path clip-vit-base-patch32 --images 10000000                  COCO captions
    python -m experiments.clip_shapes --data.name shards --data.dir tars --data.resolution 224 --data.stream \
        --tokenizer.path clip-vit-base-patch32                                    WebDataset
    python -m experiments.clip_shapes --quick --data.name emoji --data.dir emoji   emoji with their names
    python -m vision evaluate clip_shapes --init-from clip-vit-base-patch32 --tokenizer.path clip-vit-base-patch32 \
        --data.name coco --data.dir coco --data.resolution 224 --zero-shot.name cifar10     published weights
    python -m vision predict RUN photographs/ --zero-shot.classes dog cat         any classes, without training
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vision.data.augment.image import AugmentConfig
from vision.data.captions.data import CaptionedConfig
from vision.data.shapes.world import ShapesConfig
from vision.data.text.training import END
from vision.evaluation.image_text import RetrievalConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.clip.clip import CLIPS, VIT_B32, AnyClipConfig, ResNetClipConfig, TransformerClipConfig
from vision.models.clip.resnet import ImageResNetConfig
from vision.models.clip.text import TextConfig
from vision.models.clip.vit import ImageTransformerConfig
from vision.recipes.clip import ClipRunConfig, TokenizerConfig, clip
from vision.recipes.clip_encoder import clip_by_name
from vision.recipes.quick_data import CAPTIONED, tiny
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(
    task="images and texts",
    paper="Radford et al. 2021, arXiv:2103.00020; Zhai et al. 2023, arXiv:2303.15343",
    quick="a few minutes",
)

_TEXT = TextConfig(vocabulary=400, length=16, end=END, width=96, depth=2, heads=4)
_QUICK = TransformerClipConfig(
    image=ImageTransformerConfig(patch=4, width=96, depth=4, heads=4), text=_TEXT, embedding=64, activation="gelu"
)
_QUICK_RESNET = ResNetClipConfig(
    image=ImageResNetConfig(depths=(1, 1, 1, 1), width=16, heads=8), text=_TEXT, embedding=64, activation="gelu"
)
QUICK_CLIPS = {name: _QUICK_RESNET if name.startswith("rn") else _QUICK for name in CLIPS}
"""What ``--quick`` trains: a small relative of each size."""


@dataclass(frozen=True, kw_only=True)
class Config(ClipRunConfig):
    """ViT-B/32 with the paper's optimizer."""

    model: AnyClipConfig = clip_by_name(VIT_B32, QUICK_CLIPS)
    data: CaptionedConfig = CaptionedConfig(name="coco", dir=Path("coco"), resolution=224, stream=True, workers=8)
    intervals: Intervals = Intervals(log=1_000_000, evaluate=20_000_000, save=5_000_000)
    images: int = 12_800_000_000
    batch_size: int = 32_768
    ema: float = 0.999


QUICK = Config(
    model=_QUICK,
    data=CAPTIONED,
    tokenizer=TokenizerConfig(kind="bytes"),
    augment=AugmentConfig(),
    optimizer=OptimizerConfig(name="adamw", lr=1e-3, b2=0.98, weight_decay=0.1, warmup=6_400, clip=1.0),
    intervals=Intervals(log=6_400, evaluate=32_000, save=32_000),
    retrieval=RetrievalConfig(images=2_000, compared=256, captions="first"),
    images=64_000,
    batch_size=64,
    ema=0.99,
)
TINY = tiny(
    QUICK,
    model=replace(
        _QUICK,
        image=ImageTransformerConfig(patch=8, width=16, depth=1, heads=2),
        text=replace(_TEXT, vocabulary=300, width=16, depth=1, heads=2),
        embedding=8,
    ),
    data=replace(
        QUICK.data,
        resolution=16,
        shapes_count=64,
        shapes=ShapesConfig(shapes=("circle", "star"), colours=("red", "blue"), min_size=0.4),
    ),
    retrieval=RetrievalConfig(images=64, compared=8, captions="first"),
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "sigmoid": {"model.logits": "sigmoid"},
    "resnet": {"model": "rn50"},
    "narrow_text": {"model.text.width": 64},
    "words": {"tokenizer.kind": "words", "tokenizer.path": None, "model.text.end": END},
    "quick_gelu": {"model.activation": "quick_gelu"},
}


def build(config: Config) -> Experiment:
    """The recipe of CLIP."""
    return clip(config)


if __name__ == "__main__":
    sys.exit(main("clip_shapes", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
