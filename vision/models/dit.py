"""The diffusion transformer of Peebles & Xie 2023 ("Scalable Diffusion Models with Transformers", DiT).

An image is cut into patches, each a token; blocks of self-attention and a dense network are conditioned on the time and
the class by scales, shifts and gates of their layer normalisations (adaLN-Zero, section 3.2). It has no convolution,
takes the same arguments as the UNet, and can stand in its place. Published networks predict a variance too: they have
twice as many ``out_channels`` as ``channels``, the first half of which is the target.

Further conditions enter as in the UNet. A projection of a vector is added to the time embedding (Ramesh et al. 2022,
section 2.1). Text is embedded, projected to keys and values of its own in every block, and attended to together with
the patches (Nichol et al. 2021, "GLIDE", section 3.1); a projection of its mean is added to the time embedding (Saharia
et al. 2022, "Imagen", section 2.3). An image is concatenated to the noisy one (Saharia et al. 2021, "SR3").
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Num

from vision.nn.attention import dot_product_attention
from vision.nn.conditioning import check_condition, condition_shapes
from vision.nn.dense import Dense
from vision.nn.embeddings import sinusoidal_embedding
from vision.nn.resample import depth_to_space, space_to_depth
from vision.nn.token_embedding import TokenEmbedding
from vision.ranges import Channels, Depth, NoneOrMoreChannels, NoneOrMoreClasses, Pixels, PositiveFloat
from vision.types import Condition


@dataclass(frozen=True)
class DiTConfig:
    """The transformer's shape. The defaults are DiT-S for images of 32 x 32 pixels."""

    patch: Pixels = 2
    """Side of the square of pixels that makes a token."""
    width: Channels = 384
    """Channels of a token."""
    depth: Depth = 12
    """Blocks."""
    heads: Depth = 6
    """Attention heads."""
    expansion: Depth = 4
    """Width of a block's dense network, as a multiple of the width."""
    embeddings: Literal["shared", "each"] = "shared"
    """Embeddings of time and label: one for all blocks, as published, or one for each, as files of diffusers allow; the
    last modulation then has that of the first block."""
    dense_epsilon: PositiveFloat = 1e-6
    """What the normalisation before a block's dense network adds to the variance; the others add 1e-6."""
    classes: NoneOrMoreClasses = 0
    """Number of class labels; 0 for a network without the condition "label". Label ``classes`` means "no label"."""
    embedding: NoneOrMoreChannels = 0
    """Width of the condition "embedding", a vector; 0 for a network without it."""
    vocabulary: NoneOrMoreChannels = 0
    """Number of values of a token, padding included; 0 for a network without the condition "tokens"."""
    tokens: NoneOrMoreChannels = 0
    """Length of the condition "tokens", padding included; 0 for a network without it."""
    condition_channels: NoneOrMoreChannels = 0
    """Channels of the condition "image", as high and wide as the noisy image; 0 for a network without it."""
    durations: bool = False
    """Whether there is a condition "duration", the length of the time over which a velocity is averaged (Geng et al.
    2025, "MeanFlow"); its embedding is added to that of the time."""
    channels: Channels = 3
    """Channels of the image."""
    out_channels: Channels | None = None
    """Channels of the prediction; None for as many as the image has."""
    remat: bool = False
    """Recompute the inside of blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters, normalisation and softmax stay float32."""


# Peebles & Xie 2023, table 1.
DIT_S, DIT_B, DIT_L, DIT_XL = (
    DiTConfig(width=width, depth=depth, heads=heads)
    for width, depth, heads in ((384, 12, 6), (768, 12, 12), (1024, 24, 16), (1152, 28, 16))
)

# Shoeybi et al. 2019: of two layers, split the outputs of the first and the inputs of the second.
SHARDING_RULES: tuple[tuple[str, P], ...] = (
    (r"/(query|key|value|context_key|context_value|dense_in)/kernel$", P(None, "tensor")),
    (r"/(query|key|value|context_key|context_value|dense_in)/bias$", P("tensor")),
    (r"/(out|dense_out)/kernel$", P("tensor", None)),
    (r"/modulation/kernel$", P(None, "tensor")),
    (r"time_in(_\d+)?/kernel$", P(None, "tensor")),
    (r"time_out(_\d+)?/kernel$", P("tensor", None)),
    (r"duration_in/kernel$", P(None, "tensor")),
    (r"duration_out/kernel$", P("tensor", None)),
    (r"(embedding|token)_projection/kernel$", P(None, "tensor")),
)

FREQUENCIES = 256  # of the sinusoidal code of the time


def position_embedding(rows: int, columns: int, width: int) -> Float[np.ndarray, "tokens width"]:
    """Fixed sines and cosines of each token's row (the first half of the channels) and column (the second half).

    Peebles & Xie 2023, section 4, after Vaswani et al. 2017, section 3.5; ``width`` is a multiple of 4. Row by row.
    """
    # Vaswani et al. 2017: the frequencies 1 / 10000^(2i / d), here with d = width / 2 for each direction
    frequency = 10_000.0 ** -(np.arange(width // 4) / (width // 4))
    code = lambda places: np.concatenate([f(np.outer(places, frequency)) for f in (np.sin, np.cos)], axis=-1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.concatenate([code(row), code(column)], axis=-1).astype(np.float32)


def modulate(
    tokens: Float[Array, "b n d"],
    shift: Float[Array, "b 1 d"],
    scale: Float[Array, "b 1 d"],
    *,
    dtype: Any,
    epsilon: float = 1e-6,
) -> Float[Array, "b n d"]:
    """(1 + scale) LayerNorm(tokens) + shift: normalised without parameters of its own, in float32."""
    normalised = nn.LayerNorm(epsilon=epsilon, use_bias=False, use_scale=False, dtype=jnp.float32)(tokens)
    return (normalised * (1.0 + scale) + shift).astype(dtype)


class Block(nn.Module):
    """Self-attention, then a dense network; both read modulated tokens and are added through gates that start at 0."""

    heads: int
    expansion: int
    dense_epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b n d"], embedding: Float[Array, "b d"], context: Float[Array, "b m d"] | None
    ) -> Float[Array, "b n d"]:
        """Transform ``tokens``, modulated by ``embedding``, which may attend to the embedded text ``context`` too."""
        width = tokens.shape[-1]
        dense = partial(Dense, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform())
        signals = Dense(6 * width, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="modulation")(
            nn.silu(embedding)
        )
        shift_a, scale_a, gate_a, shift_b, scale_b, gate_b = jnp.split(signals[:, None, :], 6, axis=-1)
        # Peebles & Xie 2023, figure 3, right: x + gate * f((1 + scale) LayerNorm(x) + shift)
        hidden = modulate(tokens, shift_a, scale_a, dtype=self.dtype)
        split = lambda x: rearrange(x, "b n (h d) -> b n h d", h=self.heads)
        query, key, value = (split(dense(width, name=name)(hidden)) for name in ("query", "key", "value"))
        if context is not None:
            key = jnp.concatenate([key, split(dense(width, name="context_key")(context))], axis=1)
            value = jnp.concatenate([value, split(dense(width, name="context_value")(context))], axis=1)
        mixed = rearrange(dot_product_attention(query, key, value), "b n h d -> b n (h d)")
        tokens = tokens + gate_a * dense(width, name="out")(mixed)
        hidden = modulate(tokens, shift_b, scale_b, dtype=self.dtype, epsilon=self.dense_epsilon)
        hidden = nn.gelu(dense(self.expansion * width, name="dense_in")(hidden), approximate=True)
        return tokens + gate_b * dense(width, name="dense_out")(hidden)


class DiT(nn.Module):
    """Predict the target of diffusion (noise, image or velocity) from a noisy image and its time."""

    config: DiTConfig = DiTConfig()

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
          image: noisy images of about unit variance; sides must be multiples of the patch.
          time: as ``Process.network_time`` gives it: steps of a discrete schedule, 0 to 999 as published; 1000 t of a
            flow.
          condition: what the configuration names, and nothing else; None or ``{}`` for nothing. "label" int32 [b] in
            [0, classes], where ``classes`` means "no label"; "embedding" float [b embedding]; "tokens" int32 [b tokens]
            in [0, vocabulary); "image" float [b h w condition_channels]; "duration" float [b] in the unit of ``time``.
          train: unused, since nothing here differs between training and use.

        Returns:
          The prediction in float32, with ``out_channels`` channels.

        Raises:
          UserError: only one of ``vocabulary`` and ``tokens`` is 0.
          ValueError: a condition is missing, has another shape, or is one that the network was not built for.
        """
        del train
        config = self.config
        dtype = jnp.dtype(config.dtype)
        condition = condition or {}
        check_condition("a DiT", condition, condition_shapes(config, image.shape))
        small = nn.initializers.normal(0.02)
        embed = partial(Dense, config.width, dtype=dtype, kernel_init=small)
        code = sinusoidal_embedding(time, FREQUENCIES)
        suffixes = [""] if config.embeddings == "shared" else [f"_{index}" for index in range(config.depth)]
        embeddings = []
        for suffix in suffixes:
            embedding = embed(name=f"time_out{suffix}")(nn.silu(embed(name=f"time_in{suffix}")(code)))
            if config.classes:
                table = nn.Embed(
                    config.classes + 1, config.width, embedding_init=small, name=f"label_embedding{suffix}"
                )
                embedding = embedding + table(condition["label"]).astype(dtype)
            embeddings.append(embedding)
        if config.durations:
            length = sinusoidal_embedding(condition["duration"], FREQUENCIES)
            length = embed(name="duration_out")(nn.silu(embed(name="duration_in")(length)))
            embeddings = [embedding + length for embedding in embeddings]
        if config.embedding:
            projected = embed(name="embedding_projection")(condition["embedding"])
            embeddings = [embedding + projected for embedding in embeddings]
        context = None
        if config.tokens:
            words = TokenEmbedding(config.vocabulary, config.width, dtype=dtype, name="token_embedding")
            context = words(condition["tokens"])
            projected = embed(name="token_projection")(jnp.mean(context, axis=1))
            embeddings = [embedding + projected for embedding in embeddings]

        if config.condition_channels:
            image = jnp.concatenate([image, condition["image"]], axis=-1)
        patches = space_to_depth(image, config.patch)
        rows, columns = patches.shape[1:3]
        tokens = rearrange(patches, "b h w c -> b (h w) c")
        xavier = nn.initializers.xavier_uniform()
        tokens = Dense(config.width, dtype=dtype, kernel_init=xavier, name="stem")(tokens)
        tokens = tokens + position_embedding(rows, columns, config.width).astype(dtype)
        block = nn.remat(Block) if config.remat else Block
        for index in range(config.depth):
            transform = block(config.heads, config.expansion, config.dense_epsilon, dtype, name=f"block_{index}")
            tokens = transform(tokens, embeddings[index % len(embeddings)], context)

        closed = nn.initializers.zeros
        signals = Dense(2 * config.width, dtype=dtype, kernel_init=closed, name="modulation")(nn.silu(embeddings[0]))
        shift, scale = jnp.split(signals[:, None, :], 2, axis=-1)
        tokens = modulate(tokens, shift, scale, dtype=dtype)
        size = (config.channels if config.out_channels is None else config.out_channels) * config.patch**2
        out = Dense(size, dtype=dtype, kernel_init=closed, name="head")(tokens)
        out = rearrange(out, "b (h w) c -> b h w c", h=rows, w=columns)
        return depth_to_space(out, config.patch).astype(jnp.float32)
