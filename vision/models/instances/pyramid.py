"""Feature pyramid networks: every resolution with the meaning of the coarsest (Lin et al. 2017, section 3)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.nn.convolution import Conv, PointwiseConv
from vision.nn.resample import upsample_nearest

# U(-sqrt(3 / n), sqrt(3 / n)) for n inputs, as the published networks begin
_init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class FeaturePyramid(nn.Module):
    """Levels of equally many channels from a backbone's, each half the sides of the one before, and a coarser one."""

    channels: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[Float[Array, "b _ _ _"]]) -> tuple[Float[Array, "b _ _ {self.channels}"], ...]:
        """The pyramid of the backbone's levels, finest first, and one more of every other cell of the coarsest.

        1x1 convolutions of all levels, each the sum of its own and the coarser one doubled; then 3x3 convolutions.
        """
        merged = None
        made = []
        for k in reversed(range(len(levels))):
            lateral = PointwiseConv(
                self.channels, use_bias=True, kernel_init=_init, dtype=self.dtype, name=f"lateral_{k}"
            )(levels[k])
            merged = lateral if merged is None else lateral + upsample_nearest(merged)
            output = Conv(self.channels, kernel_init=_init, dtype=self.dtype, name=f"output_{k}")
            made.append(output(merged))
        made = made[::-1]
        return (*made, made[-1][:, ::2, ::2])
