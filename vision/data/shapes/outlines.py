"""Outlines of the shapes world: eight plane figures as signed distance functions.

A signed distance function gives, at a point, the distance to the outline: negative inside, positive outside.
Anti-aliasing needs no supersampling, as a pixel's coverage is close to 1/2 minus the distance of its centre in pixels
(`coverage`). The distances are elementary geometry: the point is reflected into one sector of the figure's symmetry,
where the outline is a single segment or arc. Only sums, products, comparisons and square roots are used, which IEEE 754
rounds identically everywhere: a point gives the same bits in an array of any length.

Coordinates are those of images, x to the right and y down; every figure lies in the unit disc.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

CIRCLE_RADIUS = 0.88


@dataclass(frozen=True, kw_only=True)
class Outline:
    """One figure."""

    name: str
    """The English noun of the figure."""
    distance: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Signed distance of points (x, y), in units of the radius of the disc around the figure.

    The outline itself is exact. Away from it, the absolute distance is too small around the tips of the crescent, and
    slightly inaccurate inside the notches of heart, cross and star.
    """
    area: float
    """Area of the figure; the disc around it has pi."""
    max_rotation: float
    """Largest rotation in degrees, in either direction, that leaves the figure recognisable by this name."""


def coverage(distance: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Fraction of a pixel that a figure covers, in [0, 1], from the signed distance of its centre in pixels.

    Exact for a straight edge along a row or column of pixels, and unbiased for all others.
    """
    return np.clip(np.float32(0.5) - distance, np.float32(0), np.float32(1))


def _length(x, y):
    return np.sqrt(x * x + y * y)


def _box(x, y, half_width: float, half_height: float):
    """Rectangle about the origin: outside the distance to the nearest point, inside to the nearest side."""
    x, y = np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height)
    return _length(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(np.maximum(x, y), 0)


def _mirror(x, y, angle: float):
    """Points beyond the line through the origin at `angle` are reflected to its nearer side."""
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    beyond = 2 * np.maximum(c * y - s * x, 0)
    return x + s * beyond, y - c * beyond


def _star(x, y, points: int, outer: float, inner: float):
    """Star with one of its 3 or 5 points up; with `inner = outer / 2`, 3 points make a triangle."""
    sector = math.pi / points
    # Reflections leave the sector between a point, on the first axis, and the adjacent notch.
    along, across = _mirror(-y, np.abs(x), 2 * sector)
    along, across = _mirror(along, np.abs(across), sector)
    edge = inner * math.cos(sector) - outer, inner * math.sin(sector)
    along = along - np.float32(outer)
    ex, ey = np.float32(edge[0]), np.float32(edge[1])
    nearest = np.clip((along * ex + across * ey) * np.float32(1 / (edge[0] ** 2 + edge[1] ** 2)), 0, 1)
    distance = _length(along - nearest * ex, across - nearest * ey)
    return np.where(ex * across - ey * along > 0, -distance, distance)


def _circle(x, y):
    return _length(x, y) - np.float32(CIRCLE_RADIUS)


def _square(x, y):
    return _box(x, y, 0.61, 0.61) - np.float32(0.06)


def _triangle(x, y):
    return _star(x, y, 3, 0.91, 0.455) - np.float32(0.07)


def _five_pointed_star(x, y):
    return _star(x, y, 5, 0.94, 0.43) - np.float32(0.04)


def _heart(x, y):
    """A square on its corner with a half disc on each of its two upper sides."""
    side, shift = 0.51, 0.19  # half the square's side; the square's centre lies this far below the disc's
    x, y = np.abs(x), y - np.float32(shift)
    # Axes along the square's sides; the reflected half disc is centred on the middle of the side v = -side.
    root = np.float32(math.sqrt(0.5))
    u, v = (x + y) * root, (y - x) * root
    lobe = _length(u, v + np.float32(side)) - np.float32(side)
    return np.minimum(_box(u, v, side, side), lobe) - np.float32(0.03)


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return _box(np.maximum(x, y), np.minimum(x, y), 0.85, 0.24) - np.float32(0.05)


def _ring(x, y):
    return np.abs(_length(x, y) - np.float32(0.685)) - np.float32(0.215)


def _crescent(x, y):
    """A disc minus a smaller one on its right."""
    bite = np.float32(0.71) - _length(x - np.float32(0.52), y)
    return np.maximum(_length(x, y) - np.float32(0.96), bite)


OUTLINES: tuple[Outline, ...] = (
    Outline(name="circle", distance=_circle, area=2.433, max_rotation=180.0),
    Outline(name="square", distance=_square, area=1.792, max_rotation=20.0),
    Outline(name="triangle", distance=_triangle, area=1.422, max_rotation=180.0),
    Outline(name="star", distance=_five_pointed_star, area=1.450, max_rotation=180.0),
    Outline(name="heart", distance=_heart, area=2.017, max_rotation=30.0),
    Outline(name="cross", distance=_cross, area=1.749, max_rotation=15.0),
    Outline(name="ring", distance=_ring, area=1.851, max_rotation=180.0),
    Outline(name="crescent", distance=_crescent, area=1.617, max_rotation=180.0),
)
"""The figures, in the order in which shapes are numbered."""
