"""A variational autoencoder of colour images, after Kingma & Welling 2014, with the likelihood of Salimans et al. 2017.

8-bit pixels have the mixture of discretised logistics of PixelCNN++, so that the bound is one on the probability of the
file and is reported in bits per dimension (arXiv:1312.6114; arXiv:1701.05517). A small network reached 4.96 of them on
re-encoded CIFAR-10 in 13 minutes of CPU time (docs/results.md has the command); the defaults have not been run.

    python -m experiments.vae_cifar --quick     the shapes world: 4.98 bits in 4.4 minutes of CPU time
    python -m experiments.vae_cifar --data.dir ~/tensorflow_datasets        CIFAR-10
    python -m experiments.ablate vae_cifar --grid objective.beta 0.25,1,4   what a code may cost

The beta-VAE of Higgins et al. 2017 is ``--objective.beta``, the capacity of Burgess et al. 2018
``--objective.capacity``.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.evaluation.vae import BoundConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.vae import SHARDING_RULES, Vae, VaeConfig
from vision.recipes.quick_data import GENERATION, tiny, tiny_data
from vision.recipes.vae import VaeRunConfig, vae
from vision.tasks.likelihood import LikelihoodConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(
    task="variational autoencoders",
    paper="Kingma & Welling 2014, arXiv:1312.6114; Salimans et al. 2017, arXiv:1701.05517",
    quick="5 minutes",
)


@dataclass(frozen=True, kw_only=True)
class Config(VaeRunConfig):
    """The recipe."""

    model: VaeConfig = VaeConfig(zero_output=True)
    likelihood: LikelihoodConfig = LikelihoodConfig(components=5)
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=1e-3, b2=0.999, weight_decay=0.0, warmup=50_000, clip=500.0
    )
    intervals: Intervals = Intervals(log=50_000, evaluate=500_000, save=250_000)
    flip: bool = True
    images: int = 10_000_000


QUICK = Config(
    model=VaeConfig(latent=16, patch=4, widths=(64, 128), blocks=1, hidden=(256,), zero_output=True),
    data=GENERATION,
    likelihood=LikelihoodConfig(components=1, smallest=0.05),  # rendered shapes are flat but for the last bits
    optimizer=OptimizerConfig(name="adamw", lr=1e-3, b2=0.999, weight_decay=0.0, warmup=5_000, clip=500.0),
    bound=BoundConfig(importance=20, importance_images=500),
    intervals=Intervals(log=10_000, evaluate=50_000, save=50_000),
    flip=False,
    images=100_000,
    batch_size=32,
)
TINY = tiny(
    QUICK,
    model=replace(QUICK.model, resolution=16, latent=4, widths=(8,), hidden=(8,)),
    data=tiny_data(QUICK.data),
    bound=BoundConfig(importance=2, importance_images=8),
    metrics=replace(QUICK.metrics, features="none"),
    samples=4,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "beta_4": {"objective.beta": 4.0},
    "beta_quarter": {"objective.beta": 0.25},
    "free_bits": {"objective.free_bits": 0.1},
    "warmup": {"objective.warmup": 1_000_000},
    "importance": {"objective.importance": 5},
    "gaussian": {"likelihood.kind": "gaussian", "likelihood.smallest": None},
    "gaussian_learned": {"likelihood.kind": "gaussian_learned"},
    "one_logistic": {"likelihood.components": 1},
    "three_logistics": {"likelihood.components": 3},
    "noisy_output": {"model.zero_output": False},
    "no_flip": {"flip": False},
}


def build(config: Config) -> Experiment:
    """The recipe of variational autoencoders with the convolutional network."""
    coarsest = config.model.patch * 2 ** (len(config.model.widths) - 1)
    return vae(config, lambda outputs: Vae(config.model, outputs), rules=SHARDING_RULES, coarsest=coarsest)


if __name__ == "__main__":
    sys.exit(main("vae_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
