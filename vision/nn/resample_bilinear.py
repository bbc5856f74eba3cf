"""Bilinear changes of resolution; those by 2 are sums of slices, whose gradients are cheap on every backend."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vision.ops.resize import resize


def upsample_bilinear(features: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Twice the sides: [b, 2h, 2w, c]. Pixels are squares, and those beyond the border repeat it.

    A new pixel lies a quarter of a pixel from an old one: 3/4 of that and 1/4 of its neighbour, along each axis. This
    equals ``jax.image.resize(..., "bilinear")``.
    """
    for axis in (1, 2):
        features = _doubled(features, axis)
    return features


def upsample_bilinear_to(features: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """To ``size`` (height, width), neither side of which is smaller, in the type of the features.

    Where PyTorch's ``interpolate(mode="bilinear", align_corners=False)`` puts its pixels: equal to
    :func:`upsample_bilinear` for twice the sides, otherwise two products with matrices of weights.
    """
    height, width = features.shape[1:3]
    if size == (height, width):
        return features
    return upsample_bilinear(features) if size == (2 * height, 2 * width) else resize(features, size)


def downsample_bilinear(features: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Half the sides: [b, h / 2, w / 2, c], which must be even; the triangle is as wide as the new pixels.

    The weights along each axis are 1/8, 3/8, 3/8, 1/8: the transpose of :func:`upsample_bilinear`, except for a factor
    and for the border, which is repeated.
    """
    for axis in (1, 2):
        features = _halved(features, axis)
    return features


def _bordered(features: Array, axis: int) -> Array:
    widths = [(0, 0)] * features.ndim
    widths[axis] = (1, 1)
    return jnp.pad(features, widths, mode="edge")


def _every(features: Array, axis: int, start: int, count: int, step: int = 1) -> Array:
    index = [slice(None)] * features.ndim
    index[axis] = slice(start, start + (count - 1) * step + 1, step)
    return features[tuple(index)]


def _doubled(features: Array, axis: int) -> Array:
    count = features.shape[axis]
    bordered = _bordered(features, axis)
    before, after = _every(bordered, axis, 0, count), _every(bordered, axis, 2, count)
    pairs = jnp.stack([0.75 * features + 0.25 * before, 0.75 * features + 0.25 * after], axis=axis + 1)
    shape = list(features.shape)
    shape[axis] = 2 * count
    return pairs.reshape(shape)


def _halved(features: Array, axis: int) -> Array:
    half = features.shape[axis] // 2
    bordered = _bordered(features, axis)
    taps = [_every(bordered, axis, offset, half, 2) for offset in range(4)]
    return 0.125 * (taps[0] + taps[3]) + 0.375 * (taps[1] + taps[2])
