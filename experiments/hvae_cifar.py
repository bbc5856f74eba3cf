"""A hierarchical variational autoencoder of colour images, a few groups deep, after Child 2021, arXiv:2011.10650.

"Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images". The likelihood is that of
``experiments.vae_cifar``, and so is the unit, bits per dimension. The paper's network for CIFAR-10, of 45 groups and
39 M parameters, reaches 2.87; this code has not been run at that size.

    python -m experiments.hvae_cifar --quick    the shapes world: 6.04 bits in 6.4 minutes of CPU time, figures are grey
    python -m experiments.hvae_cifar --data.dir ~/tensorflow_datasets     CIFAR-10
    python -m experiments.hvae_cifar --model.groups 2 4 8 12 --model.width 256       deeper
"""

import itertools
import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.errors import UserError
from vision.evaluation.vae import BoundConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.hvae import SHARDING_RULES, Hvae, HvaeConfig
from vision.recipes.quick_data import GENERATION, tiny, tiny_data
from vision.recipes.vae import VaeRunConfig, vae
from vision.tasks.likelihood import LikelihoodConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="variational autoencoders", paper="Child 2021, arXiv:2011.10650", quick="7 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(VaeRunConfig):
    """The recipe."""

    model: HvaeConfig = HvaeConfig()
    likelihood: LikelihoodConfig = LikelihoodConfig(components=5)
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=1e-3, b2=0.99, weight_decay=0.0, warmup=50_000, clip=500.0
    )
    intervals: Intervals = Intervals(log=50_000, evaluate=500_000, save=250_000)
    flip: bool = True
    images: int = 10_000_000


QUICK = Config(
    model=HvaeConfig(groups=(1, 1, 1, 1), width=32),
    data=GENERATION,
    likelihood=LikelihoodConfig(components=1, smallest=0.05),  # rendered shapes are flat but for the last bits
    optimizer=OptimizerConfig(name="adamw", lr=1e-3, b2=0.99, weight_decay=0.0, warmup=5_000, clip=500.0),
    bound=BoundConfig(importance=20, importance_images=500),
    intervals=Intervals(log=10_000, evaluate=50_000, save=50_000),
    flip=False,
    images=100_000,
    batch_size=32,
)
TINY = tiny(
    QUICK,
    model=replace(QUICK.model, resolution=16, latent=4, sides=(2, 8), groups=(1, 1), width=8),
    data=tiny_data(QUICK.data),
    bound=BoundConfig(importance=2, importance_images=8),
    metrics=replace(QUICK.metrics, features="none"),
    samples=4,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "two_groups_a_side": {"model.groups": (2, 2, 2, 2)},
    "no_coarse_groups": {"model.sides": (8, 16), "model.groups": (3, 4)},
    "free_bits": {"objective.free_bits": 1.0},
    "warmup": {"objective.warmup": 1_000_000},
    "one_logistic": {"likelihood.components": 1},
    "gaussian_learned": {"likelihood.kind": "gaussian_learned"},
}


def build(config: Config) -> Experiment:
    """The recipe of variational autoencoders with the ladder of groups."""
    sides, model = config.model.sides, config.model
    steps = [later / earlier for earlier, later in itertools.pairwise(sides)]
    if not sides or len(sides) != len(model.groups) or any(step not in (2, 4, 8, 16) for step in steps):
        raise UserError(
            "model.sides grow by a power of two from each to the next, and model.groups has a number for each"
        )
    if sides[-1] * model.patch != model.resolution or min(model.groups) < 1:
        raise UserError(
            f"the last of model.sides is model.resolution / model.patch, {model.resolution / model.patch:g} and not "
            f"{sides[-1]}; model.groups are at least 1"
        )
    return vae(config, lambda outputs: Hvae(model, outputs), rules=SHARDING_RULES, coarsest=model.patch)


if __name__ == "__main__":
    sys.exit(main("hvae_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
