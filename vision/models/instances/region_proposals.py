"""The region proposal network: of every anchor of every cell, whether it is an object and where (Ren et al. 2015)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vision.nn.convolution import Conv, PointwiseConv


class Regions(NamedTuple):
    """Predictions of each level in the order of rows, columns and anchors, float32."""

    objectness: tuple[Float[Array, "b _"], ...]
    """Logits."""
    offsets: tuple[Float[Array, "b _ 4"], ...]
    """The box's offsets from the anchor (``ops/box_coding.py``)."""
    anchors: tuple[Float[Array, "_ 4"], ...]
    """Corners in pixels, the same for all images."""


def cell_anchors(side: float, ratios: Sequence[float]) -> Float[np.ndarray, "a 4"]:
    """Anchors around the origin of the area ``side`` squared, with these ratios of height and width, float32.

    Their corners are rounded to whole pixels, halves to even ones, as published.
    """
    high = np.sqrt(np.array(ratios, np.float32))
    half = np.stack([np.float32(1) / high, high], axis=1) * np.float32(side) / np.float32(2)
    return np.round(np.concatenate([-half, half], axis=1))


def grid_anchors(
    anchors: Float[np.ndarray, "a 4"], *, grid: tuple[int, int], image: tuple[int, int]
) -> Float[Array, "_ 4"]:
    """The anchors of every cell of a level, [rows columns a 4] as [n 4].

    Args:
      anchors: of a cell at the origin.
      grid: rows and columns of the level.
      image: height and width in pixels. The distance of cells is the side divided by their number, rounded down, as
        published; of a side that is no multiple of 64, this is less than the stride of the last level.
    """
    y, x = (jnp.arange(cells) * (side // cells) for cells, side in zip(grid, image, strict=True))
    y, x = jnp.meshgrid(y, x, indexing="ij")
    shifts = jnp.stack([x, y, x, y], axis=-1).astype(jnp.float32)
    return (shifts[:, :, None] + jnp.asarray(anchors)).reshape(-1, 4)


class RegionProposals(nn.Module):
    """A 3x3 convolution, then a logit and four offsets of each anchor; the same for all levels."""

    sizes: Sequence[float]
    """Side of the anchors of each level, in pixels."""
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[Float[Array, "b _ _ c"]], image: tuple[int, int]) -> Regions:
        """Predictions for the levels of an image of these sides in pixels."""
        channels, count = levels[0].shape[-1], len(self.ratios)
        small = nn.initializers.normal(0.01)
        conv = Conv(channels, kernel_init=small, dtype=self.dtype, name="conv")
        predict = partial(PointwiseConv, use_bias=True, kernel_init=small, dtype=self.dtype)
        objectness, offsets = predict(count, name="objectness"), predict(4 * count, name="offsets")
        found, where, anchors = [], [], []
        for features, side in zip(levels, self.sizes, strict=True):
            hidden = nn.relu(conv(features))
            cells = math.prod(features.shape[1:3])
            found.append(objectness(hidden).astype(jnp.float32).reshape(-1, cells * count))
            where.append(offsets(hidden).astype(jnp.float32).reshape(-1, cells * count, 4))
            grid = (features.shape[1], features.shape[2])
            anchors.append(grid_anchors(cell_anchors(side, self.ratios), grid=grid, image=image))
        return Regions(tuple(found), tuple(where), tuple(anchors))
