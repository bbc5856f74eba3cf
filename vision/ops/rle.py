"""Masks as run lengths (RLE), the form of COCO's library: what a set of instance masks is kept and compared in.

A mask is read column by column, from the upper left corner down, as alternating numbers of pixels outside and inside,
the first of them outside. The counts are packed into characters. A mask of a megapixel takes some hundred bytes, and
areas, boxes and overlaps are computed without its pixels. Encoding, areas, boxes and polygons are pycocotools'.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

# Groups of at most seven characters, which fit 35 bits; the decoder in C checks nothing.
_TEXT = re.compile(r"(?:[P-o]{0,6}[0-O])+")


@dataclass(frozen=True)
class Rle:
    """One mask."""

    height: int
    """In pixels."""
    width: int
    """In pixels."""
    counts: bytes
    """Packed run lengths, which add up to height times width."""

    def as_coco(self) -> dict[str, Any]:
        """As pycocotools takes it."""
        return {"size": [self.height, self.width], "counts": self.counts}


def encode(mask: Bool[np.ndarray, "h w"]) -> Rle:
    """The run lengths of a mask."""
    from pycocotools import mask as coco  # only evaluations and annotations of masks need it

    packed: Any = coco.encode(np.asfortranarray(mask, np.uint8))
    height, width = mask.shape
    return Rle(height, width, packed["counts"])


def decode(rle: Rle) -> Bool[np.ndarray, "h w"]:
    """The mask.

    Raises:
      ValueError: the run lengths are no such text, or do not add up to the size.
    """
    lengths = run_lengths_of_text(rle.counts.decode())
    if lengths is None:
        raise ValueError(f"{rle.counts!r} are no run lengths")
    # pycocotools' decoder warns under numpy 2, and leaves memory as it was where lengths are too short
    columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(rle.width, rle.height)
    return np.ascontiguousarray(columns.T)


def union(masks: Sequence[Rle]) -> Rle:
    """The pixels of any of the masks, of which there is at least one, all of one size."""
    from pycocotools import mask as coco

    if len(masks) == 1:
        return masks[0]
    parts: Any = [each.as_coco() for each in masks]
    packed: Any = coco.merge(parts)
    return Rle(masks[0].height, masks[0].width, packed["counts"])


def area(rle: Rle) -> int:
    """Pixels inside."""
    from pycocotools import mask as coco

    return int(coco.area(rle.as_coco()))  # pyright: ignore[reportArgumentType]


def box(rle: Rle) -> Float64[np.ndarray, "4"]:
    """The smallest box around the mask, corners (x0, y0, x1, y1) in pixels; zeros for a mask without pixels."""
    from pycocotools import mask as coco

    x, y, width, height = coco.toBbox(rle.as_coco())  # pyright: ignore[reportArgumentType]
    return np.array([x, y, x + width, y + height], np.float64)


def of_run_lengths(lengths: Sequence[int], height: int, width: int) -> Rle:
    """From plain counts, which add up to height times width."""
    from pycocotools import mask as coco

    plain: Any = {"size": [height, width], "counts": list(lengths)}
    packed: Any = coco.frPyObjects(plain, height, width)
    return Rle(height, width, packed["counts"])


def of_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """The union of polygons, each x0, y0, x1, y1, ..., of three or more points; filled as COCO's library fills them.

    A polygon that encloses no pixel adds none. The time and memory go with the length of the outlines in pixels, also
    outside of the image.
    """
    from pycocotools import mask as coco

    points: Any = [list(each) for each in polygons]
    each: Any = coco.frPyObjects(points, height, width)
    packed: Any = coco.merge(each)
    return Rle(height, width, packed["counts"])


def run_lengths_of_text(text: str) -> Int64[np.ndarray, " n"] | None:
    """The counts that packed characters stand for, which may be anything; None if they are no such text.

    Little-endian groups of five bits from the character "0" on, the sixth bit says that more follow, and the highest
    of the last five is the sign. From the fourth number on, the last but one before it has been subtracted.
    """
    if not _TEXT.fullmatch(text):
        return None
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    place = np.arange(len(codes)) - np.repeat(starts, sizes)
    numbers = np.add.reduceat((codes & 31) << 5 * place, starts)
    numbers -= np.where(codes[ends] & 16, np.int64(1) << 5 * sizes, 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers
