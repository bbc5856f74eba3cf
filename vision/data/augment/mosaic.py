"""Mosaic: four pictures around one point, moved and cut out together (Bochkovskiy et al. 2020, section 3.3).

The canvas is twice as wide and high as a picture. Four pictures have a corner each at the meeting point, and what
leaves the canvas is cut. A matrix then takes the canvas to the result. The canvas is never made: each pixel of the
result looks up its place on the canvas, the picture that is there, and its place in that picture.

The four are the sample and its neighbours in the batch, not others drawn at random: the order of batches is random
already. The batch is cut into groups, as small as its size allows but of four at least, and a sample's neighbours are
those 1, 2 and 3 places before it, going around in its group. So nothing is copied before the pixels are looked up,
and devices that hold whole groups of a sharded batch exchange nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from vision.ops.boxes import clip_to_image
from vision.ops.projective import Tap, bilinear, project_boxes, sources

GREY = 114 / 127.5 - 1
"""What is outside of pictures: level 114, which letterboxing uses too."""

# The result is made in so many strips of rows. A loop ends what XLA fuses: without one, it would look pixels up anew
# for every use of them in what follows, which made the whole augmentation four times slower on CPUs.
_STRIPS = 8


def group_size(batch: int) -> int:
    """Samples of a group: the smallest divisor of ``batch`` that is at least 4, or all of a smaller batch."""
    return next((size for size in range(4, batch + 1) if batch % size == 0), batch)


def neighbourhood(batch: int) -> Int[np.ndarray, "{batch} 4"]:
    """Which samples of the batch are the upper left, upper right, lower left and lower right of each mosaic."""
    group = group_size(batch)
    place = np.arange(batch)[:, None]
    return place // group * group + (place % group - np.arange(4)) % group


def meeting_points(count: int, side: int, *, key: Key[Array, ""]) -> Int[Array, "{count} 2"]:
    """Points (x, y) on the canvas where pictures meet, whole pixels drawn evenly from [side / 2, 3 side / 2]."""
    return jax.random.randint(key, (count, 2), (side + 1) // 2, 3 * side // 2 + 1)


def extents(combined: Bool[Array, " b"], side: int) -> Int[Array, " b"]:
    """Sides of the canvases in pixels: twice a picture's for mosaics, and a picture's for one that is by itself."""
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
    """Mosaics of a batch, each seen through its matrix; bilinear, and across the seams between pictures, too.

    Args:
      images: values of any range.
      meeting: the meeting points (x, y) in pixels of the canvas.
      combined: which samples become mosaics. The canvas of another one is its picture, and its meeting point is not
        used.
      matrices: from the canvas to the result.
      size: side of the result in pixels.
      separable: a promise that the matrices only stretch, mirror and move along the axes: faster.
      fill: what is outside of the pictures.
    """
    batch, side, _, channels = images.shape
    group, area = group_size(batch), side * side
    meeting, extent = _canvas(meeting, combined, side)
    across = lambda n: n[:, None, None]
    # Rounds through the group that keep places from becoming negative three steps before the first sample
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
        # Neighbours are before the sample, so that pictures to the right and below are reached by steps back
        rows = _taps(y, across(meeting[:, 1]), across(extent), side, stride=side, step=-2 * area)
        columns = _taps(x, across(meeting[:, 0]), across(extent), side, stride=1, step=-area)
        return jax.lax.dynamic_update_slice(out, bilinear(rows, columns, pixels, fill=fill), (0, top, 0, 0))

    empty = jnp.zeros((batch, size, size, channels), images.dtype)
    return jax.lax.fori_loop(0, -(-size // tall), strip, empty)


def mosaic_boxes(
    boxes: Float[Array, "b n 4"],
    meeting: Int[Array, "b 2"],
    combined: Bool[Array, " b"],
    matrices: Float[Array, "b 3 3"],
    side: int,
    size: int,
) -> tuple[Float[Array, "b 4*n 4"], Float[Array, "b 4*n 4"]]:
    """Where the boxes of the pictures of each mosaic are in the result of :func:`mosaic`.

    Args:
      boxes: (x0, y0, x1, y1) in pixels of pictures, of all samples.
      meeting: the meeting points (x, y) in pixels of the canvas.
      combined: which samples become mosaics.
      matrices: from the canvas to the result.
      side: of a picture, in pixels.
      size: side of the result in pixels.

    Returns:
      the boxes of the four pictures, in the order of :func:`neighbourhood`: whole, which may reach beyond the result,
      and what is visible of them. Those of the last three pictures mean nothing where ``combined`` is false.
    """
    batch, slots, _ = boxes.shape
    meeting, extent = _canvas(meeting, combined, side)
    right, below = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    corner = meeting[:, None, :] - side * np.stack([1 - right, 1 - below], axis=-1)
    shift = jnp.concatenate([corner, corner], axis=-1).astype(jnp.float32)
    placed = (gathered(boxes) + shift[:, :, None]).reshape(batch, 4 * slots, 4)
    edge = extent[:, None].astype(jnp.float32)
    whole = project_boxes(placed, matrices)
    visible = project_boxes(clip_to_image(placed, width=edge, height=edge), matrices)
    return whole, clip_to_image(visible, width=float(size), height=float(size))


def gathered(of: Array) -> Array:
    """[b 4 ...]: what belongs to the four pictures of each mosaic, of what belongs to each sample [b ...]."""
    batch = of.shape[0]
    group = group_size(batch)
    within = neighbourhood(group)
    return of.reshape(batch // group, group, *of.shape[1:])[:, within].reshape(batch, 4, *of.shape[1:])


def _canvas(meeting: Array, combined: Array, side: int) -> tuple[Array, Array]:
    """Meeting points and sides of canvases. One picture fills a canvas that ends where its neighbours would begin."""
    return jnp.where(combined[:, None], meeting, side), extents(combined, side)


def _taps(position: Array, meeting: Array, extent: Array, side: int, *, stride: int, step: int) -> tuple[Tap, Tap]:
    """The two pixels around positions along an axis of the canvas; ``step`` leads to the second picture's pixels."""
    # Positions far outside would not fit into integers
    index = jnp.clip(position - 0.5, -2.0, 2.0 * side + 1.0)
    low = jnp.floor(index)

    def tap(at: Array, weight: Array) -> Tap:
        second = at >= meeting
        local = jnp.where(second, at - meeting, at - meeting + side)
        inside = (at >= 0) & (at < extent) & (local >= 0) & (local < side)
        offset = jnp.clip(local, 0, side - 1) * stride + jnp.where(second, step, 0)
        return Tap(offset, jnp.where(inside, weight, 0.0))

    first = low.astype(jnp.int32)
    return tap(first, 1.0 - (index - low)), tap(first + 1, index - low)
