r"""A network that paints in the style of any painting, named when it is used, after Huang & Belongie 2017 (AdaIN).

The features of a photograph get the mean and deviation of the painting's in each channel, and a decoder, which is all
that is trained, makes an image of them. The paper trains on COCO and 80,000 paintings of WikiArt; this code has not
been run to that length. A run without ``--features`` compares in a VGG of random weights.

    python -m experiments.style_adain --quick
    python -m experiments.style_adain --data.dir photographs --data.stream --paintings.dir paintings \
        --features vgg16.safetensors --workdir runs/adain
    python -m vision predict runs/adain photographs/*.jpg --style wave.jpg --alpha 0.8
    python -m vision predict runs/adain me.jpg --style wave.jpg scream.jpg --style-weights 0.7 0.3
    python -m vision predict runs/adain me.jpg --style wave.jpg scream.jpg --masks left.png right.png
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.recipes.style_adain import AdainRunConfig, style_adain
from vision.recipes.style_data import PaintingsConfig
from vision.recipes.style_training import QUICK_STYLE, TINY_STYLE
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import AdamConfig

ABOUT = About(task="style", paper="Huang & Belongie 2017, arXiv:1703.06868", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(AdainRunConfig):
    """The recipe."""


QUICK = Config(
    layers=("relu1_1", "relu2_1", "relu3_1"),
    paintings=PaintingsConfig(name="textures"),
    optimizer=AdamConfig(lr=2e-3, schedule="cosine"),
    intervals=Intervals(log=400, evaluate=6_000, save=6_000),
    images=6_000,
    **QUICK_STYLE,
)
TINY = Config(
    layers=("relu1_1", "relu2_1"),
    paintings=PaintingsConfig(name="textures", textures=4),
    optimizer=AdamConfig(lr=2e-3),
    **TINY_STYLE,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "more_style": {"loss.style": 100.0},
    "smooth": {"loss.total_variation": 10.0},
    "half": {"alpha": 0.5},
    "few_layers": {"layers": ("relu1_1", "relu2_1")},
}


def build(config: Config) -> Experiment:
    """The recipe of AdaIN."""
    return style_adain(config)


if __name__ == "__main__":
    sys.exit(main("style_adain", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
