"""Mosaic: four images around one point, transformed and cropped as one (Bochkovskiy et al. 2020, section 3.3).

The canvas is twice as wide and high as an image. Four images have a corner each at the meeting point, and what leaves
the canvas is cropped. A matrix then maps the canvas to the result. The canvas is never stored: each pixel of the result
looks up its position on the canvas, the image there, and its position in that image.

The four are the sample and its neighbours in the batch, rather than random others, since the order of batches is random
already. The batch is divided into the smallest possible groups of at least four, and a sample's neighbours are the 1st,
2nd and 3rd before it, cyclically in its group. So nothing is copied before the pixels are looked up, and devices that
hold complete groups of a sharded batch exchange nothing.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Key

from vision.ops.boxes import clip_to_image
from vision.ops.projective import Tap, bilinear, project_boxes, sources

GREY = 114 / 127.5 - 1
"""The value outside of images: level 114, as in letterboxing."""

# The number of strips of rows in which the result is computed. The loop stops XLA's fusion: without it, pixels are
# looked up again for each of their uses, which makes the augmentation four times slower on CPUs.
_STRIPS = 8


def group_size(batch: int) -> int:
    """Samples per group: the smallest divisor of ``batch`` that is at least 4, or all of a smaller batch."""
    return next((size for size in range(4, batch + 1) if batch % size == 0), batch)


def neighbourhood(batch: int) -> Int[np.ndarray, "{batch} 4"]:
    """Which samples of the batch are the upper left, upper right, lower left and lower right of each mosaic."""
    group = group_size(batch)
    place = np.arange(batch)[:, None]
    return place // group * group + (place % group - np.arange(4)) % group


def meeting_points(count: int, side: int, *, key: Key[Array, ""]) -> Int[Array, "{count} 2"]:
    """Points (x, y) on the canvas where images meet, complete pixels sampled uniformly from [side / 2, 3 side / 2]."""
    return jax.random.randint(key, (count, 2), (side + 1) // 2, 3 * side // 2 + 1)


def extents(combined: Bool[Array, " b"], side: int) -> Int[Array, " b"]:
    """Sizes of the canvases in pixels: twice an image's for mosaics, and an image's for single images."""
    return jnp.where(combined, 2 * side, side)


def mosaic(
    images: Float[Array, "b s s c"],
    meeting: Int[Array, "b 2"],
    combined: Bool[Array, " b"],
    matrices: Float[Array, "b 3 3"],
    size: int,
    *,
    separable: bool = False,
    fill: float = GREY,
) -> Float[Array, "b {size} {size} c"]:
    """Mosaics of a batch, each transformed by its matrix; bilinear, also across the seams between images.

    Args:
      images: values of any range.
      meeting: the meeting points (x, y) in pixels of the canvas.
      combined: which samples become mosaics. The canvas of any other sample is its image, and its meeting point is
        unused.
      matrices: from the canvas to the result.
      size: size of the result in pixels.
      separable: a promise that the matrices only scale, flip and translate along the axes, which is faster.
      fill: the value outside of the images.
    """
    batch, side, _, channels = images.shape
    group, area = group_size(batch), side * side
    meeting, extent = _canvas(meeting, combined, side)
    across = lambda n: n[:, None, None]
    # Full cycles of the group, so that indices three steps before the first sample are not negative
    rounds = -(-3 // group) * group
    start = across((jnp.arange(batch) % group + rounds) * area)
    flat = images.reshape(batch // group, group * area, channels)
    take = jax.vmap(lambda of, at: of.at[at].get(mode="promise_in_bounds"))

    def pixels(place: Int[Array, "b h w"]) -> Float[Array, "b h w c"]:
        around = jax.lax.rem(start + place, jnp.int32(group * area))
        return take(flat, around.reshape(batch // group, -1)).reshape(*place.shape, channels)

    tall = -(-size // _STRIPS)

    def strip(number: Int[Array, ""], out: Float[Array, "b s s c"]) -> Float[Array, "b s s c"]:
        """The result with some of its rows filled in; the last strip may overlap the one before."""
        top = jnp.minimum(number * tall, size - tall)
        x, y = sources(matrices, top + jnp.arange(tall), jnp.arange(size), separable=separable)
        # Neighbours precede the sample, so that images to the right and below are reached by steps back
        rows = _taps(y, across(meeting[:, 1]), across(extent), side, stride=side, step=-2 * area)
        columns = _taps(x, across(meeting[:, 0]), across(extent), side, stride=1, step=-area)
        return jax.lax.dynamic_update_slice(out, bilinear(rows, columns, pixels, fill=fill), (0, top, 0, 0))

    empty = jnp.zeros((batch, size, size, channels), images.dtype)
    return jax.lax.fori_loop(0, -(-size // tall), strip, empty)


def mosaic_instances(
    instances: Integer[Array, "b s s"],
    meeting: Int[Array, "b 2"],
    combined: Bool[Array, " b"],
    matrices: Float[Array, "b 3 3"],
    size: int,
    slots: int,
    *,
    separable: bool = False,
) -> Int[Array, "b {size} {size}"]:
    """Instance maps of the mosaics of :func:`mosaic`, at the same places; by nearest neighbour, 0 outside of images.

    Args:
      instances: values 0 to ``slots``.
      meeting: as of :func:`mosaic`, and so are the next three.
      combined: see there.
      matrices: see there.
      size: see there.
      slots: boxes of an image.
      separable: see there.

    Returns:
      int32, 1 + k at the pixels of the k-th box of :func:`mosaic_boxes`.
    """
    found, inside, which = _nearest(instances, meeting, combined, matrices, size, separable=separable)
    return jnp.where(inside & (found > 0), found + slots * which, 0)


def mosaic_semantic(
    semantic: Integer[Array, "b s s"],
    meeting: Int[Array, "b 2"],
    combined: Bool[Array, " b"],
    matrices: Float[Array, "b 3 3"],
    size: int,
    *,
    fill: int,
    separable: bool = False,
) -> Integer[Array, "b {size} {size}"]:
    """Semantic maps of the mosaics of :func:`mosaic`, at the same places; by nearest neighbour, of the same dtype.

    Args:
      semantic: classes.
      meeting: as of :func:`mosaic`, and so are the next three.
      combined: see there.
      matrices: see there.
      size: see there.
      fill: the value outside of images.
      separable: see there.
    """
    found, inside, _ = _nearest(semantic, meeting, combined, matrices, size, separable=separable)
    return jnp.where(inside, found, fill).astype(semantic.dtype)


def _nearest(
    maps: Integer[Array, "b s s"], meeting: Array, combined: Array, matrices: Array, size: int, *, separable: bool
) -> tuple[Int[Array, "b _ _"], Bool[Array, "b _ _"], Int[Array, "b _ _"]]:
    """Of each pixel of the result the value that it shows, whether it is in an image, and in which of the four."""
    batch, side, _ = maps.shape
    group, area = group_size(batch), side * side
    meeting, extent = _canvas(meeting, combined, side)
    across = lambda n: n[:, None, None]
    x, y = sources(matrices, jnp.arange(size), jnp.arange(size), separable=separable)

    def nearest(position: Array, meeting: Array, stride: int, step: int) -> tuple[Tap, Array]:
        """The pixel that a position is in, and whether it is of the second image."""
        at = jnp.floor(jnp.clip(position, -1.0, 2.0 * side)).astype(jnp.int32)
        tap = _tap(at, 1.0, meeting=meeting, extent=across(extent), side=side, stride=stride, step=step)
        return tap, at >= meeting

    # steps back to the images to the right and below, as in `mosaic`
    row, below = nearest(y, across(meeting[:, 1]), side, -2 * area)
    column, right = nearest(x, across(meeting[:, 0]), 1, -area)
    start = across((jnp.arange(batch) % group + -(-3 // group) * group) * area)
    place = jax.lax.rem(start + row.offset + column.offset, jnp.int32(group * area))
    flat = maps.reshape(batch // group, group * area).astype(jnp.int32)
    found = jnp.take_along_axis(flat, place.reshape(batch // group, -1), axis=1).reshape(place.shape)
    return found, (row.weight > 0) & (column.weight > 0), right + 2 * below


def mosaic_boxes(
    boxes: Float[Array, "b n 4"],
    meeting: Int[Array, "b 2"],
    combined: Bool[Array, " b"],
    matrices: Float[Array, "b 3 3"],
    side: int,
    size: int,
) -> tuple[Float[Array, "b 4*n 4"], Float[Array, "b 4*n 4"]]:
    """The boxes of the images of each mosaic in the result of :func:`mosaic`.

    Args:
      boxes: (x0, y0, x1, y1) in pixels of images, of all samples.
      meeting: the meeting points (x, y) in pixels of the canvas.
      combined: which samples become mosaics.
      matrices: from the canvas to the result.
      side: size of an image, in pixels.
      size: size of the result in pixels.

    Returns:
      the boxes of the four images, in the order of :func:`neighbourhood`: complete, possibly reaching beyond the
      result, and clipped to their visible parts. Those of the last three images are meaningless where ``combined`` is
      false.
    """
    batch, slots, _ = boxes.shape
    meeting, extent = _canvas(meeting, combined, side)
    right, below = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    corner = meeting[:, None, :] - side * np.stack([1 - right, 1 - below], axis=-1)
    shift = jnp.concatenate([corner, corner], axis=-1).astype(jnp.float32)
    placed = (gathered(boxes) + shift[:, :, None]).reshape(batch, 4 * slots, 4)
    edge = extent[:, None].astype(jnp.float32)
    complete = project_boxes(placed, matrices)
    visible = project_boxes(clip_to_image(placed, width=edge, height=edge), matrices)
    return complete, clip_to_image(visible, width=float(size), height=float(size))


def gathered(of: Array) -> Array:
    """[b 4 ...]: the values [b ...] of the four samples of each mosaic."""
    batch = of.shape[0]
    group = group_size(batch)
    within = neighbourhood(group)
    return of.reshape(batch // group, group, *of.shape[1:])[:, within].reshape(batch, 4, *of.shape[1:])


def _canvas(meeting: Array, combined: Array, side: int) -> tuple[Array, Array]:
    """Meeting points and sizes of canvases; that of a single image ends where its neighbours would begin."""
    return jnp.where(combined[:, None], meeting, side), extents(combined, side)


def _taps(position: Array, meeting: Array, extent: Array, side: int, *, stride: int, step: int) -> tuple[Tap, Tap]:
    """The two pixels around positions along an axis of the canvas; see `_tap`."""
    # Positions far outside would overflow integers
    index = jnp.clip(position - 0.5, -2.0, 2.0 * side + 1.0)
    low = jnp.floor(index)
    first, tap = (
        low.astype(jnp.int32),
        partial(_tap, meeting=meeting, extent=extent, side=side, stride=stride, step=step),
    )
    return tap(first, 1.0 - (index - low)), tap(first + 1, index - low)


def _tap(at: Array, weight: Array | float, *, meeting: Array, extent: Array, side: int, stride: int, step: int) -> Tap:
    """A pixel along an axis of the canvas, of no weight outside of images; ``step`` leads to the second image's."""
    second = at >= meeting
    local = jnp.where(second, at - meeting, at - meeting + side)
    inside = (at >= 0) & (at < extent) & (local >= 0) & (local < side)
    offset = jnp.clip(local, 0, side - 1) * stride + jnp.where(second, step, 0)
    return Tap(offset, jnp.where(inside, weight, 0.0))
