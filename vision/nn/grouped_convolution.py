"""Convolutions of channels in groups, with gradients that are right on every mesh.

XLA (as of jaxlib 0.10.2) partitions the gradient of a grouped convolution's kernel wrongly where devices share a part
of the batch, as on a mesh with ``tensor``: it is multiplied by their number. Here that gradient is a product for each
position of the kernel (:func:`grouped_conv`).

XLA also computes these gradients on CPUs one group after another. Forward and backward over [64, 8, 8, 128] take 39 ms
on two cores without groups, 600 ms with 8 and 2,300 ms with 32. `GroupedConv3x3` pads the kernel there with zeros
between groups to that of an ordinary convolution: more products in a fraction of the time. With a channel for each
group the convolution is a sum over the positions of the kernel there (7x7 over [8, 14, 14, 384]: 3 ms, where XLA's own
takes 40).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.platform import platform


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def grouped_conv(
    features: Float[Array, "b h w c"], kernel: Float[Array, "k k e n"], groups: int, stride: int, padding: int
) -> Float[Array, "b H W n"]:
    """Convolve each of ``groups`` groups of e channels separately with its n / groups kernels.

    Args:
      features: c = groups * e channels.
      kernel: of k x k pixels.
      groups: number of groups.
      stride: of both sides.
      padding: pixels of zeros on every side.
    """
    if kernel.shape[2] == 1 and kernel.shape[3] == groups and platform() == "cpu":
        return _depthwise(features, kernel, stride, padding)
    return jax.lax.conv_general_dilated(
        features,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _depthwise(features: Array, kernel: Array, stride: int, padding: int) -> Array:
    """A channel for each group, as a sum over the positions of the kernel, which XLA fuses into one loop."""
    size = len(kernel)
    margin = (padding, padding)
    padded = jnp.pad(features, ((0, 0), margin, margin, (0, 0)))
    rows, columns = ((side - size) // stride + 1 for side in padded.shape[1:3])
    ends = (rows - 1) * stride + 1, (columns - 1) * stride + 1
    seen = lambda row, column: padded[:, row : row + ends[0] : stride, column : column + ends[1] : stride]
    wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
    positions = ((row, column) for row in range(size) for column in range(size))
    return sum(wide(seen(*at)) * wide(kernel[(*at, 0)]) for at in positions).astype(features.dtype)  # pyright: ignore


def _forward(features: Array, kernel: Array, groups: int, stride: int, padding: int) -> tuple[Array, Any]:
    return grouped_conv(features, kernel, groups, stride, padding), (features, kernel)


def _backward(groups: int, stride: int, padding: int, saved: Any, gradient: Array) -> tuple[Array, Array]:
    features, kernel = saved
    return (
        _features_gradient(features.shape[1:3], kernel, groups, stride, padding, gradient),
        _kernel_gradient(features, kernel, groups, stride, padding, gradient),
    )


grouped_conv.defvjp(_forward, _backward)


def _features_gradient(
    sides: tuple[int, int], kernel: Array, groups: int, stride: int, padding: int, gradient: Array
) -> Array:
    """A grouped convolution of the gradient, spread out by the stride, with the kernel turned around."""
    size, _, each, outputs = kernel.shape
    turned = kernel[::-1, ::-1].reshape(size, size, each, groups, outputs // groups)
    turned = turned.transpose(0, 1, 4, 3, 2).reshape(size, size, outputs // groups, groups * each)
    before = size - 1 - padding
    spread = [
        (before, side + padding - 1 - (rows - 1) * stride, stride - 1)
        for side, rows in zip(sides, gradient.shape[1:3], strict=True)
    ]
    padded = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    return grouped_conv(padded, turned, groups, 1, 0)


def _kernel_gradient(features: Array, kernel: Array, groups: int, stride: int, padding: int, gradient: Array) -> Array:
    """For each position of the kernel, the sum over pixels of the features there times the gradient."""
    size, _, each, outputs = kernel.shape
    batch, rows, columns, _ = gradient.shape
    margin = (padding, padding)
    padded = jnp.pad(features, ((0, 0), margin, margin, (0, 0)))
    right = gradient.reshape(batch, rows, columns, groups, outputs // groups)

    def at(row: int, column: int) -> Array:
        ends = (row + (rows - 1) * stride + 1, column + (columns - 1) * stride + 1)
        seen = padded[:, row : ends[0] : stride, column : ends[1] : stride]
        if each == outputs // groups == 1:
            return jnp.sum(seen * gradient, (0, 1, 2), dtype=jnp.float32)[None]
        left = seen.reshape(batch, rows, columns, groups, each)
        made = jnp.einsum("bhwge,bhwgn->egn", left, right, preferred_element_type=jnp.float32)
        return made.reshape(each, outputs)

    found = jnp.stack([jnp.stack([at(row, column) for column in range(size)]) for row in range(size)])
    return found.astype(kernel.dtype)


class GroupedConv(nn.Module):
    """``nn.Conv`` in groups, with an odd size and the padding that keeps the sides; the parameters have its names."""

    channels: int
    size: int
    groups: int
    strides: int = 1
    use_bias: bool = False
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b H W channels"]:
        """Sides are divided by the stride, and rounded up."""
        shape = (self.size, self.size, features.shape[-1] // self.groups, self.channels)
        kernel = jnp.asarray(self.param("kernel", self.kernel_init, shape), self.dtype)
        features = jnp.asarray(features, self.dtype)
        made: Any = grouped_conv(features, kernel, self.groups, self.strides, self.size // 2)
        if self.use_bias:
            made = made + self.param("bias", nn.initializers.zeros, (self.channels,)).astype(self.dtype)
        return made


class GroupedConv3x3(nn.Module):
    """A 3x3 convolution in ``groups`` groups, with as many output as input channels, without a bias."""

    groups: int
    kernel_init: Callable[..., Array] = nn.initializers.he_normal()
    filled: bool | None = None
    """Whether to pad the kernel with zeros; by default on CPUs."""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Convolve each group of channels separately."""
        channels = features.shape[-1]
        each = channels // self.groups
        kernel = jnp.asarray(self.param("kernel", self.kernel_init, (3, 3, each, channels)), self.dtype)
        groups = self.groups
        if platform() == "cpu" if self.filled is None else self.filled:
            kernel, groups = block_diagonal(kernel, self.groups), 1
        if groups > 1:
            made: Any = grouped_conv(features.astype(self.dtype), kernel, groups, 1, 1)
            return made
        return jax.lax.conv_general_dilated(
            features.astype(self.dtype),
            kernel,
            (1, 1),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


def block_diagonal(kernel: Float[Array, "h w e n"], groups: int) -> Float[Array, "h w c n"]:
    """The kernel of the ordinary convolution that is the grouped one: [h, w, groups * e, n], zero between groups."""
    height, width, each, outputs = kernel.shape
    parts = kernel.reshape(height, width, each, groups, outputs // groups)
    # [h w G e G n/G], where the two groups are equal
    blocks = jnp.einsum("hwegn,gk->hwkegn", parts, jnp.eye(groups, dtype=kernel.dtype))
    return blocks.reshape(height, width, groups * each, outputs)
