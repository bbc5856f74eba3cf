"""The semantic branch of a panoptic feature pyramid: Kirillov et al. 2019, "Panoptic Feature Pyramid Networks".

A feature pyramid (Lin et al. 2017) has as many channels at every stride; convolutions with group normalisation bring
each level to stride 4, where they are summed (Kirillov et al., figure 3).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.models.segmentation.fcn import logits_of
from vision.models.segmentation.levels import Levels, level, numbers, size_of
from vision.nn.convolution import Conv, PointwiseConv
from vision.nn.initializers import he_fan_out
from vision.nn.norms import GroupNorm
from vision.nn.resample import upsample_nearest_to
from vision.nn.resample_bilinear import upsample_bilinear_to
from vision.ranges import Channels


@dataclass(frozen=True)
class PyramidConfig:
    """Channels of the pyramid and of the branch."""

    width: Channels = 256
    """Channels of the feature pyramid, at least 1."""
    branch_width: Channels = 128
    """Channels of the convolutions that bring its levels to stride 4, at least 1."""
    remat: bool = False
    """Recompute the inside of those in the backward pass."""


class FeaturePyramid(nn.Module):
    """Fuse levels from coarse to fine: laterals, nearest upsampling, sums, and a 3x3 convolution of each level."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Levels) -> dict[str, Float[Array, "b _ _ channels"]]:
        """The levels by the same names, of the same resolutions."""
        found: dict[str, Array] = {}
        above = None
        for number in reversed(numbers(levels)):
            features = levels[f"c{number}"]
            lateral = PointwiseConv(self.channels, use_bias=True, dtype=self.dtype, name=f"lateral_{number}")(features)
            above = lateral if above is None else lateral + upsample_nearest_to(above, size_of(features))
            found[f"c{number}"] = Conv(self.channels, 3, dtype=self.dtype, name=f"output_{number}")(above)
        return found


class Branch(nn.Module):
    """3x3 convolution, group normalisation, ReLU and upsampling, once for each of ``sizes``, from coarse to fine."""

    channels: int
    sizes: tuple[tuple[int, int], ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b H W channels"]:
        """Features of the last size."""
        conv = partial(Conv, self.channels, 3, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        for index, size in enumerate(self.sizes, start=1):
            hidden = GroupNorm(epsilon=1e-5, dtype=self.dtype, name=f"norm_{index}")(
                conv(name=f"conv_{index}")(features)
            )
            features = upsample_bilinear_to(nn.relu(hidden), size)
        return features


class PyramidDecoder(nn.Module):
    """A feature pyramid of the features from stride 4 on, brought to stride 4, and logits of the sum.

    ``output_stride`` is that of the last features.
    """

    classes: int
    output_stride: int
    config: PyramidConfig = PyramidConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Levels) -> Float[Array, "b h w classes"]:
        """Logits in float32, of the resolution of stride 4.

        Raises:
          UserError: there are no features of stride 4.
        """
        level(levels, "c2", "a feature pyramid")
        used = {f"c{number}": levels[f"c{number}"] for number in numbers(levels) if number >= 2}
        pyramid = FeaturePyramid(self.config.width, self.dtype, name="pyramid")(used)
        branch = partial(Branch if not self.config.remat else nn.remat(Branch), self.config.branch_width)
        return _logits(pyramid, branch, self.classes, self.output_stride, self.dtype)


class SemanticBranch(nn.Module):
    """Levels of a feature pyramid, of strides 4 to 32, brought to stride 4, and logits of the sum."""

    classes: int
    width: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Levels) -> Float[Array, "b h w classes"]:
        """Logits in float32, of the resolution of stride 4."""
        return _logits(levels, partial(Branch, self.width), self.classes, 32, self.dtype)


def _logits(pyramid: Levels, branch: Callable[..., nn.Module], classes: int, output_stride: int, dtype: Any) -> Array:
    """The layers "branch_2", "branch_3", ... and "logits" of the module that calls it."""
    made = []
    for number in numbers(pyramid):
        # how often the stride is halved until it is 4; levels that dilation keeps at one stride have equally many
        halvings = min(number, output_stride.bit_length() - 1) - 2
        finer = [size_of(pyramid[f"c{each}"]) for each in reversed(range(2, 2 + halvings))]
        sizes = tuple(finer) or (size_of(pyramid["c2"]),)
        each: Any = branch(sizes, dtype, name=f"branch_{number}")
        made.append(each(pyramid[f"c{number}"]))
    return logits_of(classes)(functools.reduce(jnp.add, made))
