"""Batch normalisation whose scale and shift depend on a class."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vision.nn.batch_norm import BatchNorm, batch_norm


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation with a scale and a shift for each class (Dumoulin et al. 2017).

    Without labels it is an ordinary batch normalisation. Statistics are those of the complete batch, independent of
    classes.
    """

    classes: int = 0
    scale_init: Callable[..., Array] = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b h w c"], label: Int[Array, " b"] | None, *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Normalise; labels in [0, classes) are needed if and only if there are classes."""
        channels = features.shape[-1]
        if label is None:
            return batch_norm(train=train, dtype=self.dtype, scale_init=self.scale_init, name="norm")(features)
        plain = BatchNorm(not train, use_scale=False, use_bias=False, dtype=self.dtype, name="norm")
        scale = self.param("scale", self.scale_init, (self.classes, channels))
        bias = self.param("bias", nn.initializers.zeros, (self.classes, channels))
        chosen = lambda table: table[label].astype(self.dtype)[:, None, None, :]
        return plain(features) * chosen(scale) + chosen(bias)
