"""Masks of objects in the frames of boxes: cut out of images for training, and pasted back into them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8


def crop_masks(
    masks: Bool[Array, "b m h w"] | UInt8[Array, "b m h w"] | Float[Array, "b m h w"],
    index: Int[Array, "b n"],
    boxes: Float[Array, "b n 4"],
    *,
    size: int,
) -> Float[Array, "b n {size} {size}"]:
    """The part of a mask in each box on a grid of ``size`` x ``size``, float32: RoIAlign that samples every pixel.

    Each bin is the mean of ceil(side / size) points along each side (He et al. 2017; torchvision's ``roi_align`` with
    ``sampling_ratio=-1``), so that fine parts of large masks are not missed. The points of a box are a grid, and the
    mean separates into a product for the rows and one for the columns; one box after another, so that no more than one
    mask of each image is in memory as float32.

    Args:
      masks: 0 or 1 at any resolution.
      index: the mask of each box, of those of its image.
      boxes: corners in pixels of the masks, within them.
      size: bins along each side.
    """
    height, width = masks.shape[2:]
    exact = lax.Precision.HIGHEST

    def of_image(masks: Array, index: Array, box: Array) -> Array:
        rows = _means(box[1], box[3], extent=height, size=size)
        columns = _means(box[0], box[2], extent=width, size=size)
        mask = lax.dynamic_index_in_dim(masks, index, keepdims=False).astype(jnp.float32)
        return jnp.matmul(jnp.matmul(rows, mask, precision=exact), columns.T, precision=exact)

    each = lambda of: jax.vmap(of_image)(masks, *of)
    return jnp.moveaxis(lax.map(each, (jnp.moveaxis(index, 1, 0), jnp.moveaxis(boxes, 1, 0))), 0, 1)


def _means(low: Float[Array, ""], high: Float[Array, ""], *, extent: int, size: int) -> Float[Array, "{size} {extent}"]:
    """The weights of the cells of one axis in each bin between two borders."""
    side = jnp.maximum(high - low, 1.0)
    most = math.ceil(extent / size)
    count = jnp.clip(jnp.ceil(side / size), 1, most)
    point = jnp.arange(most)
    place = low + (jnp.arange(size)[:, None] + (point + 0.5) / count) * side / size
    used = (point < count) & (place >= -1.0) & (place <= extent)
    within = jnp.clip(place, 0.0, extent - 1.0)
    weights = jnp.maximum(1.0 - jnp.abs(within[..., None] - jnp.arange(extent)), 0.0)
    return jnp.sum(jnp.where(used[..., None], weights, 0.0), axis=1) / count


def pasted(
    masks: Float[Array, "b n s s"], boxes: Float[Array, "b n 4"], *, size: tuple[int, int]
) -> Float[Array, "b n h w"]:
    """Masks in the frames of boxes as masks of the image, 0 outside of the boxes; compiles.

    Interpolated bilinearly at the exact place of every pixel, with zeros around the mask.

    Args:
      masks: probabilities.
      boxes: corners in pixels of the image.
      size: height and width of the image.
    """
    side = masks.shape[-1]

    def weights(low: Array, high: Array, extent: int) -> Float[Array, "b n extent s"]:
        length = jnp.maximum(high - low, 1e-6)[..., None]
        place = (jnp.arange(extent) + 0.5 - low[..., None]) / length * side - 0.5
        return jnp.maximum(1.0 - jnp.abs(place[..., None] - jnp.arange(side)), 0.0)

    rows, columns = (weights(boxes[..., k], boxes[..., k + 2], size[1 - k]) for k in (1, 0))
    exact = lax.Precision.HIGHEST
    made = jnp.einsum("bnhs,bnst->bnht", rows, masks, precision=exact)
    return jnp.einsum("bnht,bnwt->bnhw", made, columns, precision=exact)


def paste_mask(
    mask: Float[np.ndarray, "s s"],
    box: Float[np.ndarray, "4"],
    *,
    height: int,
    width: int,
    rounded: bool = False,
) -> Float[np.ndarray, "{height} {width}"]:
    """A mask in the frame of a box as a mask of the image, float32 and 0 outside of the box; on the host.

    Interpolated bilinearly at the exact place of every pixel, as by :func:`pasted`. ``rounded`` does it as torchvision:
    mask and box are widened by a border of zeros, the box's corners are cut to whole pixels, and it reaches from the
    first pixel to the last, so that masks become about a pixel larger. Values of at least 0.5 are of the object.

    Args:
      mask: probabilities.
      box: corners in pixels of the image.
      height: of the image.
      width: of the image.
      rounded: whether to round, which the numbers of torchvision's networks are for.
    """
    side, made = len(mask), np.zeros((height, width), np.float32)
    low, high = np.asarray(box[:2], np.float32), np.asarray(box[2:], np.float32)
    if not rounded:
        columns, across = _exact(float(low[0]), float(high[0]), side, width)
        rows, down = _exact(float(low[1]), float(high[1]), side, height)
        made[rows, columns] = down @ np.asarray(mask, np.float32) @ across.T
        return made
    bordered = np.pad(np.asarray(mask, np.float32), 1)
    centre, half = (low + high) * np.float32(0.5), (high - low) * np.float32(0.5) * np.float32((side + 2) / side)
    first, last = np.trunc(centre - half).astype(np.int64), np.trunc(centre + half).astype(np.int64)
    columns, across = _interpolation(int(first[0]), int(last[0]), side + 2, width)
    rows, down = _interpolation(int(first[1]), int(last[1]), side + 2, height)
    made[rows, columns] = down @ bordered @ across.T
    return made


def paste_masks(
    masks: Float[np.ndarray, "n s s"],
    boxes: Float[np.ndarray, "n 4"],
    *,
    height: int,
    width: int,
    rounded: bool = False,
) -> Float[np.ndarray, "n {height} {width}"]:
    """:func:`paste_mask` of each mask and box of an image."""
    made = np.zeros((len(masks), height, width), np.float32)
    for k, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        made[k] = paste_mask(mask, box, height=height, width=width, rounded=rounded)
    return made


def _exact(low: float, high: float, side: int, extent: int) -> tuple[slice, Float[np.ndarray, "k side"]]:
    """The pixels of the image where a mask between two borders may not be 0, and the weights of its cells in each."""
    cell = max(high - low, 1e-6) / side
    begin = int(np.clip(np.floor(low - cell / 2 - 0.5), 0, extent))
    end = int(np.clip(np.ceil(high + cell / 2 + 0.5), begin, extent))
    place = (np.arange(begin, end) + 0.5 - low) / cell - 0.5
    return slice(begin, end), np.maximum(1 - np.abs(place[:, None] - np.arange(side)), 0).astype(np.float32)


def _interpolation(first: int, last: int, size: int, extent: int) -> tuple[slice, Float[np.ndarray, "k size"]]:
    """The pixels of the image in a box from ``first`` to ``last``, and the weights of ``size`` values in each."""
    length = max(last - first + 1, 1)
    begin = min(max(first, 0), extent)
    end = max(min(last + 1, extent), begin)
    place = np.arange(begin - first, end - first, dtype=np.float32)
    source = np.maximum((place + np.float32(0.5)) * np.float32(size / length) - np.float32(0.5), 0)
    cell = np.minimum(source, size - 1)[:, None]
    return slice(begin, end), np.maximum(1 - np.abs(cell - np.arange(size, dtype=np.float32)), 0).astype(np.float32)
