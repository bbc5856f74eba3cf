"""Semantic segmentation: from a network to probabilities of the pixels of an image, by several views of it.

A view is the whole image, its left-right flip, the image resized, or windows of it; the probabilities of all views are
averaged at the size of the image. All shapes are static.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from vision.errors import UserError
from vision.ops.resize import resize
from vision.ranges import Decay, NonNegativeInt, PositiveFloat, PositiveInt, check_ranges

Segment = Callable[[Mapping[str, Any], Float[Array, "b h w 3"]], Float[Array, "b h w k"]]
"""(variables, images in [-1, 1]) -> probabilities, which sum to 1 over the classes, at the size of the images."""


@dataclass(frozen=True)
class SegmenterConfig:
    """How an image is shown to the network. The default is once, as it is."""

    flip: bool = False
    """Test-time augmentation: also the image flipped left to right."""
    scales: tuple[PositiveFloat, ...] = (1.0,)
    """Test-time augmentation: the image resized by each of these factors."""
    multiple: PositiveInt = 1
    """The sides of a resized image are rounded to multiples of this many pixels, at any scale; for networks that need
    it."""
    window: NonNegativeInt = 0
    """Side of square windows that the network sees one after another, in pixels of the resized image; 0 for the whole
    image at once."""
    overlap: Decay = 0.25
    """Share of a window that the next one covers too, at least."""
    blend: Literal["uniform", "linear"] = "uniform"
    """How windows are weighted where they overlap: alike, or less towards their borders."""


def segmenter(model: nn.Module, config: SegmenterConfig) -> Segment:
    """(variables, images) -> probabilities by the views of ``config``; pure, and to be compiled.

    The network is called as ``model.apply(variables, images, train=False)`` and returns logits at the size of what it
    is given (`vision.tasks.segmentation.SegmentationOutput`).

    Raises:
      UserError: a value of the configuration is out of its range, or there are no scales.
    """
    check_ranges(config)
    if not config.scales:
        raise UserError("there are no scales to segment at: 1 is the image as it is")

    def plain(variables: Mapping[str, Any], images: Array) -> Array:
        output: Any = model.apply(variables, images, train=False)
        return jax.nn.softmax(output.logits.astype(jnp.float32), axis=-1)

    segment: Segment = plain
    if config.window:
        segment = in_windows(segment, side=config.window, overlap=config.overlap, blend=config.blend)
    if config.flip:
        segment = with_flip(segment)
    return at_scales(segment, config.scales, multiple=config.multiple)


def with_flip(segment: Segment) -> Segment:
    """The mean of the image and its left-right flip."""

    def both(variables: Mapping[str, Any], images: Array) -> Array:
        flipped = segment(variables, images[:, :, ::-1])[:, :, ::-1]
        return (segment(variables, images) + flipped) / 2.0

    return both


def at_scales(segment: Segment, scales: tuple[float, ...], *, multiple: int = 1) -> Segment:
    """The mean over the image resized by each factor, with sides of multiples of some pixels; resized bilinearly."""

    def mean(variables: Mapping[str, Any], images: Array) -> Array:
        size = (images.shape[1], images.shape[2])
        total: Any = 0.0
        for scale in scales:
            height, width = (max(round(side * scale / multiple), 1) * multiple for side in size)
            if (height, width) == size:
                total += segment(variables, images)
            else:
                total += resize(segment(variables, resize(images, (height, width))), size)
        return total / len(scales)

    return mean


def in_windows(segment: Segment, *, side: int, overlap: float, blend: Literal["uniform", "linear"]) -> Segment:
    """The weighted mean over square windows, which are evenly spaced and cover the image.

    A side of the image that is shorter than the window is padded with mid-grey at its end.
    """

    def mean(variables: Mapping[str, Any], images: Array) -> Array:
        height, width = images.shape[1:3]
        padded = jnp.pad(images, ((0, 0), (0, max(side - height, 0)), (0, max(side - width, 0)), (0, 0)))
        tall, wide = padded.shape[1:3]
        corners, weight = window_starts(tall, side, overlap), window_weight(side, blend)
        places = [(row, column) for row in corners for column in window_starts(wide, side, overlap)]
        total_weight = np.zeros((tall, wide), np.float32)
        for row, column in places:
            total_weight[row : row + side, column : column + side] += weight

        def one(corner: Array) -> Array:
            cut = jax.lax.dynamic_slice(
                padded, (0, corner[0], corner[1], 0), (len(padded), side, side, padded.shape[-1])
            )
            return segment(variables, cut) * weight[..., None]

        shape = jax.eval_shape(one, jax.ShapeDtypeStruct((2,), jnp.int32))

        def add(total: Array, corner: Array) -> tuple[Array, None]:
            at = (0, corner[0], corner[1], 0)
            old = jax.lax.dynamic_slice(total, at, shape.shape)
            return jax.lax.dynamic_update_slice(total, old + one(corner), at), None

        empty = jnp.zeros((len(padded), tall, wide, shape.shape[-1]), shape.dtype)
        total, _ = jax.lax.scan(add, empty, jnp.array(places, jnp.int32))
        return (total / total_weight[..., None])[:, :height, :width]

    return mean


def window_starts(length: int, side: int, overlap: float) -> list[int]:
    """Where windows begin on a line of at least ``side`` pixels: evenly spaced, the last one ends with the line."""
    count = ceil((length - side) / max(int(side * (1.0 - overlap)), 1)) + 1
    starts: Int[np.ndarray, " n"] = np.round(np.linspace(0, length - side, count)).astype(int)
    return starts.tolist()


def window_weight(side: int, blend: Literal["uniform", "linear"]) -> Float32[np.ndarray, "{side} {side}"]:
    """The weights of the pixels of a window, all above 0; "linear" is a pyramid."""
    if blend == "uniform":
        return np.ones((side, side), np.float32)
    line = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)).astype(np.float32)
    line /= line.max()
    return line[:, None] * line
