"""Muted backgrounds of the shapes world: two tones mixed by a gradient, stripes, dots or soft clouds.

Every tone has low saturation and is either light or dark, so that none can be confused with an object's colour.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt64

from vision.data.shapes.counter_random import uniform

BACKGROUNDS: tuple[str, ...] = ("solid", "gradient", "stripes", "dots", "clouds")

_LATTICE = 5


def smooth(t):
    """The cubic that rises from 0 at 0 to 1 at 1 with zero slope at both ends (smoothstep)."""
    t = np.clip(t, np.float32(0), np.float32(1))
    return t * t * (3 - 2 * t)


def _muted(hue, saturation, value) -> Float[np.ndarray, "n 3"]:
    """RGB in [0, 1] from hue, saturation and value in [0, 1] (Smith, "Color gamut transform pairs", 1978)."""
    k = (np.array([5, 3, 1]) + hue[:, None] * 6) % 6
    away = np.clip(np.minimum(k, 4 - k), 0, 1)
    return (value[:, None] * (1 - saturation[:, None] * away)).astype(np.float32)


def background_kinds(count: int, keys: UInt64[np.ndarray, "n"]) -> Int32[np.ndarray, "n"]:
    """Which of ``count`` kinds of background each scene has, all equally often."""
    return (uniform(keys, "kind", 1)[:, 0] * count).astype(np.int32)


def are_dark(keys: UInt64[np.ndarray, "n"], *, dark_share: float) -> Bool[np.ndarray, "n"]:
    """Whether the background of each scene is dark."""
    return uniform(keys, "tone", 6)[:, 3] >= 1 - dark_share


def _pattern(kinds: tuple[str, ...], resolution: int, keys: UInt64[np.ndarray, "n"]) -> Float[np.ndarray, "n h w"]:
    """How much of its second tone each background shows, in [0, 1]."""
    n, r = len(keys), resolution
    kind = background_kinds(len(kinds), keys)
    turn, period, phase_x, phase_y = uniform(keys, "pattern", 4).T
    pixel = (np.arange(r, dtype=np.float32) + np.float32(0.5)) / np.float32(r) - np.float32(0.5)
    out = np.zeros((n, r, r), np.float32)
    for index, name in enumerate(kinds):
        at = np.nonzero(kind == index)[0]
        if name == "solid" or not len(at):
            continue
        angle = 2 * math.pi * turn[at]
        cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        across = pixel[None, None, :] * cos + pixel[None, :, None] * sin
        along = pixel[None, :, None] * cos - pixel[None, None, :] * sin
        if name == "gradient":
            out[at] = smooth(across / np.float32(1.2) + np.float32(0.5))
            continue
        if name == "clouds":
            out[at] = _clouds(uniform(keys[at], "lattice", _LATTICE, _LATTICE).astype(np.float32), r)
            continue
        # At least six pixels per period, or stripes and dots would look like noise on a small image.
        length = np.maximum(0.14 + 0.14 * period[at], 6 / r).astype(np.float32)[:, None, None]
        u = np.abs(_cycle(across / length + phase_x[at].astype(np.float32)[:, None, None]))
        if name == "stripes":
            out[at] = smooth((u - np.float32(0.25)) * length * np.float32(0.7 * min(r, 48)) + np.float32(0.5))
            continue
        v = _cycle(along / length + phase_y[at].astype(np.float32)[:, None, None])
        radius = np.sqrt(u * u + v * v) * length
        out[at] = smooth((np.float32(0.28) * length - radius) * np.float32(0.7 * min(r, 48)) + np.float32(0.5))
    return out


def _cycle(t):
    """Signed distance from the nearest integer, in [-1/2, 1/2]."""
    return t - np.floor(t + np.float32(0.5))


def _clouds(lattice: Float[np.ndarray, "n a a"], resolution: int) -> Float[np.ndarray, "n h w"]:
    """Value noise: random values on a lattice, interpolated smoothly."""
    place = (np.arange(resolution) + 0.5) / resolution * (_LATTICE - 1)
    left = place.astype(np.int64)
    weight = smooth((place - left).astype(np.float32))
    rows = lattice[:, left] * (1 - weight[:, None]) + lattice[:, left + 1] * weight[:, None]
    return rows[:, :, left] * (1 - weight) + rows[:, :, left + 1] * weight


def background(
    kinds: tuple[str, ...], resolution: int, keys: UInt64[np.ndarray, "n"], *, dark_share: float = 0.25
) -> Float[np.ndarray, "n 3 h w"]:
    """Two muted tones of similar brightness and a pattern that mixes them; RGB in [0, 1]."""
    hue, saturation, value, _, step, side = uniform(keys, "tone", 6).T
    light = ~are_dark(keys, dark_share=dark_share)
    # Light or dark; medium tones are excluded, since some object colours would not stand out from them.
    value = np.where(light, 0.84 + 0.12 * value, 0.17 + 0.11 * value)
    saturation = np.where(light, 0.02 + 0.08 * saturation, 0.05 + 0.20 * saturation)
    step = (0.05 + 0.05 * step) * np.where(light, -1, 1)
    first = _muted(hue, saturation, value)
    second = _muted((hue + 0.12 * (side - 0.5)) % 1, saturation * 1.25, value + step)
    pattern = _pattern(kinds, resolution, keys)[:, None]
    return first[:, :, None, None] + (second - first)[:, :, None, None] * pattern
