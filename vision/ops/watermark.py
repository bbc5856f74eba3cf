"""An invisible watermark: bits in the mean tile of an image's luma, by spread spectrum.

The luma is folded into one tile, the mean over all tiles of the image, so that content averages out and a crop of
several tiles still has the mark. A bit is the sign of the tile's product with a pattern of random phases in a band of
frequencies (Cox et al. 1997, "Secure spread spectrum watermarking"), and marking removes the content's own part of that
product (Malvar & Florencio 2003, "Improved spread spectrum", section III): the bits of an untouched image are exact.
Signs do not depend on brightness and contrast, and the band lies below a quarter of the sampling rate, so that halving
an image keeps it.

An image of a single tile has no other tiles over which its content averages out, and removing the content's part would
be seen. There a bit is which of two interleaved lattices the product lies on (Chen & Wornell 2001, "Quantization index
modulation", section V, spread-transform dither modulation): a small change, which noise and JPEG keep, and blur and
contrast do not.

Some bits, the pilots, are the same in all images. They find the shift of a crop, and their agreement says whether there
is a mark at all; the bits of the message are independent of that choice, so that their agreement with a known message
has the binomial distribution where there is no mark.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import stats

from vision.errors import UserError
from vision.ops.colour import greyscale
from vision.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Seed, check_ranges

_ROUNDS = 4
"""How often the mark is completed, since clipping at black and white takes some of it."""
_UNSHIFTED = 0.2
"""Advantage of no shift, on the scale from -1 to 1, since most images are not cropped."""


@dataclass(frozen=True, kw_only=True)
class WatermarkConfig:
    """The mark; whoever reads it must have the same one."""

    bits: PositiveInt = 48
    """Bits of the message, at least 1."""
    pilots: PositiveInt = 32
    """Bits that are the same in all images, at least 1."""
    tile: PositiveInt = 64
    """Sides of the tile in pixels. Images are at least as large."""
    low: PositiveFloat = 5.0
    """Lowest frequency of a pattern, in periods a tile."""
    high: PositiveFloat = 11.0
    """Highest frequency; above a quarter of ``tile`` it does not survive halving."""
    strength: PositiveFloat = 13.0
    """Least product of the mean tile and a pattern of length 1, in levels of 0 to 255."""
    spacing: NonNegativeFloat = 0.0
    """Distance of the lattices' points in levels, in place of ``strength``; 0 for signs."""
    secret: Seed = 0
    """The patterns' seed, without which the mark cannot be read."""


WATERMARK = WatermarkConfig()
"""Of images of 256 pixels and more."""
WATERMARK_OF_64 = WatermarkConfig(pilots=16, low=4.0, high=16.0, spacing=60.0)
"""Of images of 64 pixels: kept by JPEG of quality 70, not by halving."""
WATERMARK_OF_32 = WatermarkConfig(pilots=16, tile=32, low=3.0, high=14.0, spacing=40.0)
"""Of images of 32 pixels: kept by JPEG of quality 90."""


@dataclass(frozen=True)
class Reading:
    """What was read from an image."""

    message: Bool[np.ndarray, " bits"]
    """The bits; random where there is no mark."""
    pilots: float
    """The share of pilots that agree, in [0, 1]; about 0.75 where there is no mark, the best of all shifts."""
    shift: tuple[int, int]
    """Rows and columns from the image's corner to that of a tile."""


def marked(
    images: Float[Array, "b h w 3"],
    message: Bool[Array | np.ndarray, "b bits"],
    config: WatermarkConfig = WatermarkConfig(),
) -> Float[Array, "b h w 3"]:
    """Images with the bits of a message, changed by the same amount in all three colours.

    Args:
      images: in [-1, 1].
      message: the bits of each image.
      config: the mark.

    Raises:
      UserError: images smaller than a tile, a message of another length, or a band too narrow for the bits.
    """
    _check((images.shape[1], images.shape[2]), config)
    if message.shape != (len(images), config.bits):
        raise UserError(f"the message has {message.shape[-1]} bits, and the watermark carries {config.bits}")
    return _marked(images, jnp.asarray(message), config)


def read_mark(images: Float[Array, "b h w 3"], config: WatermarkConfig = WatermarkConfig()) -> list[Reading]:
    """The bits of each image, at the shift at which the pilots agree best.

    Args:
      images: in [-1, 1], of the size at which they were marked, or crops of it.
      config: the mark.

    Raises:
      UserError: images smaller than a tile, or a band too narrow for the bits.
    """
    _check((images.shape[1], images.shape[2]), config)
    evidence, shifts = jax.device_get(_read(images, config))
    found = evidence > 0.0
    agree = found[:, : config.pilots] == (_patterns(config)[1] > 0.0)
    return [
        Reading(
            message=row[config.pilots :],
            pilots=float(share.mean()),
            shift=(int(shift) // config.tile, int(shift) % config.tile),
        )
        for row, share, shift in zip(found, agree, shifts, strict=True)
    ]


def least_agreement(bits: int, false_positives: float) -> int:
    """How many bits of a known message must agree, so that an unmarked image is taken for marked rarely enough.

    Args:
      bits: of the message.
      false_positives: probability that the bits of an unmarked image, each right with probability 1/2, agree as often.

    Returns:
      The number, ``bits + 1`` where even all bits are not enough.
    """
    return int(stats.binom.isf(false_positives, bits, 0.5)) + 1


@functools.partial(jax.jit, static_argnames="config")
def _marked(images: Array, message: Array, config: WatermarkConfig) -> Float[Array, "b h w 3"]:
    """The images with the message in them."""
    patterns, pilots, dither = _patterns(config)
    signs = jnp.concatenate([jnp.tile(pilots, (len(images), 1)), jnp.where(message, 1.0, -1.0)], axis=1)
    levels = (images + 1.0) * 127.5
    height, width = images.shape[1:3]
    repeats = (-(-height // config.tile), -(-width // config.tile))
    for _ in range(_ROUNDS):
        product = jnp.einsum("byx,kyx->bk", _folded(levels, config.tile), patterns)
        if config.spacing:
            # Chen & Wornell 2001, equation 26: the next point of the bit's lattice
            offset = config.spacing * (dither + signs / 4.0)
            missing = jnp.round((product - offset) / config.spacing) * config.spacing + offset - product
        else:
            # Malvar & Florencio 2003, section III, one-sided: what has the right sign and the length stays
            missing = signs * jnp.maximum(config.strength - signs * product, 0.0)
        tile = jnp.einsum("bk,kyx->byx", missing, patterns)
        levels = jnp.clip(levels + jnp.tile(tile, (1, *repeats))[:, :height, :width, None], 0.0, 255.0)
    return levels / 127.5 - 1.0


@functools.partial(jax.jit, static_argnames="config")
def _read(images: Array, config: WatermarkConfig) -> tuple[Float[Array, "b k"], Int[Array, " b"]]:
    """For each bit a number whose sign is the bit, and the shift at which the pilots agree best."""
    patterns, pilots, dither = _patterns(config)
    tiles = jnp.fft.rfft2(_folded((images + 1.0) * 127.5, config.tile))
    # the product with each pattern at each shift, by the correlation theorem
    spectrum = tiles[:, None] * jnp.conj(jnp.fft.rfft2(patterns))
    products = jnp.fft.irfft2(spectrum, (config.tile, config.tile))
    evidence = products.reshape(*products.shape[:2], -1)
    if config.spacing:
        # 1 at a point of the lattice of a set bit, -1 at one of a bit that is not set, which lie half a spacing apart
        evidence = jnp.sin(2.0 * jnp.pi * (evidence / config.spacing - dither[:, None]))
    known = evidence[:, : config.pilots]
    agreement = jnp.einsum("bks,k->bs", known, pilots) / (jnp.linalg.norm(known, axis=1) + 1e-6)
    shift = jnp.argmax(agreement.at[:, 0].add(_UNSHIFTED), axis=1)
    return jnp.take_along_axis(evidence, shift[:, None, None], axis=2)[..., 0], shift


def _folded(levels: Float[Array, "b h w 3"], tile: int) -> Float[Array, "b t t"]:
    """The mean over all tiles of the luma, its own mean taken off; parts of tiles count for the pixels they have."""
    luma = greyscale(levels)[..., 0]
    height, width = luma.shape[1:]
    rows, columns = (_membership(side, tile) for side in (height, width))
    total = jnp.einsum("byx,yt,xs->bts", luma, rows, columns)
    return total / (rows.sum(0)[:, None] * columns.sum(0)) - luma.mean((1, 2), keepdims=True)


def _membership(side: int, tile: int) -> Float[np.ndarray, "side tile"]:
    """1 where a pixel belongs to a place in the tile."""
    return (np.arange(side)[:, None] % tile == np.arange(tile)).astype(np.float32)


@functools.cache
def _patterns(
    config: WatermarkConfig,
) -> tuple[Float[np.ndarray, "k t t"], Float[np.ndarray, " pilots"], Float[np.ndarray, " k"]]:
    """Orthonormal patterns of random phases in the band, those of the pilots first; the pilots' signs; the dither."""
    generator = np.random.default_rng(config.secret)
    count = config.bits + config.pilots
    frequency = np.hypot(np.fft.fftfreq(config.tile)[:, None], np.fft.rfftfreq(config.tile)) * config.tile
    band = (frequency >= config.low) & (frequency <= config.high)
    values = generator.normal(size=(2, count, *band.shape)) * band
    patterns = np.fft.irfft2(values[0] + 1j * values[1], (config.tile, config.tile)).reshape(count, -1)
    orthonormal, triangular = np.linalg.qr(patterns.T)
    if np.abs(np.diag(triangular)).min() < 1e-6 * np.abs(triangular).max():
        raise UserError(
            f"frequencies from {config.low:g} to {config.high:g} of a tile of {config.tile} pixels have no place for "
            f"{count} bits: widen the band, or take fewer bits or pilots"
        )
    signs = np.where(generator.integers(0, 2, config.pilots) > 0, 1.0, -1.0)
    dither = generator.uniform(size=count).astype(np.float32)
    return orthonormal.T.reshape(count, config.tile, config.tile).astype(np.float32), signs.astype(np.float32), dither


def _check(size: tuple[int, int], config: WatermarkConfig) -> None:
    check_ranges(config)
    if not config.low < config.high <= config.tile / 2:
        raise UserError(
            f"the band of the watermark, from {config.low:g} to {config.high:g}, must rise and end at half of the "
            f"{config.tile} pixels of a tile"
        )
    if min(size) < config.tile:
        raise UserError(
            f"an image of {size[1]}x{size[0]} pixels is smaller than the {config.tile}x{config.tile} pixels of the "
            "watermark: choose a smaller tile"
        )
