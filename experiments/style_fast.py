r"""A network that paints photographs in the style of one painting at once, after Johnson et al. 2016.

Trained on photographs so that its results have their content, in the features of a VGG, and the painting's Gram
matrices. The paper trains on 80,000 images of COCO for 40,000 steps of 4 crops of 256 pixels, in four hours of a
Titan X; steps have 8 crops here, and this code has not been run to that length. A run without ``--features`` compares
in a VGG of random weights.

    python -m experiments.style_fast --quick
    python -m experiments.style_fast --data.dir photographs --data.stream --style starry_night.jpg \
        --features vgg16.safetensors --workdir runs/starry
    python -m vision predict runs/starry photographs/*.jpg
    python -m vision evaluate runs/starry

Images of any size are painted in tiles that have the statistics of the whole image.
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.models.style.transformer import StyleTransformerConfig
from vision.recipes.style_training import QUICK_STYLE, TINY_STYLE
from vision.recipes.style_transformer import StyleTransformerRunConfig, style_transformer
from vision.tasks.style import StyleLossConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import AdamConfig

ABOUT = About(task="style", paper="Johnson et al. 2016, arXiv:1603.08155", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(StyleTransformerRunConfig):
    """The recipe."""


QUICK = Config(
    model=StyleTransformerConfig(width=16, blocks=3),
    loss=StyleLossConfig(
        content_layers=("relu3_2",), style_layers=("relu1_2", "relu2_2", "relu3_2", "relu4_2"), style=100.0
    ),
    style_size=128,
    optimizer=AdamConfig(lr=3e-3, schedule="cosine"),
    intervals=Intervals(log=400, evaluate=4_000, save=4_000),
    images=4_000,
    **QUICK_STYLE,
)
TINY = Config(
    model=StyleTransformerConfig(width=4, blocks=1),
    loss=StyleLossConfig(content_layers=("relu3_1",), style_layers=("relu1_1", "relu4_1")),
    style_size=32,
    optimizer=AdamConfig(lr=3e-3),
    **TINY_STYLE,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "one_block": {"model.blocks": 1},
    "less_style": {"loss.style": 10.0},
    "smooth": {"loss.total_variation": 10.0},
    "fine_strokes": {"style_size": 64},
}


def build(config: Config) -> Experiment:
    """The recipe of networks for one style."""
    return style_transformer(config)


if __name__ == "__main__":
    sys.exit(main("style_fast", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
