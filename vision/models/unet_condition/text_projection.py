"""How the decoder of an unCLIP gets its text and its image embedding (Ramesh et al. 2022, section 2.1), as in Karlo.

The projected image embedding makes tokens of the context, before those of the text encoder; projections of the image's
and of the text's embedding are added to that of the time. A learned vector stands for "no image embedding".
"""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from vision.nn.dense import Dense
from vision.ranges import Channels, Depth


@dataclass(frozen=True)
class TextProjectionConfig:
    """Widths. The defaults are those of Karlo 1.0 alpha."""

    tokens: Depth = 4
    """Tokens that the image embedding makes."""
    embedding: Channels = 768
    """Channels of embeddings of CLIP, and of the tokens of its text encoder."""
    time_width: Channels = 1280
    """Channels of the decoder's embedding of the time."""
    context: Channels = 1536
    """Channels of the decoder's context."""


class TextProjection(nn.Module):
    """Conditions of a `vision.models.unet_condition.unet.ConditionUNet` with an embedding of the kind "vector"."""

    config: TextProjectionConfig = TextProjectionConfig()

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b e"] | None,
        text: Float[Array, "b e"],
        tokens: Float[Array, "b n e"],
    ) -> dict[str, Array]:
        """Project embeddings.

        Args:
          image: embeddings of images; None for the learned "no image embedding".
          text: embeddings of texts.
          tokens: of the text encoder.

        Returns:
          "context" float [b tokens+n context], and "embedding" float [b time_width].
        """
        config = self.config
        none = self.param("no_image", nn.initializers.zeros, (config.embedding,))
        image = jnp.broadcast_to(none, text.shape) if image is None else image
        of_time = lambda name: Dense(config.time_width, name=name)
        embedding = of_time("image_time")(image) + of_time("text_time")(text)
        made = Dense(config.tokens * config.context, name="image_tokens")(image)
        # as published, the tokens are the faster axis
        first = rearrange(made, "b (d n) -> b n d", n=config.tokens)
        rest = nn.LayerNorm(epsilon=1e-5, name="norm")(Dense(config.context, name="text_tokens")(tokens))
        return {"context": jnp.concatenate([first, rest], axis=1), "embedding": embedding}
