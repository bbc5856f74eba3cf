"""Normalisation layers."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) of [b, h, w, c] over the pixels and the channels of each group.

    The number of groups is the largest common divisor of ``groups``, the channels c, and c // least: it is ``groups``
    where each group has a multiple of ``least`` channels, and fewer otherwise; no group has fewer than ``least``
    channels, unless there are fewer in total. Statistics are float32 whatever ``dtype`` is.

    The sums over pixels come before the sums over channels: XLA then reduces whole rows of contiguous channels and
    needs no transpose, which on a CPU is several times faster than reducing a [b, h, w, g, c/g] array in one step. The
    normalisation itself is one multiply and one add for each value.
    """

    groups: int = 32
    least: int = 4
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalise, scale and shift."""
        batch, _, _, channels = features.shape
        groups = math.gcd(self.groups, channels, max(channels // self.least, 1))
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        wide = features.astype(jnp.float32)
        grouped = lambda sums: sums.reshape(batch, groups, channels // groups).mean(-1, keepdims=True)
        mean = grouped(wide.mean((1, 2)))
        # E[x^2] - mean^2 reads the features once, where E[(x - mean)^2] reads them twice; rounding may take it below 0.
        # It loses precision where the mean is large relative to the deviation: 1e-3 of the variance at a ratio of 100.
        variance = jnp.maximum(grouped(jnp.square(wide).mean((1, 2))) - jnp.square(mean), 0.0)
        gain = jax.lax.rsqrt(variance + self.epsilon)
        spread = lambda x: jnp.broadcast_to(x, (batch, groups, channels // groups)).reshape(batch, 1, 1, channels)
        multiplier = spread(gain) * scale
        offset = bias - spread(mean) * multiplier
        return (wide * multiplier + offset).astype(self.dtype)


class InstanceNorm(nn.Module):
    """Instance normalisation (Ulyanov et al. 2016) of [b, h, w, c] over the pixels of each image and channel.

    Statistics of another image may take the place of the image's own, so that tiles are normalised as the whole is:
    ``apply(variables, whole, mutable=["statistics"])`` keeps those of an image in that collection, and applying with
    the collection, not mutable, uses them.
    """

    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Normalise, scale and shift."""
        channels = features.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        wide = features.astype(jnp.float32)
        keeping = self.is_mutable_collection("statistics") and not self.is_initializing()
        if self.has_variable("statistics", "mean") and not keeping:
            mean, variance = (jnp.asarray(self.get_variable("statistics", name)) for name in ("mean", "variance"))
        else:
            mean = wide.mean((1, 2), keepdims=True)
            variance = jnp.square(wide - mean).mean((1, 2), keepdims=True)
        if keeping:
            self.put_variable("statistics", "mean", mean)
            self.put_variable("statistics", "variance", variance)
        return ((wide - mean) * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias).astype(self.dtype)
