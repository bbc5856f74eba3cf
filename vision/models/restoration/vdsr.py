"""VDSR: Kim et al. 2016, "Accurate Image Super-Resolution Using Very Deep Convolutional Networks" (arXiv:1511.04587).

Twenty convolutions predict the difference between an image and its bicubic enlargement; one network serves all scales.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.models.restoration.scales import Scale, enlarged
from vision.nn.convolution import Conv
from vision.nn.initializers import he_fan_out
from vision.ranges import Channels, Depth


@dataclass(frozen=True)
class VdsrConfig:
    """The architecture of a VDSR. The defaults are the paper's, for luma."""

    depth: Depth = 20
    """Convolutions, at least 2."""
    width: Channels = 64
    """Channels between them, at least 1."""
    channels: Channels = 1
    """Channels of the image, at least 1: 1 for luma."""
    use_bias: bool = True
    """Whether convolutions have a bias; some published weights have none."""
    scale: Scale = 1
    """How much images are enlarged before the network; 1 for those that are enlarged already. No parameter depends on
    it."""
    remat: bool = False
    """Recompute each convolution's activation in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters and the result are float32."""


VDSR = VdsrConfig()

SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"conv_\d*[13579]/kernel$", P(None, None, None, "tensor")),
    (r"conv_\d*[13579]/bias$", P("tensor")),
    (r"conv_\d*[02468]/kernel$", P(None, None, "tensor", None)),
)


class Vdsr(nn.Module):
    """Add detail to an image that is enlarged by bicubic interpolation."""

    config: VdsrConfig = VdsrConfig()

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W c"]:
        """The restored images, float32 of about [0, 1], ``config.scale`` times as large.

        Args:
          image: in [0, 1]; luma is that of ``vision.ops.ycbcr``.
          train: without effect.
        """
        del train
        config = self.config
        make = nn.remat(Conv) if config.remat else Conv
        conv = partial(make, use_bias=config.use_bias, kernel_init=he_fan_out, dtype=jnp.dtype(config.dtype))
        large = enlarged(image, config.scale)
        hidden = large
        for number in range(1, config.depth):
            hidden = nn.relu(conv(config.width, name=f"conv_{number}")(hidden))
        # training starts from the enlarged image
        last = conv(config.channels, kernel_init=nn.initializers.zeros, name=f"conv_{config.depth}")
        return large + last(hidden).astype(jnp.float32)
