r"""Remove noise, or what compression and blur did, from photographs, after Zhang et al. 2017 (DnCNN).

The defaults are the paper's network of 17 convolutions with batch normalisation, on colours, which predicts Gaussian
noise of deviation 25 of 255 levels; here it minimises the absolute error, with Adam 1e-3 that falls to 0. The paper
reports 29.23 dB on the grey images of BSD68 (``--model.channels 1``); this code has not been run to that length. The
evaluation has a table by level with the noisy image and the best classic filters.

    python -m experiments.denoise --quick      the shapes world: 32.2 dB, noisy 20.7, total variation 32.9
    python -m experiments.denoise --data.dir photographs --data.test-dir CBSD68
    python -m experiments.denoise --data.dir photographs --degradation.sigma 15 15
    python -m experiments.denoise --data.dir photographs --degradation noise_blind --model dncnn_blind
    python -m experiments.denoise --data.dir photographs --degradation jpeg --degradation.quality 10 40
    python -m experiments.denoise --data.dir photographs --degradation blur --model unet
    python -m vision predict runs/denoise/quick photographs/*.png
    python -m vision predict denoise --model.depth 20 --model.no-norm --model.use-bias \
        --init-from dncnn_color_blind.pth -- photographs/*.png          published weights

``--model NAME`` is dncnn, dncnn_blind, unet, edsr, rrdb, swinir_light or swinir_medium.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.photographs import PhotographsConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.restoration.dncnn import DncnnConfig
from vision.ops.degradations.degradation import Degradation, NoiseDegradation
from vision.recipes.restoration import (
    DEGRADATIONS,
    QUICK_RESTORATION,
    TINY_RESTORATION,
    RestorationRunConfig,
    degradation_by_name,
    restoration,
)
from vision.recipes.restoration_networks import DENOISING, SMALL_DENOISING, NetworkConfig, restoring_network
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import AdamConfig

ABOUT = About(task="restoration", paper="Zhang et al. 2017, arXiv:1608.03981", quick="2 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(RestorationRunConfig):
    """The recipe."""

    model: NetworkConfig = restoring_network(DENOISING["dncnn"])
    degradation: Degradation = degradation_by_name(NoiseDegradation(), DEGRADATIONS)
    data: PhotographsConfig = PhotographsConfig(patch=48)
    optimizer: AdamConfig = AdamConfig(lr=1e-3, schedule="cosine")
    intervals: Intervals = Intervals(log=64_000, evaluate=640_000, save=640_000)
    images: int = 6_400_000
    batch_size: int = 128


QUICK = Config(model=SMALL_DENOISING["dncnn"], **QUICK_RESTORATION)
TINY = Config(
    model=DncnnConfig(depth=3, width=4, channels=3, norm=True, use_bias=False),
    **{**TINY_RESTORATION, "degradation": replace(NoiseDegradation(), sigma=(15.0, 30.0))},
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "sigma_15": {"degradation.sigma": (15.0, 15.0)},
    "sigma_50": {"degradation.sigma": (50.0, 50.0)},
    "blind": {"degradation": "noise_blind", "model": "dncnn_blind"},
    "jpeg": {"degradation": "jpeg"},
    "blur": {"degradation": "blur"},
    "no_norm": {"model.norm": False},
    "unet": {"model": "unet"},
    "swinir_light": {"model": "swinir_light"},
    "l2": {"loss.name": "l2"},
    "no_turns": {"augment": False},
    "self_ensemble": {"self_ensemble": True},
}


def build(config: Config) -> Experiment:
    """The recipe of restoration."""
    return restoration(config)


if __name__ == "__main__":
    sys.exit(main("denoise", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
