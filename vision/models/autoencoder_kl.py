"""The autoencoder of Stable Diffusion, after Rombach et al. 2022, "Image Synthesis with Latent Diffusion Models".

The network of VQGAN (Esser et al. 2021) with a Gaussian latent in place of a codebook: residual blocks with group
normalisation, self-attention at the coarsest resolution, each halving of the sides a convolution with a stride of 2.
It has the layers of the published networks, whose weights ``vision/pretrained/autoencoder_kl.py`` reads.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key

from vision.errors import UserError
from vision.nn.attention import SelfAttention2d
from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.nn.latent import standard_normal
from vision.nn.norms import GroupNorm
from vision.nn.resample import upsample_nearest
from vision.ranges import Channels, Depth, NonNegativeInt


@dataclass(frozen=True)
class AutoencoderKlConfig:
    """The architecture of both networks. The defaults are those of Stable Diffusion 1 and 2: 83,653,863 parameters."""

    channels: Channels = 3
    """Channels of the image."""
    latent: Channels = 4
    """Channels of the grid of latents."""
    widths: Annotated[tuple[Channels, ...], MinLen(1)] = (128, 256, 512, 512)
    """Channels at each resolution; each further one halves the sides."""
    blocks: Depth = 2
    """Residual blocks at each resolution of the encoder; the decoder has one more."""
    groups: Depth = 32
    """Groups of normalised channels, a divisor of all widths."""
    attention: bool = True
    """Self-attention between the two blocks at the coarsest resolution."""
    encoder_attention: tuple[NonNegativeInt, ...] = ()
    """Levels, from 0 at the resolution of the image, at which each residual block of the encoder is followed by
    self-attention."""
    decoder_attention: tuple[NonNegativeInt, ...] = ()
    """The same for the decoder."""
    encoded_projection: bool = True
    """A linear layer between the encoder and the moments of the latent."""
    decoded_projection: bool = True
    """A linear layer between the latent and the decoder."""
    remat: bool = False
    """Recompute the inside of residual blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters and normalisation statistics stay float32."""

    @property
    def factor(self) -> int:
        """Pixels along the side of an image per latent."""
        return 2 ** (len(self.widths) - 1)


SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"(block_\d+|mid_[ab])/conv_in/kernel$", P(None, None, None, "tensor")),
    (r"(block_\d+|mid_[ab])/conv_out/kernel$", P(None, None, "tensor", None)),
)

LOG_VARIANCES = (-30.0, 20.0)
"""Log variances of the latent are clipped to this range, as the published networks do."""


class ResidualBlock(nn.Module):
    """norm, act, conv, norm, act, conv; a linear layer on the way past if widths differ."""

    channels: int
    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w channels"]:
        """Transform ``features``."""
        norm = partial(GroupNorm, groups=self.groups, least=1, dtype=self.dtype)
        hidden = Conv(self.channels, dtype=self.dtype, name="conv_in")(nn.silu(norm(name="norm_in")(features)))
        hidden = Conv(self.channels, dtype=self.dtype, name="conv_out")(nn.silu(norm(name="norm_out")(hidden)))
        if features.shape[-1] != self.channels:
            features = Dense(self.channels, dtype=self.dtype, name="skip")(features)
        return features + hidden


def _norm(config: AutoencoderKlConfig, name: str) -> GroupNorm:
    return GroupNorm(groups=config.groups, least=1, dtype=jnp.dtype(config.dtype), name=name)


def _block(config: AutoencoderKlConfig, width: int, name: str) -> nn.Module:
    kind = nn.remat(ResidualBlock) if config.remat else ResidualBlock
    return kind(width, config.groups, jnp.dtype(config.dtype), name=name)


def _attention(config: AutoencoderKlConfig, name: str) -> SelfAttention2d:
    return SelfAttention2d(
        norm=partial(_norm, config),
        dtype=jnp.dtype(config.dtype),
        out_init=nn.initializers.lecun_normal(),
        name=name,
    )


def _middle(config: AutoencoderKlConfig, hidden: Array) -> Array:
    """Two blocks at the coarsest resolution, with attention between them; called inside a compact method."""
    hidden = _block(config, hidden.shape[-1], "mid_a")(hidden)
    if config.attention:
        hidden = _attention(config, "mid_attention")(hidden)
    return _block(config, hidden.shape[-1], "mid_b")(hidden)


class Encoder(nn.Module):
    """From an image to the moments of its latent, before their projection."""

    config: AutoencoderKlConfig

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"]) -> Float[Array, "b H W moments"]:
        """For images in [-1, 1]."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        hidden = Conv(config.widths[0], dtype=dtype, name="stem")(image)
        for level, width in enumerate(config.widths):
            for index in range(config.blocks):
                hidden = _block(config, width, f"down_{level}_block_{index}")(hidden)
                if level in config.encoder_attention:
                    hidden = _attention(config, f"down_{level}_attention_{index}")(hidden)
            if level < len(config.widths) - 1:
                # zeros only below and to the right
                halve = Conv(width, strides=2, padding=((0, 1), (0, 1)), dtype=dtype, name=f"down_{level}_halve")
                hidden = halve(hidden)
        hidden = nn.silu(_norm(config, "norm")(_middle(config, hidden)))
        return Conv(2 * config.latent, dtype=dtype, name="head")(hidden)


class Decoder(nn.Module):
    """From a projected latent to an image."""

    config: AutoencoderKlConfig

    @nn.compact
    def __call__(self, latent: Float[Array, "b H W d"]) -> Float[Array, "b h w c"]:
        """Images of about [-1, 1]."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        hidden = _middle(config, Conv(config.widths[-1], dtype=dtype, name="stem")(latent))
        for level in reversed(range(len(config.widths))):
            for index in range(config.blocks + 1):
                hidden = _block(config, config.widths[level], f"up_{level}_block_{index}")(hidden)
                if level in config.decoder_attention:
                    hidden = _attention(config, f"up_{level}_attention_{index}")(hidden)
            if level > 0:
                double = Conv(config.widths[level], dtype=dtype, name=f"up_{level}_double")
                hidden = double(upsample_nearest(hidden))
        return Conv(config.channels, dtype=dtype, name="head")(nn.silu(_norm(config, "norm")(hidden)))


class AutoencoderKl(nn.Module):
    """Encoder, Gaussian latent, decoder. Raises ``UserError`` where groups do not divide a width."""

    config: AutoencoderKlConfig = AutoencoderKlConfig()

    def setup(self):
        """Create both networks and the projections between them and the latent."""
        config = self.config
        if unfitting := [width for width in config.widths if width % config.groups]:
            raise UserError(f"{unfitting[0]} channels cannot be divided into {config.groups} groups: choose a divisor")
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        if config.encoded_projection:
            self.to_moments = Dense(2 * config.latent)
        if config.decoded_projection:
            self.from_latent = Dense(config.latent)

    def __call__(self, image: Float[Array, "b h w c"], *, key: Key[Array, ""]) -> Float[Array, "b h w c"]:
        """The image decoded from a latent that ``key`` samples; images are float32 in [-1, 1]."""
        mean, log_variance = self.encode(image)
        return self.decode(mean + jnp.exp(0.5 * log_variance) * standard_normal(mean.shape, key=key))

    def encode(self, image: Float[Array, "b h w c"]) -> tuple[Float[Array, "b H W d"], Float[Array, "b H W d"]]:
        """Mean and log variance of the latent, float32.

        Images are float32 in [-1, 1], with sides that are multiples of ``factor``.
        """
        moments = self.encoder(image).astype(jnp.float32)
        if self.config.encoded_projection:
            moments = self.to_moments(moments)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCES)

    def decode(self, latent: Float[Array, "b H W d"]) -> Float[Array, "b h w c"]:
        """The image of a latent, float32 of about [-1, 1]."""
        if self.config.decoded_projection:
            latent = self.from_latent(latent)
        return self.decoder(latent).astype(jnp.float32)
