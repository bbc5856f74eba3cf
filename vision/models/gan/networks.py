"""Generators and discriminators of adversarial networks: one configuration, three architectures.

``dcgan`` is Radford et al. 2016, ``sngan`` Miyato et al. 2018, ``r3gan`` Huang et al. 2024; see the other modules of
this package. A generator is a module (latent [b z], label [b] or None, train=...) -> image [b h w c] around [-1, 1], a
discriminator (image, label or None, train=...) -> logits [b].
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from vision.errors import UserError
from vision.models.gan.dcgan import DcganDiscriminator, DcganGenerator, Normalisation, halvings
from vision.models.gan.r3gan import R3ganDiscriminator, R3ganGenerator
from vision.models.gan.sngan import SnganDiscriminator, SnganGenerator
from vision.ranges import Channels, Depth, NoneOrMoreClasses, Pixels


@dataclass(frozen=True)
class GanConfig:
    """Both networks. The defaults are Miyato et al. 2018 for CIFAR-10 without classes."""

    architecture: Literal["dcgan", "sngan", "r3gan"] = "sngan"
    """Radford et al. 2016, Miyato et al. 2018, or Huang et al. 2024."""
    resolution: Pixels = 32
    """Size of the images; it is halved while it is even and at least 4 after halving."""
    channels: Channels = 3
    """Channels of the images."""
    classes: NoneOrMoreClasses = 0
    """Number of classes; 0 for networks without labels."""
    latent: Channels = 128
    """Dimensions of the latent."""
    generator_width: Channels = 256
    """Channels of the generator: of all layers, or, of ``dcgan``, before the last doubling."""
    discriminator_width: Channels = 128
    """Channels of the discriminator: of all layers, or, of ``dcgan``, after the first halving."""
    discriminator_norm: Normalisation = "spectral"
    """Normalisation in the discriminator: ``batch`` (Radford et al.), ``spectral`` (Miyato et al.) or ``none``."""
    blocks: Depth = 2
    """Residual blocks per resolution, of ``r3gan``."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters and normalisation statistics stay float32."""

    def __post_init__(self):
        if self.architecture == "r3gan" and self.discriminator_norm != "none":
            raise UserError(
                "the architecture r3gan has no normalisation: set --model.discriminator-norm none, or choose another "
                "--model.architecture"
            )
        if halvings(self.resolution) < 1:
            raise UserError(f"model.resolution must be even and at least 8, not {self.resolution}")
        if self.architecture == "r3gan" and (self.generator_width % 8 or self.discriminator_width % 8):
            raise UserError(
                "the architecture r3gan has groups of 16 channels in layers of twice the width: make "
                "model.generator_width and model.discriminator_width multiples of 8"
            )


# The first of two convolutions in a block is split by its outputs, the second by its inputs (Shoeybi et al. 2019).
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+/conv_in/kernel$", P(None, None, None, "tensor")),
    (r"block_\d+/conv_out/kernel$", P(None, None, "tensor", None)),
    (r"block_\d+/widen/kernel$", P(None, None, None, "tensor")),
    (r"block_\d+/narrow/kernel$", P(None, None, "tensor", None)),
    (r"(double|halve)_\d+/kernel$", P(None, None, None, "tensor")),
)


def generator(config: GanConfig) -> nn.Module:
    """The generator of a configuration."""
    pixels = {"resolution": config.resolution, "channels": config.channels}
    common = {"width": config.generator_width, "classes": config.classes, "dtype": jnp.dtype(config.dtype)}
    if config.architecture == "dcgan":
        return DcganGenerator(**pixels, **common)
    if config.architecture == "sngan":
        return SnganGenerator(**pixels, **common)
    return R3ganGenerator(**pixels, **common, blocks=config.blocks)


def discriminator(config: GanConfig) -> nn.Module:
    """The discriminator of a configuration."""
    common = {"width": config.discriminator_width, "classes": config.classes, "dtype": jnp.dtype(config.dtype)}
    if config.architecture == "dcgan":
        return DcganDiscriminator(**common, norm=config.discriminator_norm)
    if config.architecture == "sngan":
        return SnganDiscriminator(**common, norm=config.discriminator_norm)
    return R3ganDiscriminator(**common, blocks=config.blocks)
