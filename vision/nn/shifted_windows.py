"""Self-attention in windows that are shifted in every other block: Liu et al. 2021, "Swin Transformer"."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from vision.nn.dense import Dense

small = nn.initializers.truncated_normal(0.02)


def relative_positions(window: int) -> Int[np.ndarray, "n n"]:
    """For each pair of the window² pixels of a window, the row of the table of biases for their distance.

    Row (dy + window - 1) (2 window - 1) + dx + window - 1 is for a query that is dy below and dx to the right of a key.
    """
    rows, columns = np.divmod(np.arange(window * window), window)
    apart = lambda place: place[:, None] - place[None, :] + window - 1
    return apart(rows) * (2 * window - 1) + apart(columns)


def visible(height: int, width: int, window: int, shift: int) -> Bool[np.ndarray, "windows n n"]:
    """Which pixels of each window see each other once the map is rolled by ``shift``: those that were neighbours."""
    region = lambda side: np.digitize(np.arange(side), [side - window, side - shift])
    number = 3 * region(height)[:, None] + region(width)[None, :]
    pixels = rearrange(number, "(h p) (w q) -> (h w) (p q)", p=window, q=window)
    return pixels[:, :, None] == pixels[:, None, :]


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows of a feature map, with a learned bias for each distance of two pixels.

    Liu et al. 2021, eq. 4. With a shift, the map is rolled by that many pixels to the upper left, and back afterwards;
    pixels that were no neighbours do not see each other.
    """

    heads: int
    window: int
    shift: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Attend; the sides must be multiples of the window. The softmax is computed in float32."""
        _, height, width, channels = features.shape
        window, shift = self.window, self.shift
        rolled = jnp.roll(features, (-shift, -shift), (1, 2)) if shift else features
        fold = {"p": window, "q": window, "h": height // window, "w": width // window}
        tokens = rearrange(rolled, "b (h p) (w q) c -> b (h w) (p q) c", **fold)
        qkv = Dense((3, channels), kernel_init=small, dtype=self.dtype, name="qkv")(tokens)
        query, key, value = rearrange(qkv, "b m n three (a d) -> three b m a n d", a=self.heads)
        logits = jnp.einsum("bmaqd,bmakd->bmaqk", query, key, preferred_element_type=jnp.float32)
        table = self.param("position_bias", small, ((2 * window - 1) ** 2, self.heads))
        bias = rearrange(table[relative_positions(window)], "q k a -> a q k")
        # the scale is that of a head's channels
        logits = logits / np.sqrt(channels // self.heads) + bias
        if shift:
            logits = jnp.where(visible(height, width, window, shift)[:, None], logits, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
        mixed = rearrange(jnp.einsum("bmaqk,bmakd->bmaqd", weights, value), "b m a n d -> b m n (a d)")
        mixed = Dense(channels, kernel_init=small, dtype=self.dtype, name="out")(mixed)
        mixed = rearrange(mixed, "b (h w) (p q) c -> b (h p) (w q) c", **fold)
        return jnp.roll(mixed, (shift, shift), (1, 2)) if shift else mixed
