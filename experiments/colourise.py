"""Colourise grey images, after Zhang et al. 2016, "Colorful Image Colorization", the example of docs/new_task.md.

A UNet sees the luma and predicts the colours by the absolute error; the paper classifies quantised colours. The quick
version reaches 24.2 dB in 2 minutes on two CPU cores.

    python -m experiments.colourise --quick                              the shapes world, on a laptop
    python -m experiments.colourise --data.dir ~/tensorflow_datasets     CIFAR-10
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import optax

from vision.data.image_data import image_data
from vision.launch.about import About
from vision.launch.run import main
from vision.models.unet import SHARDING_RULES, UNet, UNetConfig
from vision.nn.conditioning import check_data_conditions
from vision.ops.colour import greyscale
from vision.ops.pixels import to_uint8
from vision.recipes.preprocessing import scaled
from vision.recipes.quick_data import tiny, tiny_data
from vision.recipes.supervised import PSNR, QUICK_SUPERVISED, SupervisedRunConfig, absolute_error, supervised
from vision.train.experiment import Experiment
from vision.train.optimizer import learning_rate

ABOUT = About(task="restoration", paper="Zhang et al. 2016", quick="2 min")


@dataclass(frozen=True, kw_only=True)
class Config(SupervisedRunConfig):
    """The recipe."""

    model: UNetConfig = UNetConfig(width=64, multipliers=(1, 2, 4), attention=(), channels=1, out_channels=3)


SMALL = UNetConfig(width=32, multipliers=(1, 2), blocks=1, attention=(), patch=2, channels=1, out_channels=3)
QUICK = Config(model=SMALL, **QUICK_SUPERVISED)
TINY = tiny(QUICK, model=replace(SMALL, width=8, multipliers=(1,)), data=tiny_data(QUICK.data))
ABLATIONS: dict[str, dict[str, Any]] = {"half_width": {"model.width": 16}, "no_flip": {"flip": False}}


def build(config: Config) -> Experiment:
    """The recipe of supervised networks, from luma to colours."""
    grey = lambda batch: greyscale(batch["image"])
    check_data_conditions(config.model, available=())
    return supervised(
        config,
        UNet(config.model),
        max_pixels=config.data.max_pixels,
        network=lambda model, batch, *, train: model(grey(batch), jnp.zeros(len(batch["image"])), {}, train=train),
        data=image_data(config.data, classes=0, channels=3),
        preprocess=scaled(flip=config.flip),
        loss=absolute_error,
        optimizer=optax.adam(learning_rate(config.optimizer, steps=config.steps, batch_size=config.batch_size)),
        metrics={"psnr": PSNR},
        images=lambda output, batch: {
            name: to_uint8(image)
            for name, image in (("grey", grey(batch)), ("output", output), ("true", batch["image"]))
        },
        rules=SHARDING_RULES,
    )


if __name__ == "__main__":
    sys.exit(main("colourise", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
