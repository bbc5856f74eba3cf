r"""The decoder of unCLIP: from the embedding of an image to images like it (Ramesh et al. 2022, section 2.1).

The embedding that a CLIP has of each training image is projected and added to the time, and becomes four tokens that
are attended to with those of the caption; it is left out of 10 % of samples and the caption of 50 %, for guidance. A
prior turns texts into such embeddings; without one, ``--substitute text`` puts the embedding of the text in their place
and ``--substitute zeros`` nothing. ``--model unclip_64`` is the network of the paper, of 3.5 B parameters there with
its text encoder; the defaults are for one accelerator, and have not been run to their length.

    python -m experiments.decoder_shapes --quick                                  the shapes world at 32x32 pixels
    python -m experiments.decoder_shapes --quick --conditions embedding
    python -m vision evaluate RUN --sampling.guidance 2 --sampling.text-guidance 3    the text by itself
    python -m vision sample RUN --image a.png b.png --count 16                    variations of images
    python -m vision sample RUN --image a.png b.png --interpolate --count 9
    python -m vision sample RUN --image a.png --difference "a red star" "a blue star" --count 8
    python -m vision sample RUN --image a.png --components 1 4 16 64
    python -m vision sample RUN --prompt "a red star left of a blue circle" --sampling.guidance 3 --best-of 4
    python -m vision sample RUN --prompt "a red star" --prior PRIOR_RUN --upsampler UPSAMPLER_RUN --baseline OTHER_RUN
    python -m experiments.decoder_shapes --data.name folder --data.dir my_images --clip.weights runs/my_clip

"facts_single" and "facts_pair" are the shares of held-out captions whose facts are right in images decoded from the
embeddings of the true ones, "text_facts_single" and "text_facts_pair" in images for the captions alone.
"""

import sys
from dataclasses import dataclass
from typing import Any

from vision.data.captions.data import CaptionedConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import UNetConfig
from vision.recipes.clip_encoder import SHAPES
from vision.recipes.quick_data import tiny
from vision.recipes.text_conditions import ClipPartConfig, Conditions
from vision.recipes.text_networks import TEXT_UNET, text_network_by_name
from vision.recipes.text_to_image import (
    QUICK_TEXT_TO_IMAGE,
    TINY_TEXT_TO_IMAGE,
    TextToImageRunConfig,
    text_to_image,
)
from vision.tasks.diffusion import DiffusionConfig
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig

ABOUT = About(task="images and texts", paper="Ramesh et al. 2022, arXiv:2204.06125", quick="not timed")


@dataclass(frozen=True, kw_only=True)
class Config(TextToImageRunConfig):
    """The recipe."""

    model: UNetConfig = text_network_by_name(TEXT_UNET)
    data: CaptionedConfig = CaptionedConfig(name="folder", resolution=64)
    clip: ClipPartConfig = ClipPartConfig(weights=SHAPES)
    conditions: Conditions = "both"
    diffusion: DiffusionConfig = DiffusionConfig(schedule="cosine", variance="learned")
    sampling: SamplingConfig = SamplingConfig(method="ancestral", steps=250, variance="learned", guidance=3.0)
    optimizer: AdamConfig = AdamConfig(lr=1.2e-4, warmup=640_000, b2=0.999, clip=1.0)
    images: int = 800_000_000
    batch_size: int = 2_048


QUICK = Config(**QUICK_TEXT_TO_IMAGE)
TINY = tiny(QUICK, **TINY_TEXT_TO_IMAGE)

ABLATIONS: dict[str, dict[str, Any]] = {
    "embedding": {"conditions": "embedding"},
    "text": {"conditions": "text"},
    "texts_kept": {"text_dropout": 0.1},
    "one_token_of_the_embedding": {"embedding_tokens": 1},
    "unguided": {"sampling.guidance": 1.0},
    "strong_guidance": {"sampling.guidance": 4.0},
    "zeros": {"substitute": "zeros"},
}


def build(config: Config) -> Experiment:
    """The recipe of generating images for texts."""
    return text_to_image(config)


if __name__ == "__main__":
    sys.exit(main("decoder_shapes", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
