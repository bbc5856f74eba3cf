"""The U-Net of published text-to-image models, whose context is a sentence encoded by a text encoder.

Two families share it. Latent diffusion (Rombach et al. 2022; Stable Diffusion) has a transformer with cross-attention
after each residual block. GLIDE and unCLIP (Nichol et al. 2021; Ramesh et al. 2022; Karlo) have self-attention with the
keys and values of the context in addition to the image's own. Unlike ``vision/models/unet.py``, whose residual blocks
it has and which embeds its own tokens, the network is given vectors, and attends at chosen levels, not at chosen
sides: images may have any size. ``vision/pretrained/unet2d_condition.py`` reads what is published.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import MinLen
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Num

from vision.errors import UserError
from vision.models.unet import SHARDING_RULES as UNET_RULES
from vision.models.unet import Conv3x3, ResidualBlock, fan_average
from vision.models.unet_condition.transformer import SpatialTransformer
from vision.nn.attention import SelfAttention2d
from vision.nn.conditioning import check_condition
from vision.nn.convolution import Conv
from vision.nn.dense import Dense
from vision.nn.down_and_up import Way, down_and_up
from vision.nn.embeddings import sinusoidal_embedding
from vision.nn.norms import GroupNorm
from vision.nn.resample import upsample_nearest
from vision.nn.transformer import gelu
from vision.ranges import Channels, Depth, DropRate, Fraction, NoneOrMoreChannels, NonNegativeInt, PositiveFloat
from vision.types import Condition

Activation = Literal["none", "silu", "gelu"]
ACTIVATIONS = {"none": lambda x: x, "silu": nn.silu, "gelu": gelu}

EmbeddingKind = Literal["none", "label", "time", "vector", "linear", "network"]


@dataclass(frozen=True)
class ConditionUNetConfig:
    """The network's shape. The defaults are Stable Diffusion 1.5's: 859,520,964 parameters."""

    channels: Channels = 4
    """Channels of what is generated."""
    condition_channels: NoneOrMoreChannels = 0
    """Channels of the condition "image", concatenated to the noisy one: 4 for editing by instructions, 5 for
    inpainting; 0 for a network without it."""
    out_channels: Channels | None = None
    """Channels of the prediction; None for as many as are generated, twice as many where a variance is predicted."""
    widths: Annotated[tuple[Channels, ...], MinLen(1)] = (320, 640, 1280, 1280)
    """Channels of each level, from the highest resolution on; each level halves the sides."""
    blocks: tuple[Depth, ...] = (2, 2, 2, 2)
    """Residual blocks of each level on the way down; one more on the way up."""
    attention: Literal["transformer", "joint"] = "transformer"
    """What attends to the context: a transformer with cross-attention, or self-attention with further keys and
    values."""
    attending: tuple[NonNegativeInt, ...] = (0, 1, 2)
    """Levels, from 0 at the highest resolution, at which attention follows each residual block. The lowest resolution
    always has one between the two blocks in the middle."""
    layers: tuple[Depth, ...] = (1, 1, 1, 1)
    """Blocks of the transformers of each level; the last is also of the middle. Unused by joint attention."""
    heads: tuple[Depth, ...] = (8, 8, 8, 8)
    """Attention heads of each level, divisors of its width; the last is also of the middle."""
    context: Channels = 768
    """Channels of the condition "context"."""
    context_only: tuple[NonNegativeInt, ...] = ()
    """Levels whose places do not attend to each other, only to the context."""
    middle_context_only: bool = False
    """The same for the middle of a network with joint attention."""
    embedding: EmbeddingKind = "none"
    """A further condition whose embedding is added to that of the time: "label" of one of ``embedding_width`` classes;
    as "embedding" a "time", embedded as the time is, or a "vector", added as it is, through a "linear" layer or through
    a "network" of two."""
    embedding_width: NonNegativeInt = 0
    """Number of classes, or channels of the vector that is projected; 0 for other kinds."""
    embedding_activation: Activation = "none"
    """What is done to the sum of all embeddings."""
    time_width: NonNegativeInt = 0
    """Channels of the embedding of the time; 0 for four times the first width."""
    frequency_shift: Fraction = 0.0
    """What is subtracted from half the number of frequencies in the code of the time."""
    conditioning: Literal["add", "scale_shift"] = "add"
    """How the embedding enters a residual block: added to its features, or as scale and shift of a normalisation."""
    resampling: Literal["strided", "residual"] = "strided"
    """How resolution changes: by convolutions, or inside residual blocks."""
    groups: Depth = 32
    """Groups of channels of a normalisation, a divisor of all widths."""
    epsilon: PositiveFloat = 1e-5
    """What normalisations of residual blocks add to the variance."""
    centred: bool = False
    """Map what is generated from [0, 1] to [-1, 1] before the stem."""
    dropout: DropRate = 0.0
    """Probability of dropping an activation inside residual blocks and transformers."""
    remat: bool = False
    """Recompute the inside of residual blocks and transformers in the backward pass: less memory, a third more
    compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters and normalisation statistics stay float32."""

    @property
    def embedded(self) -> int:
        """Channels of the embedding of the time."""
        return self.time_width or 4 * self.widths[0]

    @property
    def factor(self) -> int:
        """Sides are multiples of this."""
        return 2 ** (len(self.widths) - 1)


# Rombach et al. 2022 as released in 2022: 865,910,724 parameters, heads of 64 channels, OpenCLIP's text encoder
STABLE_DIFFUSION_2 = ConditionUNetConfig(heads=(5, 10, 20, 20), context=1024)

SHARDING_RULES: tuple[tuple[str, P], ...] = (
    *UNET_RULES,
    (r"/dense_in/kernel$", P(None, "tensor")),
    (r"/dense_out/kernel$", P("tensor", None)),
    (r"embedding_in/kernel$", P(None, "tensor")),
    (r"embedding_out/kernel$", P("tensor", None)),
)


def check_levels(config: ConditionUNetConfig) -> None:
    """Raise ``UserError`` where the numbers of a configuration do not fit each other."""
    levels = len(config.widths)
    for name in ("blocks", "layers", "heads"):
        if len(getattr(config, name)) != levels:
            raise UserError(f"model.{name} has {len(getattr(config, name))} numbers for {levels} levels: give as many")
    for name in ("attending", "context_only"):
        if any(level >= levels for level in getattr(config, name)):
            raise UserError(f"model.{name} names a level that is none of 0 to {levels - 1}: choose among them")
    for level, (width, heads) in enumerate(zip(config.widths, config.heads, strict=True)):
        if width % config.groups:
            raise UserError(f"model.groups {config.groups} does not divide the width {width}: choose a divisor")
        if (level in config.attending or level == levels - 1) and width % heads:
            raise UserError(f"{heads} attention heads cannot share {width} channels equally: choose divisors")
    if (config.embedding in ("label", "linear", "network")) != (config.embedding_width > 0):
        raise UserError(
            f"model.embedding is {config.embedding} and model.embedding_width is {config.embedding_width}: a number "
            "above 0 belongs to label, linear and network"
        )


class ConditionUNet(nn.Module):
    """Predict the target of diffusion from a noisy image, its time and a context."""

    config: ConditionUNetConfig = ConditionUNetConfig()

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w c"], time: Num[Array, " b"], condition: Condition, *, train: bool
    ) -> Float[Array, "b h w out"]:
        """Run the network.

        Args:
          image: noisy images or latents of about unit variance; sides are multiples of ``factor``.
          time: as ``Process.network_time`` gives it: steps of a discrete schedule, 0 to 999 as published.
          condition: "context" float [b n context]; where it is given, "context_mask" bool [b n], True for tokens that
            count, of which each sample has one; what the configuration names: "image" float [b h w condition_channels];
            "label" int32 [b] in [0, embedding_width); "embedding" float [b] or [b e], see ``embedding``.
          train: whether dropout is active; it then needs the "dropout" random stream.

        Returns:
          The prediction in float32, with ``out_channels`` channels.

        Raises:
          UserError: the numbers of the configuration do not fit each other.
          ValueError: a condition is missing, has another shape, or is one that the network was not built for.
        """
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        check_levels(config)
        check_condition("this UNet", condition, condition_shapes(config, image.shape, condition))
        norm = partial(GroupNorm, groups=config.groups, least=1, epsilon=config.epsilon, dtype=dtype)
        kind = nn.remat(ResidualBlock, static_argnums=(3,)) if config.remat else ResidualBlock
        residual = partial(
            kind, dropout=config.dropout, norm=norm, conditioning=config.conditioning, dtype=dtype, act=nn.silu
        )
        embedding = self._embedding(time, condition)
        context, mask = condition["context"].astype(dtype), condition.get("context_mask")

        def attend(features: Array, level: int, own: bool, name: str) -> Array:
            of = {"heads": config.heads[level], "own": own, "dtype": dtype, "name": name}
            if config.attention == "joint":
                return SelfAttention2d(norm=norm, **of)(features, context, mask)
            depth, more = config.layers[level], {"dropout": config.dropout, "remat": config.remat}
            made = SpatialTransformer(depth=depth, groups=config.groups, **more, **of)
            return made(features, context, mask, train=train)

        def block(features: Array, way: Way, level: int, index: int) -> Array:
            made = residual(config.widths[level], name=f"{way}_{level}_block_{index}")(features, embedding, train)
            if level in config.attending:
                made = attend(made, level, level not in config.context_only, f"{way}_{level}_attention_{index}")
            return made

        def halve(features: Array, level: int) -> Array:
            name, width = f"down_{level}_halve", config.widths[level]
            if config.resampling == "residual":
                return residual(width, resample="down", name=name)(features, embedding, train)
            return Conv3x3(width, strides=2, dtype=dtype, name=name)(features)

        def middle(features: Array) -> Array:
            level, width = len(config.widths) - 1, config.widths[-1]
            made = residual(width, name="mid_a")(features, embedding, train)
            made = attend(made, level, not config.middle_context_only, "mid_attention")
            return residual(width, name="mid_b")(made, embedding, train)

        def double(features: Array, level: int) -> Array:
            name, width = f"up_{level}_double", config.widths[level]
            if config.resampling == "residual":
                return residual(width, resample="up", name=name)(features, embedding, train)
            return Conv3x3(width, dtype=dtype, name=name)(upsample_nearest(features))

        if config.condition_channels:
            image = jnp.concatenate([image, condition["image"].astype(image.dtype)], axis=-1)
        if config.centred:
            image = 2.0 * image - 1.0
        hidden = Conv3x3(config.widths[0], dtype=dtype, name="stem")(image)
        parts = {"block": block, "halve": halve, "middle": middle, "double": double}
        hidden = nn.silu(norm(name="norm")(down_and_up(hidden, blocks=config.blocks, **parts)))
        closed: Any = nn.initializers.zeros
        outputs = config.channels if config.out_channels is None else config.out_channels
        return Conv(outputs, dtype=dtype, kernel_init=closed, name="head")(hidden).astype(jnp.float32)

    def _embedding(self, time: Num[Array, " b"], condition: Condition) -> Float[Array, "b e"]:
        """The embedding of the time and of the other condition."""
        config = self.config
        size = config.embedded
        dense = partial(Dense, size, dtype=jnp.dtype(config.dtype), kernel_init=fan_average)
        network = lambda x, name: dense(name=f"{name}_out")(nn.silu(dense(name=f"{name}_in")(x)))
        code = lambda x: sinusoidal_embedding(x, config.widths[0], shift=config.frequency_shift)
        embedding = network(code(time), "time")
        match config.embedding:
            case "label":
                unit = nn.initializers.normal(1.0)
                table = nn.Embed(config.embedding_width, size, embedding_init=unit, name="label_embedding")
                embedding = embedding + table(condition["label"]).astype(embedding.dtype)
            case "time":
                embedding = embedding + network(code(condition["embedding"]), "embedding")
            case "vector":
                embedding = embedding + condition["embedding"].astype(embedding.dtype)
            case "linear":
                embedding = embedding + dense(name="embedding_projection")(condition["embedding"])
            case "network":
                embedding = embedding + network(condition["embedding"], "embedding")
            case "none":
                pass
        return ACTIVATIONS[config.embedding_activation](embedding)


def condition_shapes(
    config: ConditionUNetConfig, image: tuple[int, ...], condition: Condition
) -> dict[str, tuple[int, ...]]:
    """The shape of each condition for noisy images of shape ``image``, with a context as long as that given."""
    batch, *sides, _ = image
    given = condition["context"].shape if "context" in condition else ()
    length = given[1] if len(given) == 3 else 1
    shapes: dict[str, tuple[int, ...]] = {"context": (batch, length, config.context)}
    if "context_mask" in condition:
        shapes["context_mask"] = (batch, length)
    if config.condition_channels:
        shapes["image"] = (batch, *sides, config.condition_channels)
    width = config.embedded if config.embedding == "vector" else config.embedding_width
    match config.embedding:
        case "label":
            shapes["label"] = (batch,)
        case "time":
            shapes["embedding"] = (batch,)
        case "vector" | "linear" | "network":
            shapes["embedding"] = (batch, width)
        case "none":
            pass
    return shapes
