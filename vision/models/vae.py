"""The variational autoencoder of Kingma & Welling 2014, "Auto-Encoding Variational Bayes", with convolutions.

Two networks: the encoder infers the latent z of an image, q(z|x) = N(mean, exp(log_variance)); the decoder returns the
parameters of p(x|z), the distribution of images with the latent z (``vision/tasks/likelihood.py``). The prior p(z) is
N(0, I). Residual blocks without normalisation at each resolution, then dense layers to the latent; the decoder has the
reversed architecture. With ``blocks`` 0 and a patch as large as the image it is the perceptron of the paper.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.nn.latent import Inferred, gaussian_kl, gaussian_log_density, standard_normal
from vision.nn.resample import depth_to_space, space_to_depth, upsample_nearest
from vision.ranges import Channels, NoneOrMoreBlocks, Pixels


@dataclass(frozen=True)
class VaeConfig:
    """The architecture of both networks. The defaults are for 32x32 colour images."""

    latent: Channels = 128
    """Dimensions of the latent."""
    resolution: Pixels = 32
    """Size of the images in pixels."""
    channels: Channels = 3
    """Channels of the image."""
    patch: Pixels = 2
    """Size of the squares of pixels that are first folded into channels."""
    widths: Annotated[tuple[Channels, ...], MinLen(1)] = (64, 128)
    """Channels at each resolution; each further one halves the sides."""
    blocks: NoneOrMoreBlocks = 2
    """Residual blocks at each resolution, in the encoder and in the decoder."""
    hidden: tuple[Channels, ...] = (512,)
    """Widths of the dense layers between feature maps and latent."""
    zero_output: bool = False
    """Initialise the decoder's last layer to 0. Otherwise it starts as noise that varies between pixels, which training
    removes only for the latents of images and not for those between."""

    @property
    def coarsest(self) -> int:
        """Size of the feature maps that the dense layers see."""
        return self.resolution // (self.patch * 2 ** (len(self.widths) - 1))


# The first of two layers is split over its outputs, the second over its inputs (Shoeybi et al. 2019).
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+_\d+/conv_in/kernel$", P(None, None, None, "tensor")),
    (r"block_\d+_\d+/conv_out/kernel$", P(None, None, "tensor", None)),
)

fan_in = nn.initializers.he_normal()
Conv3x3 = partial(Conv, winograd=True, kernel_init=fan_in)


class ResidualBlock(nn.Module):
    """act, conv, act, conv, and a residual connection; initially the identity."""

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Transform ``features``."""
        channels = features.shape[-1]
        hidden = Conv3x3(channels, name="conv_in")(nn.silu(features))
        # no normalisation: with the last layer at zero the network is shallow at first (Child 2021, section 3.3)
        return features + Conv3x3(channels, kernel_init=nn.initializers.zeros, name="conv_out")(nn.silu(hidden))


class Encoder(nn.Module):
    """From an image to the mean and the log variance of its latent."""

    config: VaeConfig

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"]) -> tuple[Float[Array, "b z"], Float[Array, "b z"]]:
        """For images in [-1, 1]; log variances are in nats."""
        config = self.config
        hidden = Dense(config.widths[0], kernel_init=fan_in, name="stem")(space_to_depth(image, config.patch))
        for level, width in enumerate(config.widths):
            if level:
                hidden = Dense(width, kernel_init=fan_in, name=f"down_{level}")(space_to_depth(hidden, 2))
            for index in range(config.blocks):
                hidden = ResidualBlock(name=f"block_{level}_{index}")(hidden)
        hidden = nn.silu(hidden).reshape(hidden.shape[0], -1)
        for index, width in enumerate(config.hidden):
            hidden = nn.silu(Dense(width, kernel_init=fan_in, name=f"dense_{index}")(hidden))
        mean = Dense(config.latent, name="mean")(hidden)
        # the variance is initially 1, that of the prior
        return mean, Dense(config.latent, kernel_init=nn.initializers.zeros, name="log_variance")(hidden)


class Decoder(nn.Module):
    """From a latent to the parameters of the likelihood at each pixel."""

    config: VaeConfig
    outputs: int

    @nn.compact
    def __call__(self, code: Float[Array, "b z"]) -> Float[Array, "b h w outputs"]:
        """Run the network."""
        config, side, hidden = self.config, self.config.coarsest, code
        for index, width in reversed(list(enumerate(config.hidden))):
            hidden = nn.silu(Dense(width, kernel_init=fan_in, name=f"dense_{index}")(hidden))
        hidden = Dense(side * side * config.widths[-1], kernel_init=fan_in, name="unflatten")(hidden)
        hidden = hidden.reshape(-1, side, side, config.widths[-1])
        for level, width in reversed(list(enumerate(config.widths))):
            for index in range(config.blocks):
                hidden = ResidualBlock(name=f"block_{level}_{index}")(hidden)
            if level:
                width = config.widths[level - 1]
                hidden = Dense(width, kernel_init=fan_in, name=f"up_{level}")(upsample_nearest(hidden))
        start = nn.initializers.zeros if config.zero_output else nn.initializers.lecun_normal()
        pixels = Dense(config.patch**2 * self.outputs, kernel_init=start, name="pixels")
        return depth_to_space(pixels(nn.silu(hidden)), config.patch)


class Vae(nn.Module):
    """Encoder and decoder; ``outputs`` is the number of parameters of the likelihood per pixel."""

    config: VaeConfig
    outputs: int

    def setup(self):
        """Create both networks."""
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config, self.outputs)

    def __call__(self, image: Float[Array, "b h w c"], *, key: Key[Array, ""]) -> Inferred:
        """A latent of each image, sampled from q(z|x), and the decoder's output.

        Args:
          image: float32 in [-1, 1].
          key: for sampling.
        """
        mean, log_variance = self.encoder(image)
        # Kingma & Welling 2014, eq. 4: the sample as a differentiable function of mean and variance
        code = mean + jnp.exp(0.5 * log_variance) * standard_normal(mean.shape, key=key)
        ratio = gaussian_log_density(code, mean, log_variance) - gaussian_log_density(code, 0.0, 0.0)
        return Inferred(self.decoder(code), gaussian_kl(mean, log_variance), ratio.sum(-1), code)

    def encode(self, image: Float[Array, "b h w c"]) -> tuple[Float[Array, "b z"], Float[Array, "b z"]]:
        """Mean and log variance of q(z|x)."""
        return self.encoder(image)

    def decode(self, code: Float[Array, "b z"]) -> Float[Array, "b h w outputs"]:
        """The parameters of p(x|z)."""
        return self.decoder(code)

    def sample(
        self, index: Int[Array, " n"], *, key: Key[Array, ""], temperature: float = 1.0
    ) -> Float[Array, "n h w outputs"]:
        """Parameters of the likelihood for latents from the prior, whose deviation is ``temperature``.

        Latent i is a function of (key, index[i]).
        """
        return self.decoder(temperature * standard_normal((len(index), self.config.latent), key=key, index=index))
