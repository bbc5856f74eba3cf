"""The window of a convolution, and the convolution and its two gradients as XLA computes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float

from vision.nn.bilinear import Shape
from vision.parallel.gathering import summed_over_shares

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """How a kernel moves over an image; of both sides where one number stands for two."""

    strides: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    """Pixels of zeros above and below, left and right."""
    dilation: Pair = (1, 1)
    """Distance between two values of the kernel, in pixels."""
    groups: int = 1
    """Groups of channels that are convolved separately."""
    winograd: bool = False
    """Whether the forward pass on CPUs may be Winograd's too, whose rounding error is up to 2e-5 of the largest result;
    gradients always may."""
    mesh: Mesh | AbstractMesh | None = None
    """Devices that share the samples, where gradients of kernels are summed over them in another type than the devices'
    library has (see :func:`gpu_to_kernel`)."""

    def result_shape(self, features: Shape, kernel: Shape) -> Shape:
        """The shape of the result, from those of features [b h w c] and kernel [kh kw c/groups n]."""
        sides = [
            (side + sum(margin) - (size - 1) * apart - 1) // stride + 1
            for side, size, stride, margin, apart in zip(
                features[1:3], kernel, self.strides, self.padding, self.dilation, strict=False
            )
        ]
        return (features[0], *sides, kernel[3])


def xla_convolution(features: Float[Array, "b h w c"], kernel: Array, window: Window) -> Float[Array, "b H W n"]:
    """The convolution, in the type of the features."""
    return jax.lax.conv_general_dilated(
        features,
        kernel.astype(features.dtype),
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
    )


def forward(left: Array, right: Array, /, *, shape: Shape, dtype: Any, how: Window) -> Array:
    """F(x, k)."""
    return xla_convolution(left, right, how).astype(dtype)


def to_features(left: Array, right: Array, /, *, shape: Shape, dtype: Any, how: Window) -> Array:
    """D(y, k), which has ``shape``."""
    of = jax.ShapeDtypeStruct(shape, left.dtype)
    return jax.linear_transpose(lambda x: xla_convolution(x, right, how), of)(left)[0].astype(dtype)


def to_kernel(left: Array, right: Array, /, *, shape: Shape, dtype: Any, how: Window) -> Array:
    """W(x, y), which has ``shape``.

    XLA (as of jaxlib 0.10.2) partitions this gradient of a convolution in groups wrongly where devices share a part of
    the batch, as on a mesh with ``tensor``: it is multiplied by their number. There it is a product for each position
    of the kernel.
    """
    if how.groups > 1:
        return by_positions(left, right, shape, how).astype(dtype)
    if left.dtype != dtype:
        return _wider_to_kernel(left, right, shape, dtype, how)
    of = jax.ShapeDtypeStruct(shape, left.dtype)
    return jax.linear_transpose(lambda k: xla_convolution(left, k, how), of)(right)[0]


def gpu_to_kernel(left: Array, right: Array, /, *, shape: Shape, dtype: Any, how: Window) -> Array:
    """W(x, y), which has ``shape``.

    For cuDNN it has the type of its operands; XLA would convert those to float32 to have it wider. Each device rounds
    the sum over its own samples, and the sum over devices is in ``dtype``.
    """
    if left.dtype == dtype or how.groups > 1:
        return to_kernel(left, right, shape=shape, dtype=dtype, how=how)
    own = lambda x, y: to_kernel(x, y, shape=shape, dtype=x.dtype, how=how).astype(dtype)
    return summed_over_shares(own, how.mesh, left, right)


def _wider_to_kernel(left: Array, right: Array, shape: Shape, dtype: Any, window: Window) -> Array:
    """W(x, y) as the convolution that it is, of channels as samples, accumulated and given in ``dtype``."""
    margins = []
    for axis, (before, _) in enumerate(window.padding):
        stride, apart = window.strides[axis], window.dilation[axis]
        reach = (right.shape[1 + axis] - 1) * stride + 1
        margins.append((before, (shape[axis] - 1) * apart + reach - left.shape[1 + axis] - before))
    return jax.lax.conv_general_dilated(
        left,
        right,
        window.dilation,
        margins,
        rhs_dilation=window.strides,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        preferred_element_type=dtype,
    )


def seen(features: Array, result: Sequence[int], size: Sequence[int], window: Window) -> dict[Pair, Array]:
    """For each position of the kernel, the features that it meets: [b H W c]."""
    padded = jax.lax.pad(
        features, jnp.zeros((), features.dtype), [(0, 0, 0), *((*margin, 0) for margin in window.padding), (0, 0, 0)]
    )

    def at(row: int, column: int) -> Array:
        first = row * window.dilation[0], column * window.dilation[1]
        ends = [at + (side - 1) * step + 1 for at, side, step in zip(first, result, window.strides, strict=True)]
        return padded[:, first[0] : ends[0] : window.strides[0], first[1] : ends[1] : window.strides[1]]

    return {(row, column): at(row, column) for row in range(size[0]) for column in range(size[1])}


def by_positions(features: Array, gradient: Array, shape: Shape, window: Window) -> Float[Array, "kh kw e n"]:
    """W(x, y) as the sum over pixels of the features at each position of the kernel times the gradient, in float32."""
    batch, rows, columns, outputs = gradient.shape
    each, groups = shape[2], window.groups
    right = gradient.reshape(batch, rows, columns, groups, outputs // groups)

    def product(features: Array) -> Array:
        if each == outputs // groups == 1:
            return jnp.sum(features * gradient, (0, 1, 2), dtype=jnp.float32)[None]
        left = features.reshape(batch, rows, columns, groups, each)
        made = jnp.einsum("bhwge,bhwgn->egn", left, right, preferred_element_type=jnp.float32)
        return made.reshape(each, outputs)

    found = [product(features) for features in seen(features, (rows, columns), shape[:2], window).values()]
    return jnp.stack(found).reshape(shape)
