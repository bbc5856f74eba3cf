"""A window of each image, at a place of its own."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from vision.platform import platform


def windows(
    images: Shaped[Array, "b h w c"], corner: Int[Array, "b 2"], size: tuple[int, int]
) -> Shaped[Array, "b H W c"]:
    """Of image i, the window of ``size`` whose first row and column are ``corner[i]``; it lies within the image.

    XLA cuts them out of a batch one after another on TPUs, in a loop over the images. There each image is moved by
    powers of two, of which its corner is a sum: as many choices between two images as the corner has bits. The values
    are the same, bit for bit.

    Args:
      images: any dtype.
      corner: row and column, within [0, h - H] and [0, w - W].
      size: H and W.
    """
    if platform() != "tpu":
        cut = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (*size, image.shape[-1]))
        return jax.vmap(cut)(images, corner)
    return moved(moved(images, corner[:, 0], size[0], axis=1), corner[:, 1], size[1], axis=2)


def moved(
    images: Shaped[Array, "b h w c"], start: Int[Array, " b"], length: int, *, axis: int
) -> Shaped[Array, "b ..."]:
    """Of image i, ``length`` rows (``axis`` 1) or columns (2) from ``start[i]`` on, by choices for each bit of it."""
    bits = (images.shape[axis] - length).bit_length()
    missing = max(length + 2**bits - 1 - images.shape[axis], 0)
    widths = [(0, missing if each == axis else 0) for each in range(images.ndim)]
    images = jnp.pad(images, widths)  # never chosen
    for bit in reversed(range(bits)):
        kept = length + 2**bit - 1  # what the lower bits may still reach
        near, far = (jax.lax.slice_in_dim(images, at, at + kept, axis=axis) for at in (0, 2**bit))
        chosen = (start >> bit & 1).astype(bool)[:, None, None, None]
        images = jnp.where(chosen, far, near)
    return images
