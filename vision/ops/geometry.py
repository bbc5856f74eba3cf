"""Affine warps of a batch, with one matrix per image, and constructors of matrices.

A matrix [2 3] maps the position (row, column, 1) of a pixel of the result to the position in the image where its value
is sampled, so it is the inverse of the visible motion. Positions count from the centre of the upper left pixel, as in
SciPy.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Interpolation = Literal["nearest", "bilinear"]
Outside = Literal["constant", "reflect"]


def affine_warp(
    images: Float[Array, "b h w c"],
    matrices: Float[Array, "b 2 3"],
    *,
    interpolation: Interpolation = "bilinear",
    outside: Outside = "constant",
    fill: float = 0.0,
) -> Float[Array, "b h w c"]:
    """Sample each image at the positions to which its matrix maps the pixels; not antialiased.

    Args:
      images: float32 of any range.
      matrices: from a pixel of the result to a position in the image.
      interpolation: "nearest" takes the nearest pixel (halves go down and right), "bilinear" weights the four around.
      outside: values beyond the border: ``fill`` ("constant"), or the image's reflection without repeating its border
        (c b | a b c | b a, "reflect").
      fill: mid-grey for images in [-1, 1] by default. Bilinear sampling within a pixel of the border mixes it in.
    """
    height, width = images.shape[1:3]
    row, column = (n.astype(jnp.float32) for n in jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"))
    terms = matrices[:, :, :, None, None]
    position = terms[:, :, 0] * row + terms[:, :, 1] * column + terms[:, :, 2]
    y, x = position[:, 0], position[:, 1]

    def pixels(i: Float[Array, "b h w"], j: Float[Array, "b h w"]) -> Float[Array, "b h w c"]:
        """The pixels at whole positions."""
        place = _inside(i.astype(jnp.int32), height, outside) * width + _inside(j.astype(jnp.int32), width, outside)
        found = jax.vmap(lambda image, at: image.reshape(height * width, -1)[at])(images, place)
        if outside == "reflect":
            return found
        within = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        return jnp.where(within[..., None], found, fill)

    if interpolation == "nearest":
        return pixels(jnp.floor(y + 0.5), jnp.floor(x + 0.5))
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    upper = (1.0 - right) * pixels(top, left) + right * pixels(top, left + 1)
    lower = (1.0 - right) * pixels(top + 1, left) + right * pixels(top + 1, left + 1)
    return (1.0 - down) * upper + down * lower


def _inside(index: Int[Array, "..."], size: int, outside: Outside) -> Int[Array, "..."]:
    """An index in [0, size) for each whole number."""
    if outside == "constant" or size == 1:
        return jnp.clip(index, 0, size - 1)
    around = index % (2 * size - 2)
    return jnp.minimum(around, 2 * size - 2 - around)


def rotation(degrees: Float[Array, " b"], height: int, width: int) -> Float[Array, "b 2 3"]:
    """Matrices that rotate images of this size counter-clockwise about their centre."""
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    return _matrices(
        (cos, sin, middle_row - cos * middle_row - sin * middle_column),
        (-sin, cos, middle_column + sin * middle_row - cos * middle_column),
    )


def shear(down: Float[Array, " b"], right: Float[Array, " b"]) -> Float[Array, "b 2 3"]:
    """Matrices that sample each pixel ``right`` times its row further right and ``down`` times its column further down.

    Both are counted from the upper left corner of the image, as Pillow's ``transform`` does, so that a positive shear
    moves content left or up.
    """
    one = jnp.ones_like(down)
    return _matrices((one, down, down / 2), (right, one, right / 2))


def translation(down: Float[Array, " b"], right: Float[Array, " b"]) -> Float[Array, "b 2 3"]:
    """Matrices that translate content by the given numbers of pixels."""
    one, zero = jnp.ones_like(down), jnp.zeros_like(down)
    return _matrices((one, zero, -down), (zero, one, -right))


def _matrices(*rows: tuple[Array, Array, Array]) -> Array:
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
