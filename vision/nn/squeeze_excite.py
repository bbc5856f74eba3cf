"""Squeeze-and-excitation (Hu et al. 2018): channels weighted by global features of the image."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.nn.dense import Dense


class SqueezeExcite(nn.Module):
    """Multiply each channel by a gate in (0, 1) computed from the means of all channels.

    ``hidden`` is the number of channels between the two layers, the published c / 16.
    """

    hidden: int
    act: Callable[[Array], Array] = nn.relu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Gate the channels; the means are float32 whatever ``dtype`` is."""
        # Hu et al. 2018, eq. 2: z_c = mean over the pixels of u_c
        means = features.mean((1, 2), dtype=jnp.float32)
        # eq. 3: s = sigmoid(W_2 relu(W_1 z))
        hidden = self.act(Dense(self.hidden, dtype=self.dtype, name="reduce")(means))
        gate = jax.nn.sigmoid(Dense(features.shape[-1], dtype=self.dtype, name="expand")(hidden))
        return features * gate[:, None, None, :]
