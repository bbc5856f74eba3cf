"""Images of any size through a function of one size: overlapping tiles, of which only the insides are kept.

A network's result at a pixel depends on the pixels around it as far as its receptive field reaches. A tile's result is
that of the whole image where the field lies inside the tile; and at the image's own borders, which tiles share with it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Num

from vision.errors import UserError
from vision.ranges import NonNegativeInt, Pixels, PositiveInt, check_ranges

ImageFunction = Callable[[Num[Array, "n t t c"]], Num[Array, "n s s d"]]


@dataclass(frozen=True)
class TilingConfig:
    """How an image is cut into tiles."""

    tile: Pixels = 128
    """Sides of a tile, at least 1; the only shape that the function is compiled for."""
    margin: NonNegativeInt = 16
    """Pixels at a tile's inner borders whose results are not used, less than half of the tile: the reach of the
    receptive field makes the result that of the whole image."""
    batch: PositiveInt = 1
    """Tiles that are computed at once, at least 1."""
    multiple: PositiveInt = 1
    """Tiles begin at multiples of this, at least 1: the window of attention, or the squares that are folded."""


def tiled(
    function: ImageFunction,
    images: Num[np.ndarray, "b h w c"],
    config: TilingConfig = TilingConfig(),
    *,
    scale: int = 1,
) -> Num[np.ndarray, "b H W d"]:
    """Apply a function of tiles to whole images, in memory for a batch of tiles and the result.

    The result has the type of the function's: one that rounds to 8 bits needs a quarter of the memory for it.

    Args:
      function: tiles [config.batch, tile, tile, c] to tiles ``scale`` times as large; jit it.
      images: of any size; sides that are shorter than a tile, or from which its ``multiple`` does not leave whole
        steps, are continued by their mirror image, and the result is cut.
      config: the tiles.
      scale: how many times as large the function's results are.

    Raises:
      UserError: tiles without an inside, or a result that is not ``scale`` times as large.
    """
    check_ranges(config)
    stride = (config.tile - 2 * config.margin) // config.multiple * config.multiple
    if stride < 1 or config.tile % config.multiple:
        raise UserError(
            f"tiles of {config.tile} pixels that are multiples of {config.multiple} have no inside without a margin of "
            f"{config.margin}: choose larger tiles or a smaller margin"
        )
    batch, height, width, _ = images.shape
    sides = [_padded_side(side, config) for side in (height, width)]
    padding = ((0, 0), (0, sides[0] - height), (0, sides[1] - width), (0, 0))
    padded = np.pad(np.asarray(images), padding, mode="symmetric")
    places = [
        (index, rows, columns)
        for index in range(batch)
        for rows in _spans(sides[0], config.tile, stride)
        for columns in _spans(sides[1], config.tile, stride)
    ]
    result: np.ndarray | None = None
    for first in range(0, len(places), config.batch):
        chosen = places[first : first + config.batch]
        # the last tile again, so that the batch is full
        given = [*chosen, *chosen[-1:] * (config.batch - len(chosen))]
        cut = lambda span: slice(span.start, span.start + config.tile)
        tiles = np.stack([padded[index, cut(rows), cut(columns)] for index, rows, columns in given])
        made = np.asarray(jax.device_get(function(jnp.asarray(tiles))))
        if made.shape[1:3] != (config.tile * scale, config.tile * scale):
            raise UserError(
                f"tiles of {config.tile} pixels became {made.shape[1]}x{made.shape[2]}, which is not {scale} times as "
                "large: give the scale of the function"
            )
        if result is None:
            result = np.empty((batch, sides[0] * scale, sides[1] * scale, made.shape[-1]), made.dtype)
        for tile, (index, rows, columns) in zip(made, chosen, strict=False):
            own = tuple(slice((s.first - s.start) * scale, (s.last - s.start) * scale) for s in (rows, columns))
            whole = tuple(slice(s.first * scale, s.last * scale) for s in (rows, columns))
            result[(index, *whole)] = tile[own]
    assert result is not None
    return result[:, : height * scale, : width * scale]


@dataclass(frozen=True)
class _Span:
    """A tile along one side, and the pixels of it that are kept."""

    start: int
    first: int
    last: int


def _spans(side: int, tile: int, stride: int) -> Iterator[_Span]:
    """Tiles from the first pixel to the last; two neighbours share what both have in the middle."""
    starts = [*range(0, side - tile, stride), side - tile]
    for number, start in enumerate(starts):
        first = 0 if number == 0 else (start + starts[number - 1] + tile) // 2
        last = side if number == len(starts) - 1 else (starts[number + 1] + start + tile) // 2
        yield _Span(start, first, last)


def _padded_side(side: int, config: TilingConfig) -> int:
    more = max(side - config.tile, 0)
    return config.tile + -(-more // config.multiple) * config.multiple
