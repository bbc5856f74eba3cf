r"""Editing by instructions: an image and a sentence in, the edited image out (Brooks et al. 2023, "InstructPix2Pix").

The triples of image, sentence and edited image are rendered by the shapes world, exactly: recolour, remove, add,
replace, move a figure, change the background, in several phrasings. The network sees the image and the words and is
guided by each with its own scale. The default is for images of 64x64 pixels on one accelerator; it has not been run to
that length.

    python -m experiments.edit_instructions --quick --workdir runs/editor               the shapes world at 32x32 pixels
    python -m experiments.edit_instructions --quick --data.held-out "red star" "blue cross"
    python -m vision edit runs/editor --image a.png --instruction "make the star blue" --seeds 4
    python -m vision evaluate runs/editor --sampling.guidance 1.2 --sampling.text-guidance 3

"edit_success" is the share of test edits after which what was asked for is there, "edit_kept" that of the untouched
figures that are found again; both stand next to what the untouched image and the true one get.
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.data.editing.data import EditsConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import UNetConfig
from vision.recipes.instructions import InstructionRunConfig, instructions
from vision.recipes.quick_data import tiny
from vision.recipes.quick_edits import EDITS, QUICK_EDITING, TINY_EDITING
from vision.recipes.text_networks import TEXT_UNET, text_network_by_name
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig

ABOUT = About(task="editing", paper="Brooks et al. 2023, arXiv:2211.09800", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(InstructionRunConfig):
    """The recipe."""

    model: UNetConfig = text_network_by_name(TEXT_UNET)
    data: EditsConfig = EDITS
    diffusion: DiffusionConfig = DiffusionConfig(schedule="cosine", prediction="v")
    sampling: SamplingConfig = SamplingConfig(steps=50, guidance=1.5, text_guidance=7.5)
    optimizer: AdamConfig = AdamConfig(lr=1e-4, warmup=640_000, clip=1.0)
    images: int = 50_000_000
    batch_size: int = 256


QUICK = Config(**QUICK_EDITING, sampling=SamplingConfig(steps=12, guidance=1.0, text_guidance=2.0))
TINY = tiny(QUICK, **TINY_EDITING, sampling=SamplingConfig(steps=2, guidance=1.0, text_guidance=2.0))

ABLATIONS: dict[str, dict[str, Any]] = {
    "unguided": {"sampling.guidance": 1.0, "sampling.text_guidance": 1.0},
    "strong_text": {"sampling.text_guidance": 4.0},
    "strong_image": {"sampling.guidance": 1.5},
    "both_strong": {"sampling.guidance": 1.5, "sampling.text_guidance": 4.0},
    "no_dropout": {
        "image_dropout": 0.0,
        "text_dropout": 0.0,
        "dropout": 0.0,
        "sampling.guidance": 1.0,
        "sampling.text_guidance": 1.0,
    },
    "few_steps": {"sampling.steps": 4},
}


def build(config: Config) -> Experiment:
    """The recipe of editing by instructions."""
    return instructions(config)


if __name__ == "__main__":
    sys.exit(main("edit_instructions", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
