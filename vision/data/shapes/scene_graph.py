"""What a scene of the shapes world shows, in words: figures, their places, how they lie to each other, the background.

All of it is true: it is read from the annotation of the scene, and what is close to the border between two words is
what the words say that the number is.
"""

import collections
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vision.data.shapes.world import ShapesConfig

PARTLY_HIDDEN = 0.9
"""An object of which less is visible is behind another one."""
APART = 0.1
"""Least difference of two centres, as a fraction of the image's side, that is described as a direction."""
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
BACKGROUND_WORDS: Mapping[str, str] = {
    "solid": "a plain background",
    "gradient": "a background with a gradient",
    "stripes": "a striped background",
    "dots": "a dotted background",
    "clouds": "a cloudy background",
}
FIELDS = ("shape", "colour", "size", "boxes", "visible", "valid", "background")
"""Of ``render_scenes``: what :func:`scene_graphs` needs."""


@dataclass(frozen=True)
class Figure:
    """An object of a scene."""

    shape: str
    colour: str
    size: str
    """"small", "large" or "" in between."""
    row: str
    """"top", "bottom" or ""."""
    column: str
    """"left", "right" or ""."""

    @property
    def noun(self) -> str:
        """Without article: "small red star"."""
        return " ".join(word for word in (self.size, self.colour, self.shape) if word)

    @property
    def place(self) -> str:
        """Where it is: "at the top left", "on the left", "in the middle"."""
        words = " ".join(word for word in (self.row, self.column) if word)
        if not words:
            return "in the middle"
        return f"{'at' if self.row else 'on'} the {words}"


@dataclass(frozen=True)
class Relation:
    """How one figure lies to another: "left of", "right of", "above", "below", "behind", "in front of"."""

    first: int
    kind: str
    second: int


@dataclass(frozen=True)
class SceneGraph:
    """A scene."""

    figures: tuple[Figure, ...]
    """In the order of their index, the largest first."""
    relations: tuple[Relation, ...]
    """All that hold, of every ordered pair. Only of two figures it is known which is behind the other."""
    background: str
    """"a striped background"."""

    def between(self, first: int, second: int) -> tuple[str, ...]:
        """The relations of one figure to another."""
        return tuple(each.kind for each in self.relations if (each.first, each.second) == (first, second))

    @property
    def counts(self) -> dict[str, int]:
        """Figures of each shape, in the order in which the shapes appear."""
        return dict(collections.Counter(figure.shape for figure in self.figures))


def scene_graphs(scenes: Mapping[str, np.ndarray], config: ShapesConfig) -> list[SceneGraph]:
    """The graph of each scene of ``vision.data.shapes.world.render_scenes`` with this config; needs `FIELDS`.

    An object is small or large when its size is in the lowest or highest third of the config's range; sizes are left
    out when the largest is less than 1.4 times the smallest. Places are the thirds of the image that contain the centre
    of the object's box. Directions are those of the boxes' centres, where they differ by a tenth of the image at least.
    """
    return [_graph(config, {name: scenes[name][index] for name in FIELDS}) for index in range(len(scenes["valid"]))]


def _graph(config: ShapesConfig, scene: Mapping[str, np.ndarray]) -> SceneGraph:
    valid = scene["valid"]
    boxes = scene["boxes"][valid] / config.resolution
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    places = np.minimum((centres * 3).astype(int), 2).tolist()
    rows = zip(scene["shape"][valid], scene["colour"][valid], scene["size"][valid], places, strict=True)
    figures = tuple(
        Figure(config.shapes[shape], config.colours[colour], _size(config, float(size)), ROWS[row], COLUMNS[column])
        for shape, colour, size, (column, row) in rows
    )
    background = BACKGROUND_WORDS[config.backgrounds[int(scene["background"])]]
    return SceneGraph(figures, _relations(centres, scene["visible"][valid]), background)


def _size(config: ShapesConfig, size: float) -> str:
    span = config.max_size - config.min_size
    if config.max_size < 1.4 * config.min_size:
        return ""
    if size < config.min_size + span / 3:
        return "small"
    return "large" if size > config.max_size - span / 3 else ""


def _relations(centres: np.ndarray, visible: np.ndarray) -> tuple[Relation, ...]:
    found = []
    count = len(centres)
    for first in range(count):
        for second in range(count):
            if first == second:
                continue
            across, down = (centres[first] - centres[second]).tolist()
            holds = {"left of": across <= -APART, "right of": across >= APART}
            holds |= {"above": down <= -APART, "below": down >= APART}
            if count == 2:
                holds |= {"behind": visible[first] < PARTLY_HIDDEN, "in front of": visible[second] < PARTLY_HIDDEN}
            found += [Relation(first, kind, second) for kind, true in holds.items() if true]
    return tuple(found)
