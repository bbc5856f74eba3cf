"""Dilated convolutions of stride 1 on CPUs: ordinary ones of interleaved images, or products of what overlaps.

A kernel whose values are d pixels apart meets, from any pixel, every d-th row and column alone. An image is therefore
d * d smaller images, each convolved with the kernel as if it had no dilation, so that Winograd's form applies. And
where the kernel reaches far beyond the image, as in the atrous pyramid of DeepLab (Chen et al. 2017), most of its
values meet zeros: then the convolution is a product of matrices for each value of the kernel, over the pixels where it
meets the image.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.nn.bilinear import Shape
from vision.nn.window import Pair, Window

Range = tuple[int, int]
"""First pixel, and the one after the last."""


def interleaved_window(window: Window) -> Window | None:
    """The window over the smaller images; None where the convolution is not one of smaller images.

    That is where strides, groups, or a padding that is no multiple of the dilation stand against it.
    """
    apart, margin = window.dilation[0], window.padding[0][0]
    if window.strides != (1, 1) or window.groups > 1 or window.dilation != (apart, apart) or apart == 1:
        return None
    if window.padding != ((margin, margin), (margin, margin)) or margin % apart:
        return None
    pair = (margin // apart, margin // apart)
    return dataclasses.replace(window, dilation=(1, 1), padding=(pair, pair))


def interleave(images: Float[Array, "b h w c"], apart: int, sides: Pair) -> Float[Array, "B H W c"]:
    """The apart * apart smaller images of each, [b * apart**2, sides, c], zero beyond the image."""
    batch, height, width, channels = images.shape
    rows, columns = sides
    padding = ((0, 0), (0, rows * apart - height), (0, columns * apart - width), (0, 0))
    parts = jnp.pad(images, padding).reshape(batch, rows, apart, columns, apart, channels)
    return parts.transpose(0, 2, 4, 1, 3, 5).reshape(batch * apart**2, rows, columns, channels)


def smaller_sides(features: Shape, apart: int) -> Pair:
    """Sides of the smaller images of features [b h w c]."""
    return -(-features[1] // apart), -(-features[2] // apart)


def overlaps(features: Shape, result: Shape, size: Sequence[int], window: Window) -> dict[Pair, tuple[Range, ...]]:
    """Where each value of the kernel meets the image: rows and columns of the features, then of the result.

    Values that meet nothing are left out.
    """
    found = {}
    for row in range(size[0]):
        for column in range(size[1]):
            of_features, of_result = [], []
            for axis, at in enumerate((row, column)):
                offset = at * window.dilation[axis] - window.padding[axis][0]
                first, end = max(0, -offset), min(result[1 + axis], features[1 + axis] - offset)
                of_features.append((first + offset, end + offset))
                of_result.append((first, end))
            if all(first < end for first, end in of_result):
                found[row, column] = (*of_features, *of_result)
    return found


def met(features: Shape, result: Shape, size: Sequence[int], window: Window) -> float:
    """The share of the products of the convolution that are with pixels of the image, in [0, 1]."""
    places = overlaps(features, result, size, window).values()
    pixels = sum((rows[1] - rows[0]) * (columns[1] - columns[0]) for *_, rows, columns in places)
    return pixels / (size[0] * size[1] * result[1] * result[2])


def overlap_forward(features: Array, kernel: Array, shape: Shape, window: Window) -> Array:
    """F(x, k) of stride 1, which has ``shape``."""
    total = jnp.zeros(shape, features.dtype)
    for at, (rows, columns, *place) in overlaps(features.shape, shape, kernel.shape[:2], window).items():
        part = features[:, slice(*rows), slice(*columns)]
        total = total + _placed(_product(part, kernel[at]), place, shape)
    return total


def overlap_to_features(gradient: Array, kernel: Array, shape: Shape, window: Window) -> Array:
    """D(y, k) of stride 1, which has ``shape``."""
    total = jnp.zeros(shape, gradient.dtype)
    for at, (*place, rows, columns) in overlaps(shape, gradient.shape, kernel.shape[:2], window).items():
        part = gradient[:, slice(*rows), slice(*columns)]
        total = total + _placed(_product(part, kernel[at].T), place, shape)
    return total


def overlap_to_kernel(features: Array, gradient: Array, shape: Shape, window: Window) -> Float[Array, "kh kw c n"]:
    """W(x, y) of stride 1, which has ``shape``, in float32."""
    made = jnp.zeros(shape, jnp.float32)
    for at, (rows, columns, *place) in overlaps(features.shape, gradient.shape, shape[:2], window).items():
        left = features[:, slice(*rows), slice(*columns)].reshape(-1, shape[2])
        right = gradient[:, slice(*place[0]), slice(*place[1])].reshape(-1, shape[3])
        made = made.at[at].set(jnp.matmul(left.T, right, preferred_element_type=jnp.float32))
    return made


def _product(pixels: Array, matrix: Array) -> Array:
    """The matrix times every pixel, as one product over all of them."""
    return (pixels.reshape(-1, pixels.shape[-1]) @ matrix).reshape(*pixels.shape[:-1], -1)


def _placed(part: Array, place: Sequence[Range], shape: Shape) -> Array:
    """``part`` at its rows and columns of an image of ``shape`` that is zero elsewhere."""
    margins = [(first, side - end) for (first, end), side in zip(place, shape[1:3], strict=True)]
    return jnp.pad(part, ((0, 0), *margins, (0, 0)))
