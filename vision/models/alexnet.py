"""The convolutions of AlexNet: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks".

Five convolutions with ReLUs, without the dense layers: features for perceptual distances (Zhang et al. 2018).
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.errors import UserError
from vision.nn.convolution import Conv
from vision.nn.initializers import he_fan_out
from vision.ranges import Channels

SMALLEST = 31
"""Sides of the smallest image that has a pixel left after both pools."""
_SIZES = (11, 5, 3, 3, 3)
_POOLED = (2, 3)  # convolutions before which the resolution is halved


@dataclass(frozen=True)
class AlexNetConfig:
    """The architecture of the features."""

    widths: tuple[Channels, Channels, Channels, Channels, Channels] = (64, 192, 384, 256, 256)
    """Channels of each convolution, at least 1."""
    channels: Channels = 3
    """Channels of the image, at least 1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters stay float32."""


ALEXNET = AlexNetConfig()

SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"conv_[24]/kernel$", P(None, None, None, "tensor")),
    (r"conv_[24]/bias$", P("tensor")),
    (r"conv_[35]/kernel$", P(None, None, "tensor", None)),
)


class AlexNetFeatures(nn.Module):
    """The activations of all convolutions."""

    config: AlexNetConfig = AlexNetConfig()

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> tuple[Float[Array, "b _ _ _"], ...]:
        """What follows each of the five ReLUs, the finest first; strides 4, 8, 16, 16 and 16.

        Args:
          image: images of about zero mean and unit variance.
          train: without effect.

        Raises:
          UserError: images of fewer than 31 pixels on a side.
        """
        del train
        if min(image.shape[1:3]) < SMALLEST:
            raise UserError(
                f"images of {image.shape[1]}x{image.shape[2]} pixels are too small for AlexNet: choose images of at "
                f"least {SMALLEST} pixels"
            )
        dtype = jnp.dtype(self.config.dtype)
        found = []
        hidden = image
        for number, (width, size) in enumerate(zip(self.config.widths, _SIZES, strict=True), start=1):
            if number in _POOLED:
                hidden = nn.max_pool(hidden, (3, 3), (2, 2))
            stride = 4 if number == 1 else 1
            padding = 2 if number == 1 else None
            conv = Conv(width, size, stride, padding, kernel_init=he_fan_out, dtype=dtype, name=f"conv_{number}")
            hidden = nn.relu(conv(hidden))
            found.append(hidden)
        return tuple(found)
