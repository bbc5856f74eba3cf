"""Denoising diffusion with a transformer, after Peebles & Xie 2023, "Scalable Diffusion Models with Transformers".

The recipe of ``experiments.diffusion_cifar`` with their network and optimizer settings: DiT-S on patches of 2x2 pixels
(32.5 M parameters), learning rate 1e-4 without warm-up, no dropout, EMA 0.9999. The paper trains on ImageNet
in the latent space of an autoencoder, for which it reports a Frechet distance of 9.62 (2.27 with guidance) for DiT-XL/2
after 1.8 G images; on CIFAR-10 it has no figures, and this code has not been run to that length. It predicts the noise
alone; with ``--diffusion.variance learned --sampling.variance learned``, as in the paper, a variance too.

    python -m experiments.dit_cifar --quick                         a laptop: shapes world, in about five minutes
    python -m experiments.dit_cifar --data.dir ~/tensorflow_datasets   the recipe
    python -m experiments.dit_cifar --mesh.tensor 4 --model.width 1152 --model.depth 28 --model.heads 16   DiT-XL
    python -m experiments.dit_cifar --quick --seeds 8               eight runs as one program, vmapped

``--init-from FOLDER`` starts from a transformer that is published in diffusers' layout (docs/weights.md);
``python -m vision export RUN FOLDER`` writes one.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.models.dit import DIT_S
from vision.recipes.diffusion import QUICK_DIFFUSION, DiffusionRunConfig, diffusion
from vision.recipes.diffusion_networks import SMALL_DIT, NetworkConfig, network_by_name
from vision.recipes.quick_data import tiny, tiny_data
from vision.tasks.sampling import SamplingConfig
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig

ABOUT = About(task="diffusion", paper="Peebles & Xie 2023, arXiv:2212.09748", quick="5 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(DiffusionRunConfig):
    """The recipe."""

    model: NetworkConfig = network_by_name(DIT_S)
    sampling: SamplingConfig = SamplingConfig(method="ancestral", steps=1000, variance="beta")
    optimizer: AdamConfig = AdamConfig(lr=1e-4, clip=1.0)


QUICK = replace(
    Config(model=SMALL_DIT, **QUICK_DIFFUSION),
    optimizer=AdamConfig(lr=1e-3, warmup=6_400, schedule="cosine", b2=0.99, clip=1.0),
)
TINY = tiny(
    QUICK,
    model=replace(SMALL_DIT, width=16, depth=1, heads=2, classes=4),
    data=tiny_data(QUICK.data),
    diffusion=replace(QUICK.diffusion, steps=20),
    sampling=replace(QUICK.sampling, steps=2),
    samples=4,
    classified=4,
    held_out=8,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "epsilon": {"diffusion.prediction": "epsilon", "diffusion.weighting": "simple"},
    "x0": {"diffusion.prediction": "x0"},
    "v": {"diffusion.prediction": "v"},
    "linear": {"diffusion.schedule": "linear"},
    "cosine": {"diffusion.schedule": "cosine"},
    "min_snr": {"diffusion.weighting": "min_snr"},
    "unguided": {"sampling.guidance": 1.0},
    "strong_guidance": {"sampling.guidance": 4.0},
    "patch_4": {"model.patch": 4},
    "patch_8": {"model.patch": 8},
    "half_width": {"model.width": 192},
    "half_depth": {"model.depth": 6},
}


def build(config: Config) -> Experiment:
    """The recipe of diffusion models with the transformer."""
    return diffusion(config)


if __name__ == "__main__":
    sys.exit(main("dit_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
