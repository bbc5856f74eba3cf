"""SRCNN: Dong et al. 2016, "Image Super-Resolution Using Deep Convolutional Networks" (arXiv:1501.00092).

Three convolutions of an image that bicubic interpolation has enlarged: patches, their non-linear mapping, the result.
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
from vision.ops.resize import pad
from vision.ranges import Channels


@dataclass(frozen=True)
class SrcnnConfig:
    """The architecture of an SRCNN. The defaults are the paper's 9-1-5 for luma."""

    middle: Literal[1, 3, 5] = 1
    """Side of the second convolution's kernels: 9-1-5, 9-3-5 or 9-5-5 (section 4.3.2)."""
    widths: tuple[Channels, Channels] = (64, 32)
    """Channels after the first and the second convolution, at least 1."""
    channels: Channels = 1
    """Channels of the image, at least 1: 1 for luma."""
    scale: Scale = 1
    """How much images are enlarged before the network; 1 for those that are enlarged already. No parameter depends on
    it."""
    border: Literal["edge", "constant"] = "edge"
    """How images are continued outside: by their border, as in the paper's evaluation, or by zeros before each
    convolution, as in PyTorch implementations."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters and the result are float32."""


SRCNN_915 = SrcnnConfig()
SRCNN_955 = SrcnnConfig(middle=5)

SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"conv_1/kernel$", P(None, None, None, "tensor")),
    (r"conv_1/bias$", P("tensor")),
    (r"conv_2/kernel$", P(None, None, "tensor", None)),
)

# Dong et al. 2016, section 3.3: a Gaussian of deviation 0.001
initial = nn.initializers.normal(0.001)


class Srcnn(nn.Module):
    """Restore an image that is enlarged by bicubic interpolation."""

    config: SrcnnConfig = SrcnnConfig()

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W c"]:
        """The restored images, float32 of about [0, 1], ``config.scale`` times as large.

        Args:
          image: in [0, 1]; luma is that of ``vision.ops.ycbcr``.
          train: without effect.
        """
        del train
        config = self.config
        conv = partial(Conv, kernel_init=initial, dtype=jnp.dtype(config.dtype))
        hidden = enlarged(image, config.scale)
        sizes = (9, config.middle, 5)
        padding = None
        if config.border == "edge":
            hidden = pad(hidden, sum(size // 2 for size in sizes), mode="edge")
            padding = "VALID"
        for number, (width, size) in enumerate(zip(config.widths, sizes, strict=False), start=1):
            hidden = nn.relu(conv(width, size, padding=padding, name=f"conv_{number}")(hidden))
        hidden = conv(config.channels, sizes[2], padding=padding, name="conv_3")(hidden)
        return hidden.astype(jnp.float32)
