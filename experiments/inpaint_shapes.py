r"""Inpainting of the shapes world with words: what is masked is continued, or shows what is said of it.

Diffusion is given the image without what is masked, and the mask (Saharia et al. 2022, "Palette"; Rombach et al. 2022,
section 4.5). Half of the masks are random strokes, boxes, halves and all but the centre (Suvorov et al. 2022; Lugmayr
et al. 2022); the others are edited regions, for which the network is given what they show: "a small blue star",
"nothing", "a dark striped background". So one network removes, adds, recolours, replaces, and paints backgrounds. The
default is for images of 64x64 pixels on one accelerator; it has not been run to that length.

    python -m experiments.inpaint_shapes --quick --workdir runs/inpainter               the shapes world at 32x32 pixels
    python -m vision edit runs/inpainter --image a.png --mask mask.png --prompt "a blue star"
    python -m vision edit runs/inpainter --image a.png --box 4 4 20 20 --remove --seeds 4
    python -m vision evaluate runs/inpainter --sampling.guidance 3

"edit_success" is the share of test edits after which what was asked for is there, next to what the untouched image and
the true one get; "inpainted_psnr_thick" and so on are decibels inside random masks, next to those of a plain fill.
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.data.editing.data import EditsConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import UNetConfig
from vision.recipes.inpainting import InpaintingRunConfig, inpainting
from vision.recipes.quick_data import tiny
from vision.recipes.quick_edits import EDITS, QUICK_EDITING, TINY_EDITING
from vision.recipes.text_networks import TEXT_UNET, text_network_by_name
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig

ABOUT = About(task="editing", paper="Saharia et al. 2022, arXiv:2111.05826", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(InpaintingRunConfig):
    """The recipe."""

    model: UNetConfig = text_network_by_name(TEXT_UNET)
    data: EditsConfig = EDITS
    diffusion: DiffusionConfig = DiffusionConfig(schedule="cosine", prediction="v")
    sampling: SamplingConfig = SamplingConfig(steps=50, guidance=3.0)
    optimizer: AdamConfig = AdamConfig(lr=1e-4, warmup=640_000, clip=1.0)
    images: int = 50_000_000
    batch_size: int = 256
    flip: bool = False


QUICK = Config(**QUICK_EDITING, sampling=SamplingConfig(steps=12, guidance=2.0), inpainted=64)
TINY = tiny(QUICK, **TINY_EDITING, sampling=SamplingConfig(steps=2, guidance=2.0), inpainted=4)

ABLATIONS: dict[str, dict[str, Any]] = {
    "unguided": {"sampling.guidance": 1.0},
    "strong_guidance": {"sampling.guidance": 4.0},
    "edited_regions_alone": {"inpainting.random": 0.0},
    "random_masks_alone": {"inpainting.random": 1.0},
    "boxes_alone": {"inpainting.masks": ("box",)},
    "few_steps": {"sampling.steps": 4},
}


def build(config: Config) -> Experiment:
    """The recipe of inpainting, with words."""
    return inpainting(config)


if __name__ == "__main__":
    sys.exit(main("inpaint_shapes", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
