"""Outlines: distances against brute force, areas against counting, and figures that cannot be confused."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from vision.data.shapes.outlines import CIRCLE_RADIUS, OUTLINES, coverage

EACH = pytest.mark.parametrize("outline", OUTLINES, ids=lambda outline: outline.name)


def grid(n: int):
    line = ((np.arange(n) + 0.5) / n * 2.4 - 1.2).astype(np.float32)
    return np.meshgrid(line, line)


def turned(outline, x, y, degrees):
    c, s = np.float32(np.cos(np.radians(degrees))), np.float32(np.sin(np.radians(degrees)))
    return outline.distance(x * c + y * s, y * c - x * s)


@EACH
def test_area_and_extent(outline):
    x, y = grid(500)
    inside = outline.distance(x, y) <= 0
    assert inside.mean() * 2.4**2 == pytest.approx(outline.area, rel=0.01)
    assert np.hypot(x, y)[inside].max() < 1


@EACH
def test_distance_is_that_to_the_outline(outline):
    x, y = grid(600)
    cell = 2.4 / 600
    distance = outline.distance(x, y)
    inside = distance <= 0
    # From a pixel to the nearest one on the other side, less half a pixel, is the distance up to a pixel.
    brute = np.where(
        inside,
        -ndimage.distance_transform_edt(inside) + 0.5,
        ndimage.distance_transform_edt(~inside) - 0.5,
    )
    near = np.abs(brute * cell) < 0.08
    error = np.abs(distance - brute * cell)[near]
    if outline.name in ("circle", "square", "triangle", "ring"):
        assert error.max() < 1.2 * cell
    else:  # exact but for the surroundings of notches and horns
        assert (error > 1.2 * cell).mean() < 0.02
        assert error.max() < 0.08


@EACH
@pytest.mark.parametrize("pixels", [12, 30, 90])
def test_coverage_sums_to_the_area(outline, pixels):
    radius = pixels / 2
    centre = np.arange(-8, pixels + 8, dtype=np.float32) + np.float32(0.5 - radius)
    x, y = np.meshgrid((centre - 0.3) / radius, (centre + 0.2) / radius)
    total = coverage(turned(outline, x.astype(np.float32), y.astype(np.float32), 11) * np.float32(radius)).sum()
    exact = np.pi * (CIRCLE_RADIUS * radius) ** 2 if outline.name == "circle" else outline.area * radius**2
    assert total == pytest.approx(exact, rel=0.005 if outline.name == "circle" else 0.02)


def test_figures_differ_at_any_rotation():
    x, y = grid(48)
    masks = {
        outline.name: np.stack(
            [
                (turned(outline, x, y, degrees) <= 0).ravel()
                for degrees in np.arange(-outline.max_rotation, outline.max_rotation + 1, 6)
            ]
        ).astype(np.float32)
        for outline in OUTLINES
    }
    for (name, a), (other, b) in itertools.combinations(masks.items(), 2):
        both = a @ b.T
        overlap = both / (a.sum(1)[:, None] + b.sum(1) - both)
        assert overlap.max() < 0.82, (name, other)


def test_a_pixel_half_covered_is_one_whose_centre_lies_on_the_outline():
    assert coverage(np.float32([-9, -0.5, 0, 0.25, 9])).tolist() == [1, 1, 0.5, 0.25, 0]
