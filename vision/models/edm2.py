"""The magnitude-preserving UNet of Karras et al. 2024 (arXiv:2312.02696, "EDM2"), configuration G.

The UNet of Dhariwal & Nichol 2021 without its normalisations of groups and its biases: layers keep the magnitude of
what they are given (``vision.nn.magnitude_preserving``). Encoder blocks normalise each pixel; attention compares
directions (cosine attention); residual branches and skip connections enter with a fixed share; the embedding of time
and class multiplies the features of a residual branch by 1 + gain * projection, with gains that start at 0; a channel
of ones concatenated to the image stands for biases.

The network is F of the preconditioned denoiser (Karras et al. 2022, "EDM"): it is given c_in x and c_noise, of unit
magnitude both, and predicts a target of unit magnitude. Train it with ``vision.train.step.projected(step,
normalised_weights)``: the learning rates of the paper are for weights of magnitude 1.

Further conditions than the class are not in the paper. A vector is projected and enters the embedding like a class; an
image is concatenated to the noisy one.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import MinLen
from einops import rearrange, reduce
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Num

from vision.errors import UserError
from vision.nn.attention import dot_product_attention
from vision.nn.conditioning import check_condition, condition_shapes
from vision.nn.magnitude_preserving import (
    MPConv,
    MPDense,
    mp_concatenated,
    mp_fourier,
    mp_silu,
    mp_sum,
    pixel_normalised,
)
from vision.nn.noise_uncertainty import NoiseUncertainty
from vision.nn.resample import upsample_nearest
from vision.ranges import Channels, Depth, DropRate, Fraction, NoneOrMoreChannels, NoneOrMoreClasses, Pixels
from vision.types import Condition


@dataclass(frozen=True)
class EDM2Config:
    """The network's shape. The defaults are EDM2-S for features of 64 x 64."""

    width: Channels = 192
    """Channels at the highest resolution."""
    multipliers: Annotated[tuple[Depth, ...], MinLen(1)] = (1, 2, 3, 4)
    """Channels of each level as multiples of the width; each level halves the resolution. The largest one gives the
    width of the embedding of time and class."""
    blocks: Depth = 3
    """Blocks a level on the way down, without the one that halves the resolution; one more on the way up."""
    attention: tuple[Pixels, ...] = (16, 8)
    """Side lengths of the feature maps that attend to themselves; the narrowest point always does."""
    head_channels: Channels = 64
    """Channels of an attention head."""
    residual_share: Fraction = 0.3
    """Share of a residual branch in the sum with what passes it."""
    attention_share: Fraction = 0.3
    """Share of attention in the sum with what passes it."""
    skip_share: Fraction = 0.5
    """Influence of the encoder's features where they are concatenated to those of the decoder."""
    condition_share: Fraction = 0.5
    """Share of the class in the sum with the embedding of the time."""
    dropout: DropRate = 0.0
    """Probability of dropping an activation inside residual blocks."""
    classes: NoneOrMoreClasses = 0
    """Number of class labels; 0 for a network without the condition "label". Label ``classes`` means "no label": the
    embedding is then that of the time alone."""
    embedding: NoneOrMoreChannels = 0
    """Width of the condition "embedding", a vector of about unit magnitude; 0 for a network without it. The vector of
    zeros means "none"."""
    condition_channels: NoneOrMoreChannels = 0
    """Channels of the condition "image", as high and wide as the noisy image; 0 for a network without it."""
    channels: Channels = 3
    """Channels of the image."""
    out_channels: Channels | None = None
    """Channels of the prediction; None for as many as the image has."""
    uncertainty: bool = False
    """Also learn the log-variance of the loss at each noise level, by which the loss is weighted: see
    :func:`log_variance`."""
    remat: bool = False
    """Recompute the inside of blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters, their normalisation and that of pixels stay float32."""

    @property
    def vocabulary(self) -> int:
        """0: there is no condition "tokens"."""
        return 0

    @property
    def tokens(self) -> int:
        """0: there is no condition "tokens"."""
        return 0

    @property
    def durations(self) -> bool:
        """False: there is no condition "duration"."""
        return False


# Karras et al. 2024, table 6: the sizes for ImageNet-512 as latents of 64 x 64 with four channels.
_LATENT = EDM2Config(classes=1000, channels=4)
EDM2_XS, EDM2_S, EDM2_M, EDM2_L, EDM2_XL, EDM2_XXL = (
    replace(_LATENT, width=width, dropout=dropout)
    for width, dropout in ((128, 0.0), (192, 0.0), (256, 0.1), (320, 0.1), (384, 0.1), (448, 0.1))
)

# Shoeybi et al. 2019: of two layers, split the outputs of the first and the inputs of the second. The normalisation of
# a weight needs one sum a layer over the axis where its inputs are divided.
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"/conv_in/weight$", P(None, None, None, "tensor")),
    (r"/conv_out/weight$", P(None, None, "tensor", None)),
    (r"/modulation/weight$", P(None, "tensor")),
    (r"/attention/(query|key|value)/weight$", P(None, "tensor")),
    (r"/attention/out/weight$", P("tensor", None)),
)


class Attention(nn.Module):
    """Self-attention over all pixels with queries, keys and values of magnitude 1, added to what passes it."""

    heads: int
    share: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Attend; ``c`` is a multiple of ``heads``."""
        _, height, width, channels = features.shape
        split = lambda x: rearrange(x, "b h w (n d) -> b (h w) n d", n=self.heads)
        dense = partial(MPDense, channels, dtype=self.dtype)
        # cosine attention: products of normalised vectors, each head by itself
        query, key, value = (pixel_normalised(split(dense(name=name)(features))) for name in ("query", "key", "value"))
        mixed = rearrange(dot_product_attention(query, key, value), "b (h w) n d -> b h w (n d)", h=height, w=width)
        return mp_sum(features, dense(name="out")(mixed), self.share)


class Block(nn.Module):
    """An encoder or a decoder block: a residual branch that the embedding multiplies, then attention.

    An encoder block changes resolution and channels, then normalises each pixel; what it makes goes both through and
    past the residual branch. In a decoder block the residual branch has the concatenated features, and a 1x1
    convolution is on the way past it.
    """

    channels: int
    encoder: bool
    config: EDM2Config
    resampled: bool = False
    """Halve the sides of the features first in an encoder block, and double them in a decoder block."""
    attend: bool = False

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], embedding: Float[Array, "b e"], train: bool
    ) -> Float[Array, "b H W channels"]:
        """Transform ``features``; ``train`` is positional so that remat can hold it static."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        if self.resampled:
            halved = lambda x: reduce(x, "b (h p) (w q) c -> b h w c", "mean", p=2, q=2)
            features = (halved if self.encoder else upsample_nearest)(features)
        fitting = lambda x: x if x.shape[-1] == self.channels else MPDense(self.channels, dtype=dtype, name="skip")(x)
        if self.encoder:
            features = pixel_normalised(fitting(features))
        hidden = MPConv(self.channels, dtype=dtype, name="conv_in")(mp_silu(features))
        signal = 1.0 + MPDense(self.channels, gain=True, dtype=dtype, name="modulation")(embedding)
        hidden = mp_silu(hidden * signal[:, None, None, :])
        hidden = nn.Dropout(config.dropout, deterministic=not train)(hidden)
        hidden = MPConv(self.channels, dtype=dtype, name="conv_out")(hidden)
        features = mp_sum(features if self.encoder else fitting(features), hidden, config.residual_share)
        if not self.attend:
            return features
        heads = self.channels // config.head_channels
        return Attention(heads, config.attention_share, dtype=dtype, name="attention")(features)


class EDM2UNet(nn.Module):
    """Predict F of the preconditioned denoiser from a scaled noisy image and its noise level."""

    config: EDM2Config = EDM2Config()

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b h w c"],
        time: Num[Array, " b"],
        condition: Condition | None = None,
        *,
        train: bool,
    ) -> Float[Array, "b h w out"]:
        """Run the network.

        Args:
          image: noisy images scaled to about unit variance, c_in x; sides must be multiples of 2 ** (levels - 1).
          time: c_noise, a number of about unit magnitude that grows with the noise: log(sigma) / 4.
          condition: what the configuration names, and nothing else; None or ``{}`` for nothing. "label" int32 [b] in
            [0, classes], where ``classes`` means "no label"; "embedding" float [b embedding], where zeros mean "none";
            "image" float [b h w condition_channels].
          train: whether dropout is active; it then needs the "dropout" random stream.

        Returns:
          The prediction in float32, with ``out_channels`` channels; 0 at initialisation.

        Raises:
          UserError: the channels of a level that attends are no multiple of ``head_channels``, or a side of the image
            is no multiple of 2 ** (levels - 1).
          ValueError: a condition is missing, has another shape, or is one that the network was not built for.
        """
        config = self.config
        dtype = jnp.dtype(config.dtype)
        condition = condition or {}
        check_condition("an EDM2 UNet", condition, condition_shapes(config, image.shape))
        levels, sides = len(config.multipliers), image.shape[1:3]
        if any(side % 2 ** (levels - 1) for side in sides):
            raise UserError(
                f"an image of {sides[0]}x{sides[1]} pixels cannot be halved {levels - 1} times: choose sides that are "
                f"multiples of {2 ** (levels - 1)}, or fewer levels"
            )
        embedding = self._embedding(time, condition)
        block = nn.remat(Block, static_argnums=(3,)) if config.remat else Block

        def made(features: Array, level: int, name: str, *, encoder: bool, attends: bool | None = None, **how: Any):
            channels = config.width * config.multipliers[level]
            attends = features.shape[1] in config.attention if attends is None else attends
            if attends and channels % config.head_channels:
                raise UserError(
                    f"level {level} of the network attends and has {channels} channels, which is no multiple of "
                    f"model.head_channels {config.head_channels}: choose a divisor"
                )
            return block(channels, encoder, config, attend=attends, name=name, **how)(features, embedding, train)

        shown = [image, condition["image"]] if config.condition_channels else [image]
        hidden = jnp.concatenate([*shown, jnp.ones((*image.shape[:3], 1), image.dtype)], axis=-1)
        hidden = MPConv(config.width, dtype=dtype, name="stem")(hidden)
        skips = [hidden]
        encode = partial(made, encoder=True)
        for level in range(levels):
            if level:
                # the channels are those of the level above, as in Dhariwal & Nichol 2021
                hidden = encode(hidden, level - 1, f"down_{level}_halve", attends=False, resampled=True)
                skips.append(hidden)
            for index in range(config.blocks):
                hidden = encode(hidden, level, f"down_{level}_block_{index}")
                skips.append(hidden)

        decode = partial(made, encoder=False)
        hidden = decode(hidden, levels - 1, "mid_a", attends=True)
        hidden = decode(hidden, levels - 1, "mid_b", attends=False)
        for level in reversed(range(levels)):
            if level < levels - 1:
                hidden = decode(hidden, level + 1, f"up_{level}_double", attends=False, resampled=True)
            for index in range(config.blocks + 1):
                hidden = mp_concatenated(hidden, skips.pop(), config.skip_share)
                hidden = decode(hidden, level, f"up_{level}_block_{index}")

        channels = config.channels if config.out_channels is None else config.out_channels
        return MPConv(channels, gain=True, dtype=dtype, name="head")(hidden).astype(jnp.float32)

    def _embedding(self, time: Num[Array, " b"], condition: Condition) -> Float[Array, "b e"]:
        """Of the time and of what is to be known of the whole image; of magnitude 1 at initialisation."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        if config.uncertainty and self.is_initializing():
            NoiseUncertainty(name="uncertainty")(time)  # its parameters are beside the network's, for `log_variance`
        dense = partial(MPDense, config.width * max(config.multipliers), dtype=dtype)
        found = dense(name="time")(mp_fourier(time, config.width))
        signals = {}
        if config.classes:
            # a vector of magnitude 1; that of the label "none" is zero
            signals["label"] = jax.nn.one_hot(condition["label"], config.classes) * config.classes**0.5
        if config.embedding:
            signals["embedding"] = condition["embedding"]
        for name, signal in signals.items():
            given = jnp.any(signal != 0, axis=-1, keepdims=True)
            found = jnp.where(given, mp_sum(found, dense(name=name)(signal), config.condition_share), found)
        return mp_silu(found)


def log_variance(params: Any, time: Num[Array, " b"]) -> Float[Array, " b"]:
    """u(sigma), what a network with ``uncertainty`` has learned of its loss at each noise level.

    For :func:`vision.nn.noise_uncertainty.uncertainty_weighted`.

    Args:
      params: of the network.
      time: c_noise, as the network is given it.
    """
    return NoiseUncertainty().apply({"params": params["uncertainty"]}, time)  # pyright: ignore[reportReturnType]
