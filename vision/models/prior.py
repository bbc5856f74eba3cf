"""The diffusion prior of unCLIP: from a text to the CLIP embedding of an image (Ramesh et al. 2022, section 2.2).

    estimate = PriorTransformer(config).apply(variables, noisy, time, condition, train=False)

A causal transformer over the hidden states of CLIP's text tower, the embedding of the text, the time, the noisy
embedding of the image, and a learned query, at whose place the prediction is read. An embedding is an image of one
place with as many channels, so that processes, losses and samplers of images are its own too.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Key, Num

from vision.errors import UserError
from vision.models.clip.text import EPSILON, block_of
from vision.models.vit import SHARDING_RULES as VIT_RULES
from vision.nn.conditioning import check_condition
from vision.nn.dense import Dense, add_bias
from vision.nn.embeddings import sinusoidal_embedding
from vision.nn.transformer import gelu
from vision.ranges import Channels, Depth, DropRate, NoneOrMoreChannels, PositiveInt
from vision.types import Condition

SCALE = "embeddings"
"""The collection with "mean" and "deviation" [e] of the embeddings of images, by which what is diffused is scaled."""


@dataclass(frozen=True, kw_only=True)
class PriorSize:
    """What is chosen of a prior's transformer; the rest follows from the CLIP. The defaults are those of the paper."""

    width: Channels = 2048
    """Channels of a token, an even multiple of the heads."""
    depth: Depth = 24
    """Blocks."""
    heads: Depth = 32
    """Attention heads."""
    query: bool = True
    """A learned last token, at whose place the prediction is read; without it, at that of the noisy embedding."""
    norm_in: bool = False
    """Normalise all tokens before the first block."""
    text_norm: bool = False
    """Normalise the embedding of the text before its projection."""
    time_width: NoneOrMoreChannels = 0
    """Inner channels of the embedding of the time; 0 for the width."""
    time_activation: Literal["silu", "gelu"] = "silu"
    """Between the two layers of the embedding of the time."""
    dropout: DropRate = 0.0
    """Share of features of each block that are dropped in training."""
    remat: bool = False
    """Recompute the inside of blocks in the backward pass: less memory, a third more compute."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; parameters, softmax and predictions stay float32."""


@dataclass(frozen=True, kw_only=True)
class PriorConfig(PriorSize):
    """A prior for a CLIP. The defaults are for ViT-L/14."""

    embedding: Channels = 768
    """Channels of the embedding of an image, which is predicted."""
    text_embedding: NoneOrMoreChannels = 768
    """Channels of the condition "text_embedding"; 0 for a network without it."""
    text_width: NoneOrMoreChannels = 768
    """Channels of the condition "text_states"; 0 for a network without it and "text_mask"."""
    text_length: PositiveInt = 77
    """Tokens of a text, padding included; 1 without ``text_width``."""


PUBLISHED = PriorConfig(depth=20)
"""The default size of diffusers, which that of Karlo is too."""
PRIORS = {
    "paper": PriorSize(),
    "karlo": PriorSize(depth=20),
    "large": PriorSize(width=1024, depth=20, heads=16),
    "base": PriorSize(width=768, depth=12, heads=12),
    "small": PriorSize(width=384, depth=12, heads=6),
}
"""Sizes by name: that of Ramesh et al. 2022, table 3, that of the published Karlo, and smaller ones."""

SHARDING_RULES: tuple[tuple[str, P], ...] = (
    *(rule for rule in VIT_RULES if "head" not in rule[0]),
    (r"time_in/kernel$", P(None, "tensor")),
    (r"time_out/kernel$", P("tensor", None)),
    (r"(text_projection|states_projection|stem)/kernel$", P(None, "tensor")),
)


def condition_shapes(config: PriorConfig, batch: int) -> dict[str, tuple[int, ...]]:
    """The shape of each condition of a prior for a batch."""
    shapes: dict[str, tuple[int, ...]] = {}
    if config.text_embedding:
        shapes["text_embedding"] = (batch, config.text_embedding)
    if config.text_width:
        shapes["text_states"] = (batch, config.text_length, config.text_width)
        shapes["text_mask"] = (batch, config.text_length)
    return shapes


class PriorTransformer(nn.Module):
    """Predict the target of diffusion, the embedding itself as published, from a noisy embedding of an image."""

    config: PriorConfig = PUBLISHED

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b 1 1 e"],
        time: Num[Array, " b"],
        condition: Condition | None = None,
        *,
        train: bool,
    ) -> Float[Array, "b 1 1 e"]:
        """Run the network.

        Args:
          image: noisy embeddings, of about unit variance.
          time: as ``Process.network_time`` gives it: steps of a discrete schedule, 0 to 999 as published.
          condition: what the configuration names: "text_embedding" float [b text_embedding] of any length;
            "text_states" float [b text_length text_width], the text tower's after its last normalisation; "text_mask"
            bool [b text_length], False for padding, which nothing sees.
          train: whether dropout is active.

        Returns:
          The prediction in float32.

        Raises:
          UserError: the width is no even multiple of the heads.
          ValueError: a condition is missing, has another shape, or is one that the network was not built for.
        """
        config = self.config
        batch, width, dtype = image.shape[0], config.width, jnp.dtype(config.dtype)
        condition = condition or {}
        check_condition("a prior", condition, condition_shapes(config, batch))
        if width % 2:
            raise UserError(
                f"model.width {width} is odd, and half of the code of the time are sines: choose an even one"
            )
        norm = partial(nn.LayerNorm, epsilon=EPSILON, dtype=dtype)
        dense = partial(Dense, width, dtype=dtype, kernel_init=nn.initializers.normal(width**-0.5))
        parts = []
        if config.text_width:
            parts.append(dense(name="states_projection")(condition["text_states"]))
        if config.text_embedding:
            text = condition["text_embedding"]
            text = norm(name="text_norm")(text) if config.text_norm else text
            parts.append(dense(name="text_projection")(text)[:, None])
        code = sinusoidal_embedding(time, width, shift=0.0)
        inner = Dense(
            config.time_width or width, dtype=dtype, kernel_init=nn.initializers.normal(width**-0.5), name="time_in"
        )
        activation = nn.silu if config.time_activation == "silu" else gelu
        parts.append(dense(name="time_out")(activation(inner(code)))[:, None])
        parts.append(dense(name="stem")(image[:, 0]))
        if config.query:
            query = self.param("query", nn.initializers.normal(width**-0.5), (width,), jnp.float32)
            parts.append(jnp.broadcast_to(query.astype(dtype), (batch, 1, width)))
        tokens = jnp.concatenate(parts, axis=1)
        count = tokens.shape[1]
        position = self.param("position", nn.initializers.normal(0.01), (count, width), jnp.float32)
        tokens = add_bias(tokens, position)
        tokens = norm(name="norm_in")(tokens) if config.norm_in else tokens

        seen = None
        if config.text_width:
            others = jnp.ones((batch, count - config.text_length), bool)
            present = jnp.concatenate([condition["text_mask"].astype(bool), others], axis=1)
            # a token that is padding sees itself, so that its softmax is defined whatever the mask is
            seen = present[:, None, :] | jnp.eye(count, dtype=bool)
        how = {"activation": gelu, "causal": True, "dropout": config.dropout, "dtype": dtype}
        block = block_of(width, config.depth, heads=config.heads, remat=config.remat, **how)
        for index in range(config.depth):
            tokens = block(f"block_{index}")(tokens, train, seen)
        last = norm(name="norm")(tokens[:, -1]).astype(jnp.float32)
        # the mean of embeddings of mean 0, before anything is known
        made = Dense(config.embedding, kernel_init=nn.initializers.zeros, name="head")(last)
        return rearrange(made, "b e -> b 1 1 e")


def initial_variables(config: PriorConfig, key: Key[Array, ""]) -> dict[str, Any]:
    """{"params": ..., "embeddings": {"mean", "deviation"}}: random parameters, and a scale that changes nothing."""
    kinds = {"text_mask": jnp.bool_}
    shapes = condition_shapes(config, 1)
    condition = {name: jnp.zeros(shape, kinds.get(name, jnp.float32)) for name, shape in shapes.items()}
    image = jnp.zeros((1, 1, 1, config.embedding))
    made = PriorTransformer(config).init({"params": key}, image, jnp.zeros(1), condition, train=False)
    return {
        "params": made["params"],
        SCALE: {"mean": jnp.zeros(config.embedding), "deviation": jnp.ones(config.embedding)},
    }
