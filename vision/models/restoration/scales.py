"""Scales of super-resolution, and the layers that change the resolution by them."""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.nn.convolution import Conv
from vision.nn.initializers import fan_in_uniform
from vision.nn.resample import depth_to_space
from vision.ops.imresize import imresize

Scale = Literal[1, 2, 3, 4]
"""How many times as long the sides of the result are; 1 for restoration at the same resolution."""

MEAN = (0.4488, 0.4371, 0.4040)
"""Mean red, green and blue of DIV2K's training images in [0, 1] (Lim et al. 2017), which networks subtract."""


def mean_of(channels: int) -> Float[Array, " c"]:
    """What is subtracted from images with this number of channels: ``MEAN`` from colours, nothing from others."""
    return jnp.asarray(MEAN if channels == 3 else (0.0,) * channels, jnp.float32)


def steps_of(scale: Scale) -> tuple[int, ...]:
    """The factors by which an image is enlarged one after another: twice by 2 for 4."""
    return {1: (), 2: (2,), 3: (3,), 4: (2, 2)}[scale]


def enlarged(image: Float[Array, "b h w c"], scale: Scale) -> Float[Array, "b H W c"]:
    """The image enlarged as by MATLAB's bicubic ``imresize``; itself for 1."""
    return image if scale == 1 else imresize(image, float(scale))


class PixelShuffleUpsampling(nn.Module):
    """A convolution to p² times the channels, which become squares of p x p pixels; for 4, twice with p = 2.

    Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
    Neural Network", section 3.2. Of each pixel's channels the order here is (p p c); published weights have (c p p).
    """

    scale: Scale
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        """Features ``scale`` times as large."""
        width = features.shape[-1]
        conv = partial(Conv, kernel_init=fan_in_uniform, dtype=self.dtype)
        for number, factor in enumerate(steps_of(self.scale), start=1):
            features = depth_to_space(conv(width * factor**2, name=f"conv_{number}")(features), factor)
        return features
