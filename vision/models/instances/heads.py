"""What is predicted of each region from its features: class and box, and a mask of each class.

Girshick 2015, "Fast R-CNN"; Lin et al. 2017, section 4.2, for two hidden layers; He et al. 2017, figure 4 right, for
masks.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.nn.convolution import Conv, PointwiseConv
from vision.nn.dense import Dense, add_bias, multiply
from vision.nn.initializers import fan_in_uniform, he_fan_out


class BoxHead(nn.Module):
    """Two dense layers, then logits of the classes and the background, and a box for each of them."""

    classes: int
    """With the background, which is class 0."""
    width: int = 1024
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "n s s c"]
    ) -> tuple[Float[Array, "n {self.classes}"], Float[Array, "n {self.classes} 4"]]:
        """Logits, and offsets from the region (``ops/box_coding.py``), both float32."""
        hidden = features.reshape(features.shape[0], -1)
        for k in range(2):
            hidden = nn.relu(Dense(self.width, kernel_init=fan_in_uniform, dtype=self.dtype, name=f"dense_{k}")(hidden))
        hidden = hidden.astype(jnp.float32)
        logits = Dense(self.classes, kernel_init=fan_in_uniform, name="classes")(hidden)
        offsets = Dense(4 * self.classes, kernel_init=fan_in_uniform, name="offsets")(hidden)
        return logits, offsets.reshape(-1, self.classes, 4)


class Doubled(nn.Module):
    """The transposed convolution of 2x2 with stride 2: each cell becomes four, by one product of matrices."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "n h w c"]) -> Float[Array, "n H W {self.channels}"]:
        """Twice the sides; the parameters are "kernel" [2 2 c channels] and "bias"."""
        count, height, width, inputs = features.shape
        kernel = self.param("kernel", he_fan_out, (2, 2, inputs, self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        joint = kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)
        made = multiply(features.astype(self.dtype).reshape(-1, inputs), joint)
        made = made.reshape(count, height, width, 2, 2, self.channels).transpose(0, 1, 3, 2, 4, 5)
        return add_bias(made.reshape(count, 2 * height, 2 * width, self.channels), bias)


class MaskHead(nn.Module):
    """3x3 convolutions, twice the sides, then a logit of each class for every pixel."""

    classes: int
    """With the background, which is class 0 and never used."""
    width: int = 256
    depth: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "n s s c"]) -> Float[Array, "n S S {self.classes}"]:
        """Logits in float32, S = 2 s."""
        for k in range(self.depth):
            conv = Conv(self.width, kernel_init=he_fan_out, dtype=self.dtype, name=f"conv_{k}")
            features = nn.relu(conv(features))
        features = nn.relu(Doubled(self.width, dtype=self.dtype, name="double")(features))
        predict = PointwiseConv(self.classes, use_bias=True, kernel_init=he_fan_out, dtype=self.dtype, name="logits")
        return predict(features).astype(jnp.float32)
