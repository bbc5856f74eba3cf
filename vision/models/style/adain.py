"""Adaptive instance normalisation: Huang & Belongie 2017, "Arbitrary Style Transfer in Real-time".

A VGG that stays as it is encodes a photograph and a painting up to the first activations of a stage; the photograph's
channels get the painting's mean and deviation; a decoder that mirrors the encoder makes an image of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from vision.models.style.transformer import mirrored
from vision.models.vgg import VggConfig
from vision.nn.convolution import Conv
from vision.nn.initializers import he_fan_out
from vision.nn.resample import upsample_nearest

EPSILON = 1e-5
"""Added to variances."""


class ChannelStatistics(NamedTuple):
    """Means and deviations over pixels."""

    mean: Float[Array, "b 1 1 c"]
    deviation: Float[Array, "b 1 1 c"]


def channel_statistics(features: Float[Array, "b h w c"]) -> ChannelStatistics:
    """Mean and deviation of each channel over the pixels of each image (eq. 6 and 7)."""
    mean = features.mean((1, 2), keepdims=True)
    variance = jnp.square(features - mean).mean((1, 2), keepdims=True)
    return ChannelStatistics(mean, jnp.sqrt(variance + EPSILON))


def adain(
    features: Float[Array, "b h w c"],
    style: ChannelStatistics,
    *,
    own: ChannelStatistics | None = None,
) -> Float[Array, "b h w c"]:
    """Features with the mean and deviation of a style (eq. 8).

    Args:
      features: of the photograph.
      style: of the painting.
      own: statistics of the photograph, for a tile of it; None for those of ``features``.
    """
    own = channel_statistics(features) if own is None else own
    return style.deviation * (features - own.mean) / own.deviation + style.mean


def blended(
    features: Float[Array, "b h w c"],
    styles: Sequence[ChannelStatistics],
    weights: Float[Array, "b h w s"],
    *,
    alpha: float | Array = 1.0,
    own: ChannelStatistics | None = None,
) -> Float[Array, "b h w c"]:
    """A mixture of several styles at each pixel, and of the photograph itself: section 7.1, eq. 14 and 15.

    Args:
      features: of the photograph.
      styles: of each painting.
      weights: of the paintings at each pixel, not negative; divided by their sum, which is not 0.
      alpha: 1 for the styles alone, 0 for the photograph.
      own: see :func:`adain`.
    """
    share = weights / weights.sum(-1, keepdims=True)
    parts = [share[..., [n]] * adain(features, style, own=own) for n, style in enumerate(styles)]
    return alpha * sum(parts[1:], parts[0]) + (1.0 - alpha) * features


@dataclass(frozen=True)
class AdainDecoderConfig:
    """The decoder, whose shape is the encoder's."""

    encoder: VggConfig
    stage: int
    """The stage at whose first activations the encoder ends, at least 2."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; parameters and the image stay float32."""


SHARDING_RULES: tuple[tuple[str, P], ...] = ((r"conv_\d+_[02468]/kernel$", P(None, None, None, "tensor")),)


class AdainDecoder(nn.Module):
    """From features to an image: the encoder's convolutions in reverse, nearest neighbours in place of pools."""

    config: AdainDecoderConfig

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W 3"]:
        """The images, float32 of about [0, 1].

        Args:
          features: the first activations of the encoder's last stage.
          train: without effect.
        """
        del train
        config = self.config
        depths, widths, dtype = config.encoder.depths, config.encoder.widths, jnp.dtype(config.dtype)
        conv = lambda width, name, dtype: Conv(width, padding=0, kernel_init=he_fan_out, dtype=dtype, name=name)
        hidden: Any = features
        for stage in range(config.stage - 1, 0, -1):
            hidden = nn.relu(conv(widths[stage - 1], f"conv_{stage}_0", dtype)(mirrored(hidden, 1)))
            hidden = upsample_nearest(hidden)
            for number in range(1, depths[stage - 1]):
                hidden = nn.relu(conv(widths[stage - 1], f"conv_{stage}_{number}", dtype)(mirrored(hidden, 1)))
        return conv(3, "conv_last", jnp.float32)(mirrored(hidden.astype(jnp.float32), 1)) + 0.5
