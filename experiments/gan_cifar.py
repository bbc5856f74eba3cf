r"""Adversarial networks of CIFAR-10, after Miyato et al. 2018 (SNGAN); others by options.

The defaults are the paper's residual networks without labels: hinge losses, spectral normalisation, Adam 2e-4 with
decays of 0 and 0.9 and the rate falling to 0, five steps of the discriminator on 64 images each for one of the
generator, 100,000 of those. The paper reports an Inception score of 8.22 and a Frechet distance of 21.7; this code has
not been run to that length. An average of the generator is added, images are flipped, and the generator's step has 64
images too where the paper has 128.

    python -m experiments.gan_cifar --quick      a small DCGAN of the shapes world, 6.6 minutes of CPU time
    python -m experiments.gan_cifar --data.dir ~/tensorflow_datasets           the recipe
    python -m experiments.gan_cifar --model.classes 10 --model.dtype bfloat16     with labels

Networks and losses after Huang et al. 2024 (R3GAN; not run), with constant penalties, augmentation, decays of Adam and
average in place of theirs that follow schedules, a rate that falls to 0 where theirs ends at a quarter, and penalties
of the slope at images that are augmented already; and a DCGAN, which after 640,000 images of CIFAR-10 re-encoded as
JPEG and 97 minutes on one CPU core has a generated class accuracy of 0.56 and a Fréchet distance of 1.56 in the
features of cifar10_v1; 640,000 images more (``--init-from``) bring 0.69 and 0.85 (test images 0.80 and 0.02):

    python -m experiments.gan_cifar --model.architecture r3gan --model.discriminator-norm none --model.classes 10 \
        --model.latent 64 --model.generator-width 768 --model.discriminator-width 768 --loss relativistic \
        --penalty.r1 0.05 --penalty.r2 0.05 --discriminator-steps 1 --batch-size 512 \
        --augmentation.parts colour translation cutout --augmentation.probability 0.3
    python -m experiments.gan_cifar --model.architecture dcgan --model.classes 10 --model.latent 128 \
        --model.generator-width 64 --model.discriminator-width 64 --batch-size 32 --discriminator-steps 1 \
        --generator-optimizer.lr 2e-4 --generator-optimizer.b1 0.5 --generator-optimizer.b2 0.999 \
        --discriminator-optimizer.lr 2e-4 --discriminator-optimizer.b1 0.5 --discriminator-optimizer.b2 0.999 \
        --images 640000 --intervals.evaluate 80000

CIFAR-10 itself: ``python -m vision.data.cifar10 --data-dir ~/tensorflow_datasets`` (170 MB, needs no TensorFlow).
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.models.gan.networks import GanConfig
from vision.recipes.adversarial import AdversarialConfig, AugmentationConfig, adversarial
from vision.recipes.quick_data import GENERATION, tiny, tiny_data
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import AdamConfig

ABOUT = About(
    task="adversarial networks",
    paper="Miyato et al. 2018, arXiv:1802.05957; Huang et al. 2024, arXiv:2501.05441",
    quick="7 minutes",
)


@dataclass(frozen=True, kw_only=True)
class Config(AdversarialConfig):
    """The recipe."""

    generator_optimizer: AdamConfig = AdamConfig(b1=0.0, b2=0.9, schedule="linear")
    discriminator_optimizer: AdamConfig = AdamConfig(b1=0.0, b2=0.9, schedule="linear")
    intervals: Intervals = Intervals(log=50_000, evaluate=1_000_000, save=500_000)
    images: int = 38_400_000
    batch_size: int = 64
    discriminator_steps: int = 5
    flip: bool = True


# a smaller kind, whose samples are recognisable after minutes on a CPU
QUICK = Config(
    model=GanConfig(architecture="dcgan", classes=36, latent=64, generator_width=32, discriminator_width=32),
    data=GENERATION,
    loss="non_saturating",
    generator_optimizer=AdamConfig(lr=3e-4, b1=0.5, schedule="linear"),
    discriminator_optimizer=AdamConfig(lr=3e-4, b1=0.5, schedule="linear"),
    intervals=Intervals(log=6_400, evaluate=80_000, save=40_000),
    images=160_000,
    batch_size=32,
    discriminator_steps=1,
    ema=0.998,
    flip=False,
    samples=72,
)
TINY = tiny(
    QUICK,
    model=replace(
        QUICK.model,
        architecture="sngan",
        resolution=16,
        classes=4,
        latent=4,
        generator_width=4,
        discriminator_width=4,
    ),
    data=tiny_data(QUICK.data),
    augmentation=AugmentationConfig(parts=("translation",), adaptive=True),
    metrics=replace(QUICK.metrics, features="none"),
    samples=4,
)

ABLATIONS: dict[str, dict[str, Any]] = {
    "minimax": {"loss": "minimax"},
    "non_saturating": {"loss": "non_saturating"},
    "least_squares": {"loss": "least_squares"},
    "wasserstein": {"loss": "wasserstein", "model.discriminator_norm": "none", "penalty.wasserstein": 10.0},
    "relativistic": {"loss": "relativistic", "penalty.r1": 0.1, "penalty.r2": 0.1, "discriminator_steps": 1},
    "no_norm": {"model.discriminator_norm": "none"},
    "r1": {"model.discriminator_norm": "none", "penalty.r1": 0.1},
    "r1_lazily": {"model.discriminator_norm": "none", "penalty.r1": 0.1, "penalty.every": 16},
    "augmented": {"augmentation.parts": ("colour", "translation", "cutout")},
    "adaptive": {
        "augmentation.parts": ("colour", "translation", "cutout"),
        "augmentation.adaptive": True,
    },
    "dcgan": {"model.architecture": "dcgan"},
    "r3gan": {
        "model.discriminator_norm": "none",
        "model.architecture": "r3gan",
        "loss": "relativistic",
        "penalty.r1": 0.1,
        "penalty.r2": 0.1,
    },
    "one_step": {"discriminator_steps": 1},
}


def build(config: Config) -> Experiment:
    """The recipe of adversarial networks."""
    return adversarial(config)


if __name__ == "__main__":
    sys.exit(main("gan_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
