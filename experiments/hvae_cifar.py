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
from dataclasses import dataclass
from typing import Any

from experiments.autoencoding import AutoencodingConfig, compose
from experiments.vae_cifar import QUICK as VAE_QUICK
from vision.errors import UserError
from vision.launch.about import About
from vision.launch.run import main
from vision.models.hvae import SHARDING_RULES, Hvae, HvaeConfig
from vision.tasks.likelihood import LikelihoodConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="variational autoencoders", paper="Child 2021, arXiv:2011.10650", quick="7 minutes")


@dataclass(frozen=True, kw_only=True)
class Config(AutoencodingConfig):
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
    data=VAE_QUICK.data,
    likelihood=VAE_QUICK.likelihood,
    optimizer=OptimizerConfig(name="adamw", lr=1e-3, b2=0.99, weight_decay=0.0, warmup=5_000, clip=500.0),
    bound=VAE_QUICK.bound,
    intervals=VAE_QUICK.intervals,
    flip=False,
    images=100_000,
    batch_size=32,
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
    """The recipe with the ladder of groups."""
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
    return compose(config, lambda outputs: Hvae(model, outputs), rules=SHARDING_RULES, coarsest=model.patch)


if __name__ == "__main__":
    sys.exit(main("hvae_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
