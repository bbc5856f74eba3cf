"""Convolutions with a channel for each group (depthwise ones) on CPUs, without XLA's code for windows.

The convolution is a sum over the positions of the kernel, which XLA fuses into one loop over pixels: 7x7 over
[8, 14, 14, 384] takes 3 ms on two cores, where XLA's own takes 40. The gradient of the kernel is a small product of
matrices for each channel.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.nn.bilinear import Shape
from vision.nn.window import Window, by_positions, seen

BLOCK = 14
"""Columns of the gradient in one product; it meets ``BLOCK`` + size - 1 columns of the features."""


def depthwise(features: Array, kernel: Array, shape: Shape, window: Window) -> Float[Array, "b H W c"]:
    """The convolution; its result has ``shape``."""
    wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
    everywhere = seen(features, shape[1:3], kernel.shape[:2], window)
    total = sum(wide(part) * wide(kernel[(*at, 0)]) for at, part in everywhere.items())
    return jnp.asarray(total, features.dtype)


def depthwise_kernel_gradient(
    features: Array, gradient: Array, shape: Shape, window: Window
) -> Float[Array, "kh kw 1 c"]:
    """The gradient of the kernel, in float32.

    For each row of the kernel, the product over all rows of the gradient and those of the features that the row of the
    kernel meets has the wanted sums along its diagonals: a column of the gradient belongs to every column of the
    features, and only those that are at most the kernel's size apart are of use. So the columns are cut into blocks.
    """
    if window.strides != (1, 1) or window.dilation != (1, 1):
        return by_positions(features, gradient, shape, window)
    height, width = shape[:2]
    batch, rows, columns, channels = gradient.shape
    wide = columns if columns <= BLOCK else BLOCK
    blocks = -(-columns // wide)
    (above, below), (before, after) = window.padding
    after += blocks * wide - columns
    padded = jnp.pad(features, ((0, 0), (above, below), (before, after), (0, 0))).astype(jnp.float32)
    right = jnp.pad(gradient, ((0, 0), (0, 0), (0, blocks * wide - columns), (0, 0))).astype(jnp.float32)
    right = right.reshape(batch, rows, blocks, wide, channels)
    left = jnp.stack([padded[:, :, at * wide : at * wide + wide + width - 1] for at in range(blocks)], 2)
    # what is summed over, rows first, is one axis: a row of the kernel is then one slice of it
    each = batch * blocks
    left = left.transpose(4, 3, 1, 0, 2).reshape(channels, wide + width - 1, -1)
    right = right.transpose(4, 1, 0, 2, 3).reshape(channels, rows * each, wide)

    def of_row(row: Array) -> Float[Array, "c v w"]:
        met = jax.lax.dynamic_slice_in_dim(left, row * each, rows * each, 2)
        return jnp.einsum("cvk,ckw->cvw", met, right)

    # in a loop the transposed features are stored; XLA would transpose them again for each slice
    products = jax.lax.map(of_row, jnp.arange(height))
    diagonals = [jnp.trace(products[:, :, at : at + wide], axis1=2, axis2=3) for at in range(width)]
    return jnp.stack(diagonals, 1)[:, :, None]
