"""Convolutions on CPUs, in the form that is fastest for the shape and the direction.

XLA's own code reaches 100 to 200 GFLOP/s on two cores where there are many channels, half of it for gradients of
kernels; it computes groups one after another, and channels by themselves 20 to 70 times slower than necessary. Instead:

- 3x3 convolutions of stride 1 are Winograd's (``winograd``) where there are enough channels and tiles: 300 to 400
  GFLOP/s. Forward only on request, since rounding is not that of a plain sum.
- Gradients of the features that are few pixels of many channels, or strided, are one product of matrices.
- With a channel for each group, the convolution is a sum over the positions of the kernel, which XLA fuses into one
  loop (``depthwise``).
- Dilated kernels that mostly meet zeros are a product for each of their values, and gradients of others are Winograd's
  of interleaved images (``dilated``).
- Other groups are one convolution whose kernel is zero between groups: more products in a fraction of the time. Forward
  and backward over [64, 8, 8, 128] take 39 ms so, and 600 ms in 8 groups, 2,300 ms in 32.

``benchmarks/convolutions.py`` measures all of these.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.nn import window as xla
from vision.nn.bilinear import Shape
from vision.nn.depthwise import depthwise, depthwise_kernel_gradient
from vision.nn.dilated import (
    interleave,
    interleaved_window,
    met,
    overlap_forward,
    overlap_to_features,
    overlap_to_kernel,
    smaller_sides,
)
from vision.nn.window import Window, seen
from vision.nn.winograd import TILE, winograd_conv, winograd_kernel_gradient

WINOGRAD_CHANNELS = 32
"""Winograd's transforms cost more than they save for fewer input or output channels."""
WINOGRAD_USED = 0.6
"""Least share of the pixels of all tiles that are in the image: the others are computed for nothing."""
PRODUCT_CHANNELS = 256
"""Gradients of features with as many input and output channels, where Winograd's is not possible, are a product."""

MOSTLY_MET = 0.8
"""A dilated kernel of which a smaller share meets the image is a product for each of its values."""
FEW_CHANNELS = 4
"""Kernels of at most 3x3 with as few input channels have their gradients as a product for each of their positions."""


def forward(left: Array, right: Array, /, *, shape: Shape, dtype: Any, how: Window) -> Array:
    """F(x, k)."""
    if how.groups > 1:
        if _is_depthwise(right.shape, how):
            return depthwise(left, right, shape, how)
        right, how = block_diagonal(right, how.groups), dataclasses.replace(how, groups=1)
    if suits_products(left.shape, right.shape, shape, how):
        return overlap_forward(left, right, shape, how)
    if how.winograd and suits_winograd(left.shape, right.shape, shape, left.dtype, how):
        return winograd_conv(left, right, padding=_margin(how))
    return xla.forward(left, right, shape=shape, dtype=dtype, how=how)


def to_features(left: Array, right: Array, /, *, shape: Shape, dtype: Any, how: Window) -> Array:
    """D(y, k), which has ``shape``."""
    if _is_depthwise(right.shape, how):
        return _depthwise_to_features(left, right, shape, how)
    if how.groups > 1:
        right, how = block_diagonal(right, how.groups), dataclasses.replace(how, groups=1)
    if suits_products(shape, right.shape, left.shape, how):
        return overlap_to_features(left, right, shape, how)
    if suits_winograd(shape, right.shape, left.shape, left.dtype, how):
        # the convolution of the gradient with the kernel turned around
        return winograd_conv(left, right[::-1, ::-1].swapaxes(2, 3), padding=2 - _margin(how))
    if min(right.shape[2:]) >= PRODUCT_CHANNELS and math.prod(right.shape[:2]) > 1 and left.dtype == jnp.float32:
        return _product_to_features(left, right, shape, how)
    return xla.to_features(left, right, shape=shape, dtype=dtype, how=how)


def to_kernel(left: Array, right: Array, /, *, shape: Shape, dtype: Any, how: Window) -> Array:
    """W(x, y), which has ``shape``."""
    if _is_depthwise(shape, how):
        return depthwise_kernel_gradient(left, right, shape, how).astype(dtype)
    if how.groups > 1:
        filled = (*shape[:2], shape[2] * how.groups, shape[3])
        whole = to_kernel(left, right, shape=filled, dtype=dtype, how=dataclasses.replace(how, groups=1))
        return diagonal_blocks(whole, how.groups)
    if suits_products(left.shape, shape, right.shape, how):
        return overlap_to_kernel(left, right, shape, how).astype(dtype)
    smaller = interleaved_window(how)
    if smaller is not None:
        apart, sides = how.dilation[0], smaller_sides(left.shape, how.dilation[0])
        features = (left.shape[0] * apart**2, *sides, shape[2])
        result = smaller.result_shape(features, shape)
        if suits_winograd(features, shape, result, left.dtype, smaller):
            parts = interleave(left, apart, sides), interleave(right, apart, result[1:3])
            return to_kernel(*parts, shape=shape, dtype=dtype, how=smaller)
    if suits_winograd(left.shape, shape, right.shape, left.dtype, how):
        return winograd_kernel_gradient(left, right, padding=_margin(how)).astype(dtype)
    if shape[2] <= FEW_CHANNELS and shape[:2] <= (3, 3):
        return xla.by_positions(left, right, shape, how).astype(dtype)
    return xla.to_kernel(left, right, shape=shape, dtype=dtype, how=how)


def suits_products(features: Shape, kernel: Shape, result: Shape, window: Window) -> bool:
    """Whether a dilated convolution is faster as a product for each value of the kernel that meets the image."""
    if window.dilation == (1, 1) or window.strides != (1, 1) or window.groups > 1:
        return False
    return min(kernel[2:]) >= WINOGRAD_CHANNELS and met(features, result, kernel[:2], window) < MOSTLY_MET


def suits_winograd(features: Shape, kernel: Shape, result: Shape, dtype: Any, window: Window) -> bool:
    """Whether Winograd's form is possible, and faster than XLA's, for these shapes."""
    if (kernel[:2], window.strides, window.dilation, window.groups) != ((3, 3), (1, 1), (1, 1), 1):
        return False
    if dtype != jnp.float32 or len({*window.padding[0], *window.padding[1]}) > 1 or _margin(window) not in (0, 1, 2):
        return False
    if not isinstance(features[0], int):
        return False  # exported for any number of samples
    tiles = features[0] * -(-result[1] // TILE) * -(-result[2] // TILE)
    used = features[0] * result[1] * result[2] / (tiles * TILE**2)
    inputs, outputs = kernel[2:]
    # each transformed kernel has 36 products for a tile: with few tiles reading the kernels takes longest
    return min(inputs, outputs) >= WINOGRAD_CHANNELS and 4 * tiles >= max(inputs, outputs) and used >= WINOGRAD_USED


def _margin(window: Window) -> int:
    return window.padding[0][0]


def _is_depthwise(kernel: Shape, window: Window) -> bool:
    return window.groups > 1 and kernel[2] == 1 and kernel[3] == window.groups


def _depthwise_to_features(gradient: Array, kernel: Array, shape: Shape, window: Window) -> Array:
    """The depthwise convolution of the gradient, spread out by the strides, with the kernel turned around."""
    spread = []
    for axis, margin in enumerate(window.padding):
        reach = (kernel.shape[axis] - 1) * window.dilation[axis]
        before, stride = reach - margin[0], window.strides[axis]
        # as many pixels as the features have, and ``reach`` more
        after = shape[1 + axis] + reach - before - ((gradient.shape[1 + axis] - 1) * stride + 1)
        spread.append((before, after, stride - 1))
    spread_out = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    return depthwise(spread_out, kernel[::-1, ::-1], shape, Window(dilation=window.dilation, groups=window.groups))


def _product_to_features(gradient: Array, kernel: Array, shape: Shape, window: Window) -> Array:
    """The products of the gradient and the kernel at each of its positions, added where these positions are."""
    outputs = gradient.shape[-1]
    made = gradient.reshape(-1, outputs) @ kernel.reshape(-1, outputs).T
    made = jax.lax.optimization_barrier(made).reshape(*gradient.shape[:3], *kernel.shape[:2], kernel.shape[2])
    everywhere = lambda x: list(seen(x, gradient.shape[1:3], kernel.shape[:2], window).values())
    parts = [made[..., row, column, :] for row in range(kernel.shape[0]) for column in range(kernel.shape[1])]
    return jax.linear_transpose(everywhere, jax.ShapeDtypeStruct(shape, gradient.dtype))(parts)[0]


def block_diagonal(kernel: Float[Array, "h w e n"], groups: int) -> Float[Array, "h w c n"]:
    """The kernel of the ordinary convolution that is the one in groups: [h, w, groups * e, n], zero between groups."""
    height, width, each, outputs = kernel.shape
    parts = kernel.reshape(height, width, each, groups, outputs // groups)
    # [h w G e G n/G], where the two groups are equal
    blocks = jnp.einsum("hwegn,gk->hwkegn", parts, jnp.eye(groups, dtype=kernel.dtype))
    return blocks.reshape(height, width, groups * each, outputs)


def diagonal_blocks(kernel: Float[Array, "h w c n"], groups: int) -> Float[Array, "h w e n"]:
    """The transpose of :func:`block_diagonal`: the values within groups."""
    height, width, inputs, outputs = kernel.shape
    each = inputs // groups
    blocks = kernel.reshape(height, width, groups, each, groups, outputs // groups)
    index = jnp.arange(groups)
    # [G h w e n/G]
    return jnp.moveaxis(blocks[:, :, index, :, index], 0, 3).reshape(height, width, each, outputs)
