"""MATLAB's ``imresize``, which makes the low-resolution images of super-resolution and its bicubic baseline.

The filters and their widening are those of ``vision.ops.resize``. Two things differ: beyond its border an image is
continued by its mirror image, the border repeated (b a | a b c | c b), where Pillow leaves out what is outside; and a
factor that is given is used as it is, also where the sides times the factor are no whole numbers. Published figures
of super-resolution change by more than a decibel with another bicubic filter than this one.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from vision.errors import UserError
from vision.ops.resize import SUPPORT, filter_value

MatlabMethod = Literal["box", "bilinear", "bicubic", "lanczos3"]


def imresize(
    images: Float[Array, "b h w c"],
    scale: float | None = None,
    *,
    size: tuple[int, int] | None = None,
    method: MatlabMethod = "bicubic",
    antialias: bool = True,
) -> Float[Array, "b H W c"]:
    """Resize as MATLAB's ``imresize(image, scale)`` or ``imresize(image, [H W])`` does for floating-point images.

    Args:
      images: any range; bicubic and lanczos3 overshoot it.
      scale: the factor; sides are rounded up, ceil(scale h). Write 1 / 3 and not 0.33.
      size: height and width of the result in place of a factor.
      method: the filter; "bicubic" is that of Keys 1981 with a = -1/2.
      antialias: whether filters are widened where a side shrinks.

    Raises:
      UserError: unless exactly one of ``scale`` and ``size`` is given and positive.
    """
    sides = images.shape[1:3]
    if size is not None and scale is None and min(size) > 0:
        wanted, factors = size, [new / old for new, old in zip(size, sides, strict=True)]
    elif scale is not None and size is None and scale > 0:
        wanted, factors = [math.ceil(side * scale) for side in sides], (scale, scale)
    else:
        raise UserError(f"imresize needs either a scale or a size, above 0, and got {scale} and {size}")
    made = images
    for product, side, new, factor in zip(("hy,byxc->bhxc", "wx,bhxc->bhwc"), sides, wanted, factors, strict=True):
        weights = imresize_weights(side, new, factor, method=method, antialias=antialias)
        weights = jnp.asarray(weights, images.dtype)
        made = jnp.einsum(product, weights, made, precision=jax.lax.Precision.HIGHEST)
    return made


def imresize_weights(
    length: int, size: int, scale: float, *, method: MatlabMethod = "bicubic", antialias: bool = True
) -> Float[np.ndarray, "{size} {length}"]:
    """The matrix, float64, that resizes a line of ``length`` pixels to ``size`` by ``scale``; its rows sum to 1."""
    width = max(1.0 / scale, 1.0) if antialias else 1.0
    # pixels have their centres at whole numbers
    centre = (np.arange(size)[:, None] + 0.5) / scale - 0.5
    margin = math.ceil(SUPPORT[method] * width) + 2
    pixel = np.arange(math.floor(centre.min()) - margin, math.ceil(centre.max()) + margin + 1)
    weights = filter_value(np, (pixel - centre) / width, method)
    weights = weights / weights.sum(-1, keepdims=True)
    # a line and its mirror image, again and again
    period = pixel % (2 * length)
    source = np.where(period < length, period, 2 * length - 1 - period)
    folded = np.zeros((length, size))
    np.add.at(folded, source, weights.T)
    return folded.T


def crop_to_multiple(images: Shaped[Array, "b h w c"], multiple: int) -> Shaped[Array, "b H W c"]:
    """The upper left part whose sides are the largest multiples of ``multiple``: "modcrop" of super-resolution.

    Raises:
      UserError: a side is shorter than ``multiple``.
    """
    height, width = images.shape[1:3]
    if min(height, width) < multiple:
        raise UserError(f"images of {height}x{width} pixels have no part whose sides are multiples of {multiple}")
    return images[:, : height - height % multiple, : width - width % multiple]


def crop_border(images: Shaped[Array, "b h w c"], border: int) -> Shaped[Array, "b H W c"]:
    """The images without ``border`` pixels on every side.

    Raises:
      UserError: nothing would be left, or the border is negative.
    """
    height, width = images.shape[1:3]
    if border < 0 or 2 * border >= min(height, width):
        raise UserError(f"images of {height}x{width} pixels have no inside without a border of {border} pixels")
    return images[:, border : height - border, border : width - border]
