r"""Super-resolution with detail that looks real, after Wang et al. 2018 (ESRGAN) and Ledig et al. 2017 (SRGAN).

A network of ``experiments.superres`` goes on against a discriminator, by the relativistic loss of ESRGAN, an error in
the features of VGG19 (a file of yours) and a little of the error of pixels. PSNR falls and so does LPIPS; both are
measured.
The paper trains RRDB on DIV2K and Flickr2K for 400,000 steps of 16 patches of 128 pixels; this code has not been run to
that length.

    python -m experiments.srgan --quick       the shapes world from scratch: 35.3 dB (luma)
    python -m experiments.srgan --data.dir DIV2K_train_HR --data.stream --data.test-dir Set5 --init-from runs/rrdb \
        --loss.pixels 0.01 --loss.perceptual 1 --perceptual.weights vgg19.pth
    python -m experiments.srgan --data.dir DIV2K_train_HR --data.stream --data.test-dir Set5 --init-from runs/rrdb_r \
        --degradation real_esrgan --data.patch 256 --game.discriminator unet --game.loss non_saturating \
        --game.weight 0.1 --loss.perceptual 1 --perceptual.weights vgg19.pth
    python -m vision evaluate runs/srgan/quick --lpips.features alexnet.pth --lpips.weights alex.pth
    python -m vision predict runs/srgan/quick photographs/*.jpg

``runs/rrdb`` and ``runs/rrdb_r`` are runs of ``python -m experiments.superres --model rrdb`` with the same data and
degradation.
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.data.photographs import PhotographsConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.restoration.rrdb import RrdbConfig
from vision.recipes.restoration import QUICK_RESTORATION, TINY_RESTORATION
from vision.recipes.restoration_adversarial import AdversarialRestorationConfig, GameConfig, adversarial_restoration
from vision.recipes.restoration_networks import SMALL_SUPER_RESOLUTION
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import AdamConfig

ABOUT = About(
    task="restoration",
    paper="Wang et al. 2018, arXiv:1809.00219; Ledig et al. 2017, arXiv:1609.04802",
    quick="3 minutes",
)


@dataclass(frozen=True, kw_only=True)
class Config(AdversarialRestorationConfig):
    """The recipe."""

    data: PhotographsConfig = PhotographsConfig(patch=128)
    intervals: Intervals = Intervals(log=16_000, evaluate=160_000, save=160_000)
    images: int = 6_400_000


QUICK = Config(
    model=SMALL_SUPER_RESOLUTION["edsr"],
    game=GameConfig(width=16),
    discriminator_optimizer=AdamConfig(lr=4e-4, schedule="cosine"),
    **{**QUICK_RESTORATION, "optimizer": AdamConfig(lr=4e-4, warmup=800, schedule="cosine")},
)
TINY = Config(model=RrdbConfig(scale=2, blocks=1, width=4, growth=2), game=GameConfig(width=4), **TINY_RESTORATION)

ABLATIONS: dict[str, dict[str, Any]] = {
    "srgan": {"game.loss": "non_saturating", "game.weight": 1e-3},
    "hinge": {"game.loss": "hinge"},
    "unet": {"game.discriminator": "unet"},
    "no_game": {"game.weight": 0.0},
    "edsr": {"model": "edsr"},
    "swinir_medium": {"model": "swinir_medium"},
}


def build(config: Config) -> Experiment:
    """The recipe of restoration as a game."""
    return adversarial_restoration(config)


if __name__ == "__main__":
    sys.exit(main("srgan", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
