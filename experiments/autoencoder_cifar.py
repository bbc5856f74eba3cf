"""Autoencoders that compress images for latent models, after van den Oord et al. 2017 (VQ-VAE) and Rombach et al. 2022.

A codebook that follows by averages (arXiv:1711.00937), or Gaussian codes with a small penalty (arXiv:2112.10752): with
the defaults 32x32 pixels become 8x8 codes out of 512, 72 bytes in place of 3,072. What is minimised is the error of
pixels; a perceptual loss in the features of a network of yours and a discriminator of patches are options.

    python -m experiments.autoencoder_cifar --quick          the shapes world: 25.4 dB, 1 minute of CPU time
    python -m experiments.autoencoder_cifar --data.dir ~/tensorflow_datasets        CIFAR-10
    python -m experiments.autoencoder_cifar --model.bottleneck kl --model.latent 4
    python -m experiments.autoencoder_cifar --quick --data.resolution 64 --model.bottleneck kl --model.latent 4 \
      --model.patch 2 --model.widths 32 64 --images 80000       16x16x4 latents for diffusion: 31.4 dB
    python -m experiments.autoencoder_cifar --loss.adversarial 0.1 --loss.perceptual 1 --perceptual.weights runs/resnet
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.launch.about import About
from vision.launch.run import main
from vision.models.autoencoder import AutoencoderConfig
from vision.recipes.autoencoder import AutoencoderRunConfig, autoencoder
from vision.recipes.quick_data import GENERATION, tiny, tiny_data
from vision.train.experiment import Experiment, Intervals

ABOUT = About(
    task="autoencoders",
    paper="van den Oord et al. 2017, arXiv:1711.00937; Rombach et al. 2022, arXiv:2112.10752",
    quick="1 minute",
)


@dataclass(frozen=True, kw_only=True)
class Config(AutoencoderRunConfig):
    """The recipe."""

    intervals: Intervals = Intervals(log=20_000, evaluate=250_000, save=100_000)


QUICK = Config(
    model=AutoencoderConfig(codes=256, latent=32, patch=4, widths=(64,), blocks=1, attention=False),
    data=GENERATION,
    intervals=Intervals(log=5_000, evaluate=20_000, save=20_000),
    flip=False,
    images=40_000,
    batch_size=64,
)
TINY = tiny(QUICK, model=replace(QUICK.model, widths=(8,), codes=8), data=tiny_data(QUICK.data), evaluation_batch=16)

ABLATIONS: dict[str, dict[str, Any]] = {
    "kl": {"model.bottleneck": "kl", "model.latent": 4},
    "l2": {"loss.pixels": "l2"},
    "small_codebook": {"model.codes": 64},
    "large_codebook": {"model.codes": 4096},
    "never_revived": {"model.dead_below": 0.0},
    "adversarial": {"loss.adversarial": 0.1},
    "no_attention": {"model.attention": False},
}


def build(config: Config) -> Experiment:
    """The recipe of autoencoders."""
    return autoencoder(config)


if __name__ == "__main__":
    sys.exit(main("autoencoder_cifar", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
