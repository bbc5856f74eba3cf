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

    Sums and extremes of integers, so that the order in which pixels are added does not matter.
    """
    _, height, width = instances.shape
    row, column = jnp.mgrid[:height, :width].reshape(2, -1).astype(jnp.int32)

    def parts(of: Integer[Array, "h w"]) -> tuple[Int[Array, " n"], Int[Array, "n 4"]]:
        number = of.reshape(-1).astype(jnp.int32)
        pixels = jnp.zeros(count + 1, jnp.int32).at[number].add(1)
        first = [jnp.full(count + 1, max(height, width), jnp.int32).at[number].min(each) for each in (column, row)]
        last = [jnp.zeros(count + 1, jnp.int32).at[number].max(each + 1) for each in (column, row)]
        return pixels[1:], jnp.stack([*first, *last], axis=-1)[1:]

    pixels, boxes = jax.vmap(parts)(instances)
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
    """The dtype of a map of ``slots`` instances, made of another one: its dtype, or int32 where that is too small."""
    dtype = jnp.dtype(instances.dtype)
    return dtype if jnp.iinfo(dtype).max >= slots else jnp.dtype(jnp.int32)
