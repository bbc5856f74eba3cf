"""DnCNN: Zhang et al. 2017, "Beyond a Gaussian Denoiser" (arXiv:1608.03981): a network that predicts the noise."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.nn.batch_norm import batch_norm
from vision.nn.convolution import Conv
from vision.nn.initializers import he_fan_out
from vision.ranges import Channels, Depth, PositiveFloat


@dataclass(frozen=True)
class DncnnConfig:
    """The architecture of a DnCNN. The defaults are those of the published weights of DnCNN-S, for grey images."""

    depth: Depth = 17
    """Convolutions, at least 2: 17 for one level of noise (DnCNN-S), 20 for all (DnCNN-B, DnCNN-3)."""
    width: Channels = 64
    """Channels between them, at least 1."""
    channels: Channels = 1
    """Channels of the image, at least 1."""
    norm: bool = False
    """Whether all convolutions but the first and the last have a batch normalisation, with which the paper trains. In
    published weights it is often part of the convolutions."""
    norm_epsilon: PositiveFloat = 1e-5
    """What is added to variances, above 0; 1e-4 in the implementation KAIR."""
    use_bias: bool = True
    """Whether convolutions have a bias."""
    remat: bool = False
    """Recompute each convolution's activation in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters and the result are float32."""


DNCNN_S = DncnnConfig()
DNCNN_B = DncnnConfig(depth=20)
DNCNN_B_COLOUR = DncnnConfig(depth=20, channels=3)
DNCNN_TRAINING = DncnnConfig(norm=True, use_bias=False)

SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"conv_\d*[13579]/kernel$", P(None, None, None, "tensor")),
    (r"conv_\d*[02468]/kernel$", P(None, None, "tensor", None)),
)


class Dncnn(nn.Module):
    """Remove noise from an image."""

    config: DncnnConfig = DncnnConfig()

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """The denoised images, float32 of about [0, 1].

        Args:
          image: in [0, 1], with noise.
          train: whether batch normalisation, where there is one, normalises by the batch and updates its statistics.
        """
        config = self.config
        dtype = jnp.dtype(config.dtype)
        make = nn.remat(Conv) if config.remat else Conv
        conv = partial(make, use_bias=config.use_bias, kernel_init=he_fan_out, dtype=dtype)
        norm = partial(batch_norm, train=train, epsilon=config.norm_epsilon, dtype=dtype)
        hidden = nn.relu(conv(config.width, name="conv_1")(image))
        for number in range(2, config.depth):
            hidden = conv(config.width, name=f"conv_{number}")(hidden)
            if config.norm:
                hidden = norm(name=f"norm_{number}")(hidden)
            hidden = nn.relu(hidden)
        # training starts from the image itself: noise of He's initialisation would be larger than the image
        last = conv(config.channels, kernel_init=nn.initializers.zeros, name=f"conv_{config.depth}")
        return image - last(hidden).astype(jnp.float32)
