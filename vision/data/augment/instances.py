"""Instance maps on the device: the visible part of each instance, and new numbers.

A map has 0 where there is no instance, and 1 + k at the pixels of the k-th entry of a list (see
`vision.data.instance_maps`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer


def visible_parts(
    instances: Integer[Array, "b h w"], count: int
) -> tuple[Int[Array, "b {count}"], Float[Array, "b {count} 4"]]:
    """The pixels of each of ``count`` instances, and the smallest box (x0, y0, x1, y1) around them; zeros without any.

    By the number of its pixels in each row and each column: sums of integers, whose order does not matter.
    """
    _, height, width = instances.shape
    row, column = jnp.mgrid[:height, :width].reshape(2, -1).astype(jnp.int32)

    def along(number: Int[Array, " p"], place: Int[Array, " p"], length: int) -> Int[Array, "n {length}"]:
        """The pixels of each instance at each place of an axis."""
        flat = jnp.zeros((count + 1) * length, jnp.int32).at[number * length + place].add(1)
        return flat.reshape(count + 1, length)[1:]

    number = instances.reshape(instances.shape[0], -1).astype(jnp.int32)
    rows = jax.vmap(lambda of: along(of, row, height))(number)
    columns = jax.vmap(lambda of: along(of, column, width))(number)
    pixels = jnp.sum(rows, axis=-1)
    low = [jnp.argmax(of > 0, axis=-1) for of in (columns, rows)]
    high = [of.shape[-1] - jnp.argmax(of[..., ::-1] > 0, axis=-1) for of in (columns, rows)]
    boxes = jnp.stack([*low, *high], axis=-1)
    return pixels, jnp.where(pixels[..., None] > 0, boxes, 0).astype(jnp.float32)


def renumbered(
    instances: Integer[Array, "b h w"], order: Int[Array, "b n"], kept: Bool[Array, "b n"], count: int
) -> Int[Array, "b h w"]:
    """A map of which entry ``order[k]`` has become entry k where ``kept``; other entries are 0.

    Args:
      instances: values 0 to ``count``.
      order: different entries, below ``count``.
      kept: which of them stay.
      count: of entries before.
    """
    moved = kept[..., None] & (order[..., None] == jnp.arange(count))
    place = jnp.arange(1, order.shape[1] + 1, dtype=jnp.int32)
    new = jnp.pad(jnp.sum(jnp.where(moved, place[:, None], 0), axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))
    flat = instances.reshape(instances.shape[0], -1).astype(jnp.int32)
    return jnp.take_along_axis(new, flat, axis=1).reshape(instances.shape)


def map_dtype_of(instances: Integer[Array, "b h w"], slots: int) -> jnp.dtype:
    """The dtype of a map of ``slots`` instances computed from another: that of the other, or int32 if too small."""
    dtype = jnp.dtype(instances.dtype)
    return dtype if jnp.iinfo(dtype).max >= slots else jnp.dtype(jnp.int32)
