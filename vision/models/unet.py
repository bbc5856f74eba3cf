"""The diffusion UNet of Ho et al. 2020 ("Denoising Diffusion Probabilistic Models", appendix B).

A wide ResNet with skip connections between equal resolutions, group normalisation, self-attention at chosen
resolutions, and the time of the diffusion added to every residual block. The defaults are the published CIFAR-10
network with 35,746,307 parameters. Its successors differ from it in options: `ADM_64` and its like (Dhariwal & Nichol
2021, "Diffusion Models Beat GANs on Image Synthesis"), `DDPM_PLUS_PLUS` (Song et al. 2021, "Score-Based Generative
Modeling through Stochastic Differential Equations", in the form of Karras et al. 2022, table 7), and what is published
in the layout of diffusers (``vision/pretrained/unet2d.py``). Two things are added: conditions, and a space-to-depth
stem (``patch``), which trades resolution for channels so that small machines can afford the network.

Conditions enter as follows. The embedding of a label and a projection of a vector are added to the time embedding
(Dhariwal & Nichol 2021; Ramesh et al. 2022, section 2.1). Tokens are embedded, projected to keys and values of their
own in every attention layer, and attended to together with the feature map (Nichol et al. 2021, "GLIDE", section 3.1);
a projection of their mean is added to the time embedding (Saharia et al. 2022, "Imagen", section 2.3). A text that a
frozen network has encoded enters in the same two ways, by its tokens and by its embedding; a vector can become a few
tokens too (Ramesh et al. 2022). An image is concatenated to the noisy one (Saharia et al. 2021, "SR3"); how noisy it
is itself is added to the time embedding (Ho et al. 2022, "Cascaded Diffusion Models", section 4.2).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Interval, MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Num

from vision.errors import UserError
from vision.nn.attention import SelfAttention2d
from vision.nn.conditioning import check_condition, condition_shapes
from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.nn.down_and_up import Way, down_and_up
from vision.nn.embeddings import fourier_embedding, sinusoidal_embedding
from vision.nn.norms import GroupNorm
from vision.nn.pooling import mean_pool_2x2
from vision.nn.resample import depth_to_space, space_to_depth, upsample_nearest
from vision.nn.token_embedding import TokenEmbedding
from vision.ranges import (
    Channels,
    Depth,
    DropRate,
    Fraction,
    NoneOrMoreChannels,
    NoneOrMoreClasses,
    Pixels,
    PositiveFloat,
)
from vision.types import Condition


@dataclass(frozen=True)
class UNetConfig:
    """The UNet's shape. The defaults are Ho et al. 2020 for CIFAR-10."""

    width: Annotated[int, Interval(ge=4, le=65_536)] = 128
    """Channels at the highest resolution."""
    multipliers: Annotated[tuple[Depth, ...], MinLen(1)] = (1, 2, 2, 2)
    """Channels of each level as multiples of the width; each level halves the resolution."""
    blocks: Depth = 2
    """Residual blocks a level on the way down; one more on the way up."""
    attention: tuple[Pixels, ...] = (16,)
    """Side lengths of the feature maps that attend to themselves; the narrowest point always does."""
    up_attention: Literal["every", "last"] = "every"
    """Which blocks of the way up attend at these resolutions; "last" in DDPM++."""
    mid_attention: Literal["normalised", "plain", "none"] = "normalised"
    """Attention at the narrowest point: of normalised features as everywhere, of the features as they are, or none."""
    heads: Depth = 1
    """Attention heads."""
    head_channels: NoneOrMoreChannels = 0
    """Channels of a head, in place of the same number of heads everywhere (ADM: 64); 0 for ``heads`` heads."""
    dropout: DropRate = 0.1
    """Probability of dropping an activation inside residual blocks."""
    classes: NoneOrMoreClasses = 0
    """Number of class labels; 0 for a network without the condition "label". Label ``classes`` means "no label"."""
    null_label: bool = True
    """Whether "no label" has an embedding of its own; it adds nothing otherwise, as for networks trained with labels
    only."""
    embedding: NoneOrMoreChannels = 0
    """Width of the condition "embedding", a vector; 0 for a network without it."""
    embedding_tokens: NoneOrMoreChannels = 0
    """Tokens that "embedding" is projected to, and attention attends to (Ramesh et al. 2022: 4)."""
    text: NoneOrMoreChannels = 0
    """Channels of each token of the condition "text", as a text encoder makes them; 0 for a network without it."""
    text_length: NoneOrMoreChannels = 0
    """Tokens of the condition "text"; 0 for a network without it."""
    text_embedding: NoneOrMoreChannels = 0
    """Width of the condition "text_embedding", a vector for a whole text; 0 for a network without it."""
    vocabulary: NoneOrMoreChannels = 0
    """Number of values of a token, padding included; 0 for a network without the condition "tokens"."""
    tokens: NoneOrMoreChannels = 0
    """Length of the condition "tokens", padding included; 0 for a network without it."""
    condition_channels: NoneOrMoreChannels = 0
    """Channels of the condition "image", as high and wide as the noisy image; 0 for a network without it."""
    levels: bool = False
    """Whether there is a condition "level", the share of noise in the condition "image"."""
    durations: bool = False
    """Whether there is a condition "duration", the length of the time over which a velocity is averaged (Geng et al.
    2025, "MeanFlow"); its embedding is added to that of the time."""
    conditioning: Literal["add", "scale_shift"] = "add"
    """How time and class enter a residual block: added to its features, as published, or as a scale and a shift of
    the second normalisation (Dhariwal & Nichol 2021, section 3), which follows labels sooner."""
    time_embedding: Literal["sinusoidal", "fourier"] = "sinusoidal"
    """Code of the time: sines and cosines of fixed frequencies, or of random ones and the time's logarithm. The time is
    then the deviation of the noise, above 0, by which the prediction is divided too (Song et al. 2021, NCSN++)."""
    frequency_shift: Fraction = 1.0
    """The last of n frequencies of the sinusoidal code is 10,000 ** (-(n - 1) / (n - shift)): 0 in ADM."""
    time_code: NoneOrMoreChannels = 0
    """Channels of the code of the time; 0 for ``width``, from which it differs in ADM for 512x512 pixels."""
    time_width: NoneOrMoreChannels = 0
    """Width of the embedding of the time and of conditions; 0 for four times ``width``."""
    resampling: Literal["strided", "strided_after", "residual", "residual_projected"] = "strided"
    """How resolution changes between levels: by a strided convolution, padded evenly or, as published, after the last
    row and column, and by a convolution of repeated pixels; or by the means and repetitions of 2x2 pixels inside a
    residual block (Brock et al. 2019, "BigGAN"; ADM), with a 1x1 convolution on the way past in DDPM++."""
    residual_scale: PositiveFloat = 1.0
    """Factor of the sum of each residual and attention block with its input; sqrt(1/2) in DDPM++."""
    mid_scale: PositiveFloat | None = None
    """The same for the narrowest point; None for the same value."""
    groups: Depth = 32
    """Groups of channels of a normalisation, where that leaves ``group_channels`` to each; fewer otherwise."""
    group_channels: Depth = 4
    """Smallest number of channels of a group."""
    epsilon: PositiveFloat = 1e-6
    """What normalisations add to the variance; 1e-5 in ADM."""
    centred: bool = False
    """Map images from [0, 1] to [-1, 1] before the stem."""
    patch: Pixels = 1
    """Side of the squares of pixels that the stem folds into channels; 1 leaves the image as it is."""
    channels: Channels = 3
    """Channels of the image."""
    out_channels: Channels | None = None
    """Channels of the prediction; None for as many as the image has."""
    remat: bool = False
    """Recompute the inside of residual blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters and normalisation statistics stay float32."""


# Ho et al. 2020, appendix B, for CelebA-HQ and LSUN: 114 M parameters in the paper, 113,673,219 to the last one.
DDPM_256 = UNetConfig(multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0)

_ADM = UNetConfig(
    head_channels=64,
    dropout=0.0,
    classes=1000,
    null_label=False,
    conditioning="scale_shift",
    frequency_shift=0.0,
    resampling="residual",
    group_channels=1,
    epsilon=1e-5,
)
# Dhariwal & Nichol 2021, appendix I. There the variance is predicted too: ``out_channels=6``.
ADM_64 = replace(_ADM, width=192, multipliers=(1, 2, 3, 4), blocks=3, attention=(32, 16, 8), dropout=0.1)
ADM_128 = replace(_ADM, width=256, multipliers=(1, 1, 2, 3, 4), attention=(32, 16, 8), heads=4, head_channels=0)
ADM_256 = replace(_ADM, width=256, multipliers=(1, 1, 2, 2, 4, 4), attention=(32, 16, 8))
# of 256 channels and multipliers 0.5, 1, 1, 2, 2, 4, 4 there
ADM_512 = replace(_ADM, multipliers=(1, 2, 2, 4, 4, 8, 8), attention=(32, 16, 8), time_code=256, time_width=1024)

# Ramesh et al. 2022, table 3: the decoder at 64x64, of 2,097,572,867 parameters before those of its conditions (3.5 B
# there with the text encoder), and two upsamplers, of 731,752,643 and 282,797,955 with theirs
_UNCLIP = replace(_ADM, classes=0, null_label=True, multipliers=(1, 2, 3, 4), blocks=3, dropout=0.1)
UNCLIP_64 = replace(_UNCLIP, width=512, attention=(32, 16, 8))
UNCLIP_256 = replace(_UNCLIP, width=320, attention=(), mid_attention="none")
UNCLIP_1024 = replace(UNCLIP_256, width=192, multipliers=(1, 1, 2, 2, 4, 4), blocks=2, dropout=0.0)

# Karras et al. 2022, table 7, for CIFAR-10 without labels; Song et al. 2021 have multipliers=(1, 2, 2, 2).
DDPM_PLUS_PLUS = UNetConfig(
    multipliers=(2, 2, 2),
    blocks=4,
    up_attention="last",
    dropout=0.13,
    resampling="residual_projected",
    residual_scale=0.5**0.5,
)

# Tensor parallelism after Shoeybi et al. 2019: split the output channels of the first of two layers and the input
# channels of the second, so that one reduction a block is enough (a second where heads are fewer than the axis).
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"(block_\d+|mid_[ab]|halve|double)/conv_in/kernel$", P(None, None, None, "tensor")),
    (r"(block_\d+|mid_[ab]|halve|double)/conv_out/kernel$", P(None, None, "tensor", None)),
    (r"/(query|key|value|context_key|context_value)/kernel$", P(None, "tensor")),
    (r"/out/kernel$", P("tensor", None)),
    (r"time_in/kernel$", P(None, "tensor")),
    (r"time_out/kernel$", P("tensor", None)),
    (r"duration_in/kernel$", P(None, "tensor")),
    (r"duration_out/kernel$", P("tensor", None)),
    (r"level_in/kernel$", P(None, "tensor")),
    (r"level_out/kernel$", P("tensor", None)),
    (r"(embedding|token|text|context)_projection/kernel$", P(None, "tensor")),
    (r"embedding_tokens/kernel$", P(None, "tensor")),
)

fan_average = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
Conv3x3 = partial(Conv, winograd=True, kernel_init=fan_average)


class ResidualBlock(nn.Module):
    """norm, act, conv, + embedding, norm, act, dropout, conv; a 1x1 convolution on the way past if widths differ.

    With ``resample``, resolution changes before the first convolution and on the way past (Brock et al. 2019).
    """

    channels: int
    dropout: float
    norm: Callable[..., nn.Module]
    conditioning: Literal["add", "scale_shift"] = "add"
    act: Callable[[Array], Array] = nn.silu
    scale: float = 1.0
    resample: Literal["down", "up"] | None = None
    project: bool = False
    """A 1x1 convolution on the way past in any case."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], embedding: Float[Array, "b e"], train: bool
    ) -> Float[Array, "b H W channels"]:
        """Transform ``features``; ``train`` is positional so that remat can hold it static."""
        hidden = self.act(self.norm(name="norm_in")(features))
        if self.resample is not None:
            change = mean_pool_2x2 if self.resample == "down" else upsample_nearest
            hidden, features = change(hidden), change(features)
        hidden = Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(hidden)
        size = self.channels * (2 if self.conditioning == "scale_shift" else 1)
        project = Dense(size, dtype=self.dtype, kernel_init=fan_average, name="embedding")
        signal = project(self.act(embedding))[:, None, None, :]
        if self.conditioning == "scale_shift":
            scale, shift = jnp.split(signal, 2, axis=-1)
            # Dhariwal & Nichol 2021, section 3: AdaGN(h, y) = y_s GroupNorm(h) + y_b, here with y_s = 1 + scale
            hidden = self.act((1.0 + scale) * self.norm(name="norm_out")(hidden) + shift)
        else:
            hidden = self.act(self.norm(name="norm_out")(hidden + signal))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        hidden = Conv3x3(self.channels, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="conv_out")(hidden)
        if features.shape[-1] != self.channels or self.project:
            features = Dense(self.channels, dtype=self.dtype, kernel_init=fan_average, name="skip")(features)
        return features + hidden if self.scale == 1.0 else (features + hidden) * self.scale


class UNet(nn.Module):
    """Predict the target of diffusion (noise, image or velocity) from a noisy image and its time."""

    config: UNetConfig = UNetConfig()

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
          image: noisy images of about unit variance; sides must be multiples of patch * 2 ** (levels - 1).
          time: as ``Process.network_time`` gives it: steps of a discrete schedule, 0 to 999 as published; 1000 t of a
            flow; ln(sigma) / 4 of edm. For a Fourier code, the deviation of the noise, above 0.
          condition: what the configuration names, and nothing else; None or ``{}`` for nothing. "label" int32 [b] in
            [0, classes], where ``classes`` means "no label"; "embedding" float [b embedding]; "tokens" int32 [b tokens]
            in [0, vocabulary); "text" float [b text_length text]; "text_embedding" float [b text_embedding]; "image"
            float [b h w condition_channels]; "level" float [b] in [0, 1]; "duration" float [b] in the unit of ``time``.
          train: whether dropout is active; it then needs the "dropout" random stream.

        Returns:
          The prediction in float32, with ``out_channels`` channels.

        Raises:
          UserError: only one of ``vocabulary`` and ``tokens``, or of ``text`` and ``text_length``, is 0; heads do not
            divide the channels that attend.
          ValueError: a condition is missing, has another shape, or is one that the network was not built for.
        """
        config = self.config
        dtype = jnp.dtype(config.dtype)
        condition = condition or {}
        check_condition("a UNet", condition, condition_shapes(config, image.shape))
        # 32 groups at the published width; narrower networks get groups of four channels
        norm = partial(
            GroupNorm, groups=config.groups, least=config.group_channels, epsilon=config.epsilon, dtype=dtype
        )
        block = nn.remat(ResidualBlock, static_argnums=(3,)) if config.remat else ResidualBlock
        residual = partial(block, dropout=config.dropout, norm=norm, conditioning=config.conditioning, dtype=dtype)
        residual = partial(residual, scale=config.residual_scale)
        past = config.resampling == "residual_projected"
        of_middle = {} if config.mid_scale is None else {"scale": config.mid_scale}

        def attend(features: Array, name: str, norm: Callable[..., nn.Module] | None = norm, **options: Any) -> Array:
            heads = config.heads
            if config.head_channels:
                heads = features.shape[-1] // config.head_channels
                if features.shape[-1] % config.head_channels:
                    raise UserError(
                        f"{features.shape[-1]} channels cannot be divided into attention heads of "
                        f"{config.head_channels}: choose model.head_channels as a divisor"
                    )
            options = {"scale": config.residual_scale, "dtype": dtype, "kernel_init": fan_average, **options}
            return SelfAttention2d(norm=norm, heads=heads, name=name, **options)(features, context)

        embedding, context = self._embedding(time, condition)
        if config.condition_channels:
            image = jnp.concatenate([image, condition["image"]], axis=-1)
        if config.centred:
            image = 2.0 * image - 1.0
        hidden = space_to_depth(image, config.patch) if config.patch > 1 else image
        hidden = Conv3x3(config.width, dtype=dtype, name="stem")(hidden)

        def block_of(features: Array, way: Way, level: int, index: int) -> Array:
            width = config.width * config.multipliers[level]
            made = residual(width, name=f"{way}_{level}_block_{index}")(features, embedding, train)
            attending = way == "down" or config.up_attention == "every" or index == config.blocks
            if made.shape[1] in config.attention and attending:
                made = attend(made, f"{way}_{level}_attention_{index}")
            return made

        def halve(features: Array, level: int) -> Array:
            name, channels = f"down_{level}_halve", features.shape[-1]
            if config.resampling in ("residual", "residual_projected"):
                return residual(channels, resample="down", project=past, name=name)(features, embedding, train)
            around = None if config.resampling == "strided" else ((0, 1), (0, 1))
            return Conv3x3(channels, strides=2, padding=around, dtype=dtype, name=name)(features)

        def middle(features: Array) -> Array:
            made = residual(features.shape[-1], name="mid_a", **of_middle)(features, embedding, train)
            if config.mid_attention != "none":
                norm_of = norm if config.mid_attention == "normalised" else None
                made = attend(made, "mid_attention", norm_of, **of_middle)
            return residual(made.shape[-1], name="mid_b", **of_middle)(made, embedding, train)

        def double(features: Array, level: int) -> Array:
            name, channels = f"up_{level}_double", features.shape[-1]
            if config.resampling in ("residual", "residual_projected"):
                return residual(channels, resample="up", project=past, name=name)(features, embedding, train)
            return Conv3x3(channels, dtype=dtype, name=name)(upsample_nearest(features))

        blocks = (config.blocks,) * len(config.multipliers)
        parts = {"block": block_of, "halve": halve, "middle": middle, "double": double}
        hidden = down_and_up(hidden, blocks=blocks, **parts)
        hidden = nn.silu(norm(name="norm")(hidden))
        channels = config.channels if config.out_channels is None else config.out_channels
        closed = nn.initializers.zeros
        out = Conv3x3(channels * config.patch**2, dtype=dtype, kernel_init=closed, name="head")(hidden)
        out = depth_to_space(out, config.patch) if config.patch > 1 else out
        out = out.astype(jnp.float32)
        if config.time_embedding == "fourier":
            # Song et al. 2021: the score is the prediction divided by the deviation of the noise
            out = out / time.astype(jnp.float32)[:, None, None, None]
        return out

    def _embedding(self, time: Num[Array, " b"], condition: Condition) -> tuple[Array, Array | None]:
        """The embedding [b e] of the time and the conditions, and tokens [b n e], to which layers attend."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        size, code = config.time_width or 4 * config.width, config.time_code or config.width
        dense = partial(Dense, size, dtype=dtype, kernel_init=fan_average)
        if config.time_embedding == "fourier":
            # Song et al. 2021, appendix C.1, after Tancik et al. 2020: random frequencies of deviation 16, not trained
            frequencies = self.param("time_frequencies", nn.initializers.normal(16.0), (code,))
            embedding = fourier_embedding(jnp.log(time.astype(jnp.float32)), jax.lax.stop_gradient(frequencies))
        else:
            embedding = sinusoidal_embedding(time, code, shift=config.frequency_shift)
        embedding = dense(name="time_out")(nn.silu(dense(name="time_in")(embedding)))
        if config.durations:
            length = sinusoidal_embedding(condition["duration"], code, shift=config.frequency_shift)
            embedding = embedding + dense(name="duration_out")(nn.silu(dense(name="duration_in")(length)))
        if config.classes:
            # Linen's default variance, 1 / size, is far below the time embedding's: labels go unheard for long.
            unit = nn.initializers.normal(1.0)
            rows, label = config.classes + config.null_label, condition["label"]
            table = nn.Embed(rows, size, embedding_init=unit, name="label_embedding")
            if config.null_label:
                embedding = embedding + table(label).astype(dtype)
            else:
                known = label < config.classes
                embedding = embedding + jnp.where(known[:, None], table(jnp.where(known, label, 0)), 0.0).astype(dtype)
        if config.embedding:
            embedding = embedding + dense(name="embedding_projection")(condition["embedding"])
        if config.text_embedding:
            embedding = embedding + dense(name="text_projection")(condition["text_embedding"])
        if config.levels:
            # in [0, 1], on the scale of the times of a discrete schedule
            level = sinusoidal_embedding(1000.0 * condition["level"], code, shift=config.frequency_shift)
            embedding = embedding + dense(name="level_out")(nn.silu(dense(name="level_in")(level)))
        context = []
        if config.tokens:
            words = TokenEmbedding(config.vocabulary, size, dtype=dtype, name="token_embedding")
            context.append(words(condition["tokens"]))
            embedding = embedding + dense(name="token_projection")(jnp.mean(context[0], axis=1))
        if config.text:
            context.append(dense(name="context_projection")(condition["text"]))
        if config.embedding_tokens:
            several = Dense(
                config.embedding_tokens * size, dtype=dtype, kernel_init=fan_average, name="embedding_tokens"
            )
            context.append(several(condition["embedding"]).reshape(-1, config.embedding_tokens, size))
        return embedding, jnp.concatenate(context, axis=1) if context else None
