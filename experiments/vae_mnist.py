"""A variational autoencoder of binarised MNIST, after Kingma & Welling 2014, "Auto-Encoding Variational Bayes".

Pixels are black or white, sampled at each step with the grey value as probability ("dynamically binarised"); the bound
is in nats an image.

    python -m experiments.vae_mnist --quick                              the shapes world, a minute
    python -m experiments.vae_mnist --data.dir ~/tensorflow_datasets     MNIST: 88.1 nats in 40 minutes of CPU time

The bound is 93.8 nats after 680,000 images, 4.4 minutes of CPU time (``--images 680000``), and 89.5 after 2,700,000.

MNIST is prepared by ``tfds build mnist --file_format=array_record``, which needs TensorFlow once; training never does.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.dataset import DataConfig
from vision.data.shapes.world import ShapesConfig
from vision.evaluation.vae import BoundConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.vae import SHARDING_RULES, Vae, VaeConfig
from vision.recipes.quick_data import SHAPES, tiny, tiny_data
from vision.recipes.vae import Binarisation, VaeRunConfig, vae
from vision.tasks.likelihood import LikelihoodConfig
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="variational autoencoders", paper="Kingma & Welling 2014, arXiv:1312.6114", quick="1 minute")


@dataclass(frozen=True, kw_only=True)
class Config(VaeRunConfig):
    """The recipe."""

    model: VaeConfig = VaeConfig(latent=40, resolution=28, channels=1, patch=4, widths=(32,), blocks=1, hidden=(512,))
    data: DataConfig = DataConfig(name="mnist", resolution=28)
    likelihood: LikelihoodConfig = LikelihoodConfig(kind="bernoulli")
    binarise: Binarisation = "dynamic"
    optimizer: OptimizerConfig = OptimizerConfig(
        name="adamw", lr=2e-3, b2=0.999, weight_decay=0.0, warmup=25_000, clip=200.0
    )
    intervals: Intervals = Intervals(log=50_000, evaluate=2_100_000, save=250_000)
    images: int = 6_300_000


# bright shapes on black, which stay what they are when pixels become black or white
QUICK = Config(
    model=VaeConfig(latent=16, resolution=28, channels=3, patch=4, widths=(32,), blocks=0, hidden=(256,)),
    data=DataConfig(
        name="shapes",
        resolution=28,
        shapes_count=20_000,
        shapes=ShapesConfig(shapes=SHAPES, colours=("yellow",), backgrounds=("solid",), dark_share=1.0, relief=0.0),
    ),
    optimizer=OptimizerConfig(name="adamw", lr=2e-3, b2=0.999, weight_decay=0.0, warmup=5_000, clip=200.0),
    intervals=Intervals(log=10_000, evaluate=50_000, save=50_000),
    bound=BoundConfig(importance_images=500),
    images=100_000,
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
    "warmup": {"objective.warmup": 1_000_000},
    "free_bits": {"objective.free_bits": 0.1},
    "capacity": {"objective.beta": 10.0, "objective.capacity": 20.0},
    "importance": {"objective.importance": 5},
    "static": {"binarise": "static"},
    "two_dimensions": {"model.latent": 2},
    "perceptron": {"model.patch": 28, "model.widths": (512,), "model.blocks": 0},
}


def build(config: Config) -> Experiment:
    """The recipe of variational autoencoders with the convolutional network."""
    coarsest = config.model.patch * 2 ** (len(config.model.widths) - 1)
    return vae(config, lambda outputs: Vae(config.model, outputs), rules=SHARDING_RULES, coarsest=coarsest)


if __name__ == "__main__":
    sys.exit(main("vae_mnist", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
