"""Paintings that need no download: four textures made by rules, with strokes, cells, waves and rings.

They stand for paintings in quick runs and tests of style transfer.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from vision.data.source import Record

PALETTES: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "strokes": ((20, 40, 96), (38, 84, 160), (110, 158, 200), (236, 206, 96), (244, 238, 190)),
    "cells": ((178, 34, 40), (240, 128, 48), (250, 214, 110), (46, 92, 80), (28, 30, 44)),
    "waves": ((12, 44, 72), (30, 106, 140), (142, 196, 198), (240, 234, 214), (200, 150, 96)),
    "rings": ((60, 20, 70), (160, 40, 110), (236, 100, 90), (250, 190, 90), (70, 150, 150)),
}
"""Colours of each texture, in RGB."""


def texture(name: str, side: int, *, seed: int = 0) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """A square texture: one of the names of `PALETTES`, a function of its arguments alone."""
    return _MAKERS[name](side, np.asarray(PALETTES[name], np.float64), np.random.default_rng(seed))


def _strokes(side: int, palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Short strokes along a field of directions with eddies."""
    sheet = Image.new("RGB", (side, side), tuple(palette[1].astype(int).tolist()))
    draw = ImageDraw.Draw(sheet)
    centres = rng.uniform(0, side, (4, 2))
    for _ in range(14 * side):
        place = rng.uniform(0, side, 2)
        apart = place - centres
        near = np.exp(-np.sum(np.square(apart), 1) / (0.09 * side**2))
        across = np.sum(np.stack([-apart[:, 1], apart[:, 0]], 1) * near[:, None], 0) + side * np.array([0.1, 0.02])
        along = across / (np.linalg.norm(across) + 1e-9)
        bright = near.max() + rng.normal(0, 0.25)
        colour = palette[int(np.clip(bright * len(palette), 0, len(palette) - 1))] + rng.normal(0, 10, 3)
        start, end = place - 0.02 * side * along, place + 0.02 * side * along
        ink = tuple(np.clip(colour, 0, 255).astype(int).tolist())
        draw.line([*start.tolist(), *end.tolist()], fill=ink, width=max(1, side // 96))
    return np.asarray(sheet)


def _cells(side: int, palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mosaic: the cells of scattered points, with dark lines between them."""
    points = rng.uniform(0, side, (90, 2))
    rows, columns = np.mgrid[0:side, 0:side]
    squares = np.square(rows[..., None] - points[:, 0]) + np.square(columns[..., None] - points[:, 1])
    nearest = np.argsort(squares, -1)[..., :2]
    first, second = (np.sqrt(np.take_along_axis(squares, nearest[..., [k]], -1))[..., 0] for k in (0, 1))
    colours = palette[rng.integers(0, len(palette) - 1, len(points))] + rng.normal(0, 12, (len(points), 3))
    line = np.clip((second - first) / (0.012 * side), 0, 1)[..., None]
    return _pixels(line * colours[nearest[..., 0]] + (1 - line) * palette[-1])


def _waves(side: int, palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bands of colours, bent by slower waves."""
    y, x = np.mgrid[0:side, 0:side] / side
    bend = sum(rng.uniform(0.02, 0.06) * np.sin(2 * np.pi * (k * x + rng.uniform(0, 1))) for k in (1, 2, 3))
    level = 9 * (y + bend + 0.04 * np.sin(14 * np.pi * (x + y))) % 1.0
    return _pixels(_ramp(palette, np.floor(level * 10) / 10) + rng.normal(0, 4, (side, side, 1)))


def _rings(side: int, palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Discs with rings, the later ones over the earlier ones."""
    y, x = np.mgrid[0:side, 0:side] / side
    image = np.broadcast_to(palette[0], (side, side, 3)).copy()
    for _ in range(60):
        radius, (top, left) = rng.uniform(0.04, 0.13), rng.uniform(0, 1, 2)
        distance = np.sqrt(np.square(y - top) + np.square(x - left)) / radius
        level = (np.floor(distance * 4) / 4 + rng.uniform(0, 1)) % 1.0
        image = np.where((distance < 1)[..., None], _ramp(palette, level), image)
    return _pixels(image)


def _ramp(palette: np.ndarray, level: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """Colours of levels in [0, 1), from the first of a palette to the last."""
    places = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(level, places, palette[:, channel]) for channel in range(3)], -1)


def _pixels(image: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


_MAKERS: Mapping[str, Callable[[int, np.ndarray, np.random.Generator], np.ndarray]] = {
    "strokes": _strokes,
    "cells": _cells,
    "waves": _waves,
    "rings": _rings,
}


class TextureSource:
    """Textures of all kinds in turn, each with a seed of its own, as a source of paintings."""

    class_names: tuple[str, ...] = ()

    def __init__(self, *, side: int, size: int, first_seed: int = 0):
        """Args: sides in pixels; the number of textures; the seed of the first."""
        self.side, self.size, self.first_seed = side, size, first_seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Record:
        names = list(PALETTES)
        return {"image": texture(names[index % len(names)], self.side, seed=self.first_seed + index)}
