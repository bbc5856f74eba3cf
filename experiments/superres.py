r"""Super-resolution: a folder of photographs, and a network that enlarges them two, three or four times.

The defaults are the baseline network of Lim et al. 2017 (EDSR, 1.5 M parameters) for a scale of 2 on patches of 96
pixels: Adam 1e-4 and the absolute error, 300,000 steps of 16. The paper reports 38.11 dB on Set5 for its large network
(luma of 8-bit colours), after training on the 800 images of DIV2K; this code has not been run to that length.

    python -m experiments.superres --quick     the shapes world: 38.4 dB (luma), bicubic 37.1
    python -m experiments.superres --data.dir DIV2K_train_HR --data.stream --data.test-dir Set5
    python -m experiments.superres --data.dir DIV2K_train_HR --data.stream --data.test-dir Set5 --model edsr_large
    python -m experiments.superres --data.dir DIV2K_train_HR --data.stream --data.test-dir Set5 --model rrdb \
        --degradation real_esrgan --data.patch 256
    python -m experiments.superres --data.dir t91 --data.test-dir set5 --model edsr_small --data.patch 48 \
        --optimizer.lr 1e-3 --optimizer.warmup 1600 --images 200000 --intervals.log 8000 --intervals.evaluate 40000
    python -m vision predict runs/superres/quick photographs/*.jpg
    python -m vision evaluate runs/superres/quick --self-ensemble
    python -m vision predict superres --init-from EDSR_Mx2.pth -- photographs/*.jpg      published weights

``--model NAME`` is srcnn, vdsr (both of luma), edsr, edsr_small, edsr_large, rrdb, swinir_light or swinir_medium;
``--model.scale`` is how many times as long the sides become.
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.models.restoration.edsr import EdsrConfig
from vision.recipes.restoration import QUICK_RESTORATION, TINY_RESTORATION, RestorationRunConfig, restoration
from vision.recipes.restoration_networks import SMALL_SUPER_RESOLUTION
from vision.train.experiment import Experiment

ABOUT = About(task="restoration", paper="Lim et al. 2017, arXiv:1707.02921", quick="1 minute")


@dataclass(frozen=True, kw_only=True)
class Config(RestorationRunConfig):
    """The recipe."""


QUICK = Config(model=SMALL_SUPER_RESOLUTION["edsr"], **QUICK_RESTORATION)
TINY = Config(model=EdsrConfig(blocks=1, width=4), **TINY_RESTORATION)

ABLATIONS: dict[str, dict[str, Any]] = {
    "srcnn": {"model": "srcnn"},
    "vdsr": {"model": "vdsr"},
    "rrdb": {"model": "rrdb"},
    "swinir_light": {"model": "swinir_light"},
    "l2": {"loss.name": "l2"},
    "charbonnier": {"loss.name": "charbonnier"},
    "no_turns": {"augment": False},
    "small_patches": {"data.patch": 32},
    "real_esrgan": {"degradation": "real_esrgan", "data.patch": 64},
    "self_ensemble": {"self_ensemble": True},
}


def build(config: Config) -> Experiment:
    """The recipe of restoration."""
    return restoration(config)


if __name__ == "__main__":
    sys.exit(main("superres", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
