"""Masks of edits, 1 where an image may change: boxes, growing, soft borders, and random masks of the field's kinds.

Distances are Euclidean, between centres of pixels. Random masks are those that inpainting is trained and measured with:
strokes that are thick or thin (Suvorov et al. 2022, "LaMa"), and half an image, every second line or pixel, all but the
centre (Lugmayr et al. 2022, "RePaint", section 5), boxes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

Mask = Bool[Array, "h w 1"]
Weight = Float[Array, "h w 1"]

MaskKind = Literal["thick", "thin", "box", "half", "expand", "every_second_line", "every_second_pixel"]
MASK_KINDS: tuple[MaskKind, ...] = get_args(MaskKind)
_CORNERS = 6
"""Most corners of a stroke."""
_STROKES = 3
"""Most strokes of a mask."""


def box_mask(box: Sequence[int], size: tuple[int, int]) -> Mask:
    """True inside (x0, y0, x1, y1), in pixels; the corners of the image are at 0 and its ``size`` (height, width)."""
    x0, y0, x1, y1 = box
    rows, columns = jnp.arange(size[0]), jnp.arange(size[1])
    inside = ((rows >= y0) & (rows < y1))[:, None] & ((columns >= x0) & (columns < x1))[None, :]
    return inside[..., None]


def distance_to(mask: Mask) -> Float[Array, "h w 1"]:
    """Distance in pixels of each pixel's centre to the nearest one inside the mask; infinite for an empty mask.

    The squared distance is that along a column, then the least over the columns: min over x' of (x - x')^2 +
    d_column(x')^2 (Felzenszwalb & Huttenlocher 2012, section 3).
    """
    inside = mask[..., 0]
    rows, columns = inside.shape
    places = jnp.arange(rows, dtype=jnp.float32)[:, None]
    last = jax.lax.cummax(jnp.where(inside, places, -jnp.inf), axis=0)
    following = jax.lax.cummin(jnp.where(inside, places, jnp.inf), axis=0, reverse=True)
    along = jnp.minimum(places - last, following - places) ** 2
    apart = (jnp.arange(columns)[:, None] - jnp.arange(columns)[None, :]).astype(jnp.float32) ** 2
    # one row at a time, since all at once would take rows times the memory
    least = jax.lax.map(lambda row: jnp.min(apart + row[None, :], axis=1), along)
    return jnp.sqrt(least)[..., None]


def grown(mask: Mask, pixels: float) -> Mask:
    """The mask and all that is within ``pixels`` of it; below 0 it shrinks by as much."""
    if pixels >= 0:
        return distance_to(mask) <= pixels
    return distance_to(~mask) > -pixels


def feathered(mask: Mask, pixels: float) -> Weight:
    """1 inside the mask, falling linearly to 0 at a distance of ``pixels`` + 1 outside; the mask itself for 0."""
    return jnp.clip(1.0 - distance_to(mask) / (pixels + 1.0), 0.0, 1.0)


def reduced(weight: Float[Array, "*b h w 1"], factor: int) -> Float[Array, "*b H W 1"]:
    """The largest weight in each square of ``factor`` pixels: the mask of latents, which covers all that may change."""
    *lead, rows, columns, _ = weight.shape
    squares = weight.reshape(*lead, rows // factor, factor, columns // factor, factor, 1)
    return jnp.max(squares, axis=(-4, -2))


def random_masks(
    count: int,
    size: tuple[int, int],
    *,
    kinds: Sequence[MaskKind] = MASK_KINDS,
    key: Key[Array, ""],
) -> Bool[Array, "{count} h w 1"]:
    """``count`` masks of ``size`` (height, width), each of one of ``kinds``, all equally likely; never empty."""
    keys = jax.random.split(key, count)
    makers = [KINDS[kind] for kind in kinds]

    def one(key: Key[Array, ""]) -> Mask:
        kind_key, mask_key = jax.random.split(key)
        kind = jax.random.randint(kind_key, (), 0, len(makers))
        return jax.lax.switch(kind, [lambda key, make=make: make(size, key=key) for make in makers], mask_key)

    return jax.vmap(one)(keys)


def random_box(size: tuple[int, int], *, key: Key[Array, ""]) -> Mask:
    """A box of a quarter to three quarters of each side, anywhere inside the image."""
    side_key, place_key = jax.random.split(key)
    sides = jnp.asarray(size, jnp.float32)
    lengths = jnp.round(sides * jax.random.uniform(side_key, (2,), minval=0.25, maxval=0.75))
    first = jnp.round(jax.random.uniform(place_key, (2,)) * (sides - lengths))
    rows, columns = jnp.arange(size[0])[:, None], jnp.arange(size[1])[None, :]
    last = first + lengths
    inside = (rows >= first[0]) & (rows < last[0]) & (columns >= first[1]) & (columns < last[1])
    return inside[..., None]


def random_strokes(size: tuple[int, int], *, width: tuple[float, float], key: Key[Array, ""]) -> Mask:
    """One to three polygonal strokes with round ends, of 2 to 6 corners each.

    Suvorov et al. 2022, supplement: random walks of turning segments. ``width`` is the least and the largest width as
    shares of the shorter side.
    """
    count_key, strokes_key = jax.random.split(key)
    strokes = jax.vmap(lambda each: _stroke(size, width, key=each))(jax.random.split(strokes_key, _STROKES))
    used = jnp.arange(_STROKES) < jax.random.randint(count_key, (), 1, _STROKES + 1)
    return jnp.any(strokes & used[:, None, None], axis=0)[..., None]


def _stroke(size: tuple[int, int], width: tuple[float, float], *, key: Key[Array, ""]) -> Bool[Array, "h w"]:
    start_key, angle_key, length_key, width_key, corners_key = jax.random.split(key, 5)
    short, most = min(size), jnp.array([size[1], size[0]], jnp.float32)
    start = jax.random.uniform(start_key, (1, 2)) * most
    # the first segment goes anywhere, each further one turns by a quarter circle at most
    spread = jnp.array([2.0 * jnp.pi] + [jnp.pi] * (_CORNERS - 2))
    angles = jnp.cumsum(spread * (jax.random.uniform(angle_key, (_CORNERS - 1,)) - 0.5))
    lengths = short * jax.random.uniform(length_key, (_CORNERS - 1, 1), minval=0.15, maxval=0.5)
    steps = lengths * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    corners = jnp.clip(jnp.concatenate([start, start + jnp.cumsum(steps, axis=0)]), 0.0, most)
    away = jax.vmap(lambda first, second: _to_segment(size, first, second))(corners[:-1], corners[1:])
    used = jnp.arange(_CORNERS - 1) < jax.random.randint(corners_key, (), 1, _CORNERS)
    radius = 0.5 * short * jax.random.uniform(width_key, minval=width[0], maxval=width[1])
    # at least the pixel that a corner lies in
    return jnp.any((away <= jnp.maximum(radius, 0.75)) & used[:, None, None], axis=0)


def thick(size: tuple[int, int], *, key: Key[Array, ""]) -> Mask:
    """Strokes of a fifth to two fifths of the shorter side."""
    return random_strokes(size, width=(0.2, 0.4), key=key)


def thin(size: tuple[int, int], *, key: Key[Array, ""]) -> Mask:
    """Strokes of a thirtieth to a tenth of the shorter side."""
    return random_strokes(size, width=(0.03, 0.1), key=key)


def half(size: tuple[int, int], *, key: Key[Array, ""]) -> Mask:
    """The left, right, upper or lower half."""
    rows = jnp.broadcast_to(jnp.arange(size[0])[:, None] < size[0] // 2, size)
    columns = jnp.broadcast_to(jnp.arange(size[1])[None, :] < size[1] // 2, size)
    return jnp.stack([rows, ~rows, columns, ~columns])[jax.random.randint(key, (), 0, 4)][..., None]


def expand(size: tuple[int, int], *, key: Key[Array, ""]) -> Mask:
    """All but the central quarter of the image, as in outpainting."""
    del key
    rows, columns = size
    return ~box_mask((columns // 4, rows // 4, columns - columns // 4, rows - rows // 4), size)


def every_second_line(size: tuple[int, int], *, key: Key[Array, ""]) -> Mask:
    """Rows or columns 1, 3, 5, ..."""
    rows = jnp.broadcast_to(jnp.arange(size[0])[:, None] % 2 == 1, size)
    columns = jnp.broadcast_to(jnp.arange(size[1])[None, :] % 2 == 1, size)
    return jnp.where(jax.random.bernoulli(key), rows, columns)[..., None]


def every_second_pixel(size: tuple[int, int], *, key: Key[Array, ""]) -> Mask:
    """All but the pixels in even rows and even columns: RePaint's "super-resolve"."""
    del key
    known = (jnp.arange(size[0])[:, None] % 2 == 0) & (jnp.arange(size[1])[None, :] % 2 == 0)
    return ~known[..., None]


KINDS: Mapping[MaskKind, Callable[..., Mask]] = {
    "thick": thick,
    "thin": thin,
    "box": random_box,
    "half": half,
    "expand": expand,
    "every_second_line": every_second_line,
    "every_second_pixel": every_second_pixel,
}
"""How a mask of each kind is made: (size, key=...) -> mask."""


def _to_segment(
    size: tuple[int, int], first: Float[Array, " two"], second: Float[Array, " two"]
) -> Float[Array, "h w"]:
    """Distance of each pixel's centre to the segment between two points (x, y)."""
    along = second - first
    dx = (jnp.arange(size[1]) + 0.5 - first[0])[None, :]
    dy = (jnp.arange(size[0]) + 0.5 - first[1])[:, None]
    share = jnp.clip((dx * along[0] + dy * along[1]) / jnp.maximum(jnp.sum(along**2), 1e-9), 0.0, 1.0)
    return jnp.hypot(dx - share * along[0], dy - share * along[1])
