r"""Inpainting of photographs by diffusion, given the masked image and its mask (Saharia et al. 2022, "Palette").

Masks are random strokes, boxes, halves, and all but the centre, as in LaMa (Suvorov et al. 2022) and RePaint (Lugmayr
et al. 2022); evaluation also has every second line and every second pixel. Images are CIFAR-10, or those of a folder,
of which each is resized and cropped to a square. The default has not been run to its length.

    python -m experiments.inpaint_photos --data.dir ~/tensorflow_datasets --workdir runs/photos       CIFAR-10
    python -m experiments.inpaint_photos --data.name folder --data.dir photographs --data.resolution 64
    python -m experiments.inpaint_photos --quick                                              shapes in place of photos
    python -m vision edit runs/photos --image a.jpg --mask mask.png --seeds 4

"inpainted_psnr_thick" and so on are decibels inside masks of a kind, next to those of a plain fill;
"inpainted_seam_thick" is how much more neighbours differ across the mask's border than next to it, compared with that
of the images themselves.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.dataset import DataConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import UNetConfig
from vision.recipes.inpainting import InpaintingRunConfig, inpainting
from vision.recipes.quick_data import GENERATION, tiny, tiny_data
from vision.recipes.quick_edits import QUICK_EDITING, TINY_EDITING
from vision.recipes.text_networks import text_network_by_name
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig

ABOUT = About(task="editing", paper="Saharia et al. 2022, arXiv:2111.05826", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(InpaintingRunConfig):
    """The recipe."""

    model: UNetConfig = text_network_by_name(UNetConfig())
    data: DataConfig = DataConfig()
    diffusion: DiffusionConfig = DiffusionConfig(schedule="cosine", prediction="v")
    sampling: SamplingConfig = SamplingConfig(steps=50)
    optimizer: AdamConfig = AdamConfig(lr=2e-4, warmup=640_000, clip=1.0)
    images: int = 50_000_000


SMALL = replace(QUICK_EDITING["model"], width=64, attention=())
QUICK = Config(
    **{**QUICK_EDITING, "model": SMALL, "data": GENERATION, "images": 60_000},
    sampling=SamplingConfig(steps=12),
    inpainted=64,
)
TINY = tiny(
    QUICK,
    **{**TINY_EDITING, "data": tiny_data(QUICK.data)},
    sampling=SamplingConfig(steps=2),
    inpainted=4,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "thick_masks": {"inpainting.masks": ("thick",)},
    "boxes_alone": {"inpainting.masks": ("box",)},
    "few_steps": {"sampling.steps": 4},
}


def build(config: Config) -> Experiment:
    """The recipe of inpainting, without words."""
    return inpainting(config)


if __name__ == "__main__":
    sys.exit(main("inpaint_photos", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
