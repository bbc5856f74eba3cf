"""The autoencoders of latent diffusion: a convolutional network with a narrow grid of latents.

After Esser et al. 2021 ("Taming Transformers") and Rombach et al. 2022 ("High-Resolution Image Synthesis with Latent
Diffusion Models", appendix G): residual blocks with group normalisation, halving the sides level by level; the latent
is either Gaussian with a small penalty on its divergence (KL) or quantised (VQ).
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from vision.nn.attention import SelfAttention2d
from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.nn.latent import gaussian_kl, standard_normal
from vision.nn.norms import GroupNorm
from vision.nn.resample import depth_to_space, space_to_depth, upsample_nearest
from vision.nn.vector_quantizer import VectorQuantizer
from vision.ranges import Channels, Decay, Fraction, NoneOrMoreBlocks, Pixels


@dataclass(frozen=True)
class AutoencoderConfig:
    """The architecture of encoder, bottleneck and decoder."""

    bottleneck: Literal["vq", "kl"] = "vq"
    """Latents from a codebook, or Gaussian ones."""
    codes: Channels = 512
    """Entries of the codebook."""
    latent: Channels = 64
    """Channels of the grid of latents; few for "kl" (4 in the paper)."""
    decay: Decay = 0.99
    """Decay of the codebook's exponential averages."""
    dead_below: Fraction = 0.1
    """Codes that are used less often per batch, on average, are restarted."""
    channels: Channels = 3
    """Channels of the image."""
    patch: Pixels = 2
    """Size of the squares of pixels that are first folded into channels."""
    widths: Annotated[tuple[Channels, ...], MinLen(1)] = (64, 128)
    """Channels at each resolution; each further one halves the sides."""
    blocks: NoneOrMoreBlocks = 2
    """Residual blocks at each resolution."""
    attention: bool = True
    """Self-attention at the coarsest resolution."""

    @property
    def factor(self) -> int:
        """Pixels along the side of an image per latent."""
        return self.patch * 2 ** (len(self.widths) - 1)


SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"block_\d+_\d+/conv_in/kernel$", P(None, None, None, "tensor")),
    (r"block_\d+_\d+/conv_out/kernel$", P(None, None, "tensor", None)),
)

fan_in = nn.initializers.he_normal()
Conv3x3 = partial(Conv, winograd=True, kernel_init=fan_in)


class Compressed(NamedTuple):
    """The output of the network for images."""

    image: Array
    """Reconstructions, float32 [b h w c], about [-1, 1]."""
    penalty: Array
    """"vq": the commitment loss; "kl": the divergence from N(0, I), in nats for each value of the image: float32 []."""
    statistics: dict[str, Array]
    """"vq": perplexity and usage; "kl": the deviation of the latents, by which latent diffusion divides them."""


class ResidualBlock(nn.Module):
    """norm, act, conv, norm, act, conv, and a residual connection."""

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Transform ``features``."""
        channels = features.shape[-1]
        hidden = Conv3x3(channels, name="conv_in")(nn.silu(GroupNorm(name="norm_in")(features)))
        hidden = nn.silu(GroupNorm(name="norm_out")(hidden))
        return features + Conv3x3(channels, kernel_init=nn.initializers.zeros, name="conv_out")(hidden)


class Encoder(nn.Module):
    """From an image to a grid of vectors."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b H W d"]:
        """For images in [-1, 1]."""
        config = self.config
        hidden = Dense(config.widths[0], kernel_init=fan_in, name="stem")(space_to_depth(image, config.patch))
        for level, width in enumerate(config.widths):
            if level:
                hidden = Dense(width, kernel_init=fan_in, name=f"down_{level}")(space_to_depth(hidden, 2))
            for index in range(config.blocks):
                hidden = ResidualBlock(name=f"block_{level}_{index}")(hidden)
        if config.attention:
            hidden = SelfAttention2d(norm=GroupNorm, name="attention")(hidden)
        outputs = config.latent * (2 if config.bottleneck == "kl" else 1)
        return Dense(outputs, name="to_codes")(nn.silu(GroupNorm(name="norm")(hidden)))


class Decoder(nn.Module):
    """From a grid of vectors to an image."""

    config: AutoencoderConfig

    @nn.compact
    def __call__(self, codes: Float[Array, "b H W d"]) -> Float[Array, "b h w c"]:
        """The inverse architecture of the encoder."""
        config = self.config
        hidden = Dense(config.widths[-1], kernel_init=fan_in, name="from_codes")(codes)
        if config.attention:
            hidden = SelfAttention2d(norm=GroupNorm, name="attention")(hidden)
        for level in reversed(range(len(config.widths))):
            for index in range(config.blocks):
                hidden = ResidualBlock(name=f"block_{level}_{index}")(hidden)
            if level:
                finer = config.widths[level - 1]
                hidden = Dense(finer, kernel_init=fan_in, name=f"up_{level}")(upsample_nearest(hidden))
        hidden = nn.silu(GroupNorm(name="norm")(hidden))
        return depth_to_space(Dense(config.patch**2 * config.channels, name="pixels")(hidden), config.patch)


class Autoencoder(nn.Module):
    """Encoder, bottleneck, decoder."""

    config: AutoencoderConfig

    def setup(self):
        """Create encoder, bottleneck and decoder."""
        config = self.config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        if config.bottleneck == "vq":
            self.quantizer = VectorQuantizer(config.codes, config.latent, config.decay, config.dead_below)

    def __call__(self, image: Float[Array, "b h w c"], *, key: Key[Array, ""], train: bool) -> Compressed:
        """Encode and decode.

        Args:
          image: float32 in [-1, 1].
          key: "kl": for sampling latents; "vq": for the choice of vectors for dead codes.
          train: whether to update the codebook; the collection "codebook" must then be mutable.
        """
        encoded = self.encoder(image)
        if self.config.bottleneck == "vq":
            found = self.quantizer(encoded, key=key, train=train)
            statistics = {"perplexity": found.perplexity, "usage": found.usage}
            return Compressed(self.decoder(found.vectors), found.commitment, statistics)
        mean, log_variance = jnp.split(encoded, 2, axis=-1)
        codes = mean + jnp.exp(0.5 * log_variance) * standard_normal(mean.shape, key=key)
        divergence = gaussian_kl(mean, log_variance).sum() / image.size
        return Compressed(self.decoder(codes), divergence, {"deviation": jnp.std(codes)})

    def encode(self, image: Float[Array, "b h w c"]) -> Float[Array, "b H W d"] | Int[Array, "b H W"]:
        """The latents without noise: the indices of the codebook, or the means."""
        encoded = self.encoder(image)
        if self.config.bottleneck == "vq":
            return self.quantizer(encoded, train=False).indices
        return jnp.split(encoded, 2, axis=-1)[0]

    def moments(self, image: Float[Array, "b h w c"]) -> Float[Array, "b H W m"]:
        """What latent diffusion takes: "kl": means, then log variances along the channels; "vq": codes as vectors."""
        encoded = self.encoder(image)
        return self.quantizer(encoded, train=False).vectors if self.config.bottleneck == "vq" else encoded

    def decode_vectors(self, latents: Float[Array, "b H W d"]) -> Float[Array, "b h w c"]:
        """The image of latents that are vectors; of a codebook each becomes its nearest code first.

        Rombach et al. 2022, section 3.1: the quantisation is a part of the decoder.
        """
        return self.decoder(self.quantizer(latents, train=False).vectors if self.config.bottleneck == "vq" else latents)

    def decode(self, codes: Float[Array, "b H W d"] | Int[Array, "b H W"]) -> Float[Array, "b h w c"]:
        """The image of latents in the form that ``encode`` returns."""
        return self.decoder(self.quantizer.lookup(codes) if self.config.bottleneck == "vq" else codes)
