"""English captions of the shapes world: several of each scene, always correct, from its scene graph."""

from collections.abc import Mapping, Sequence

import numpy as np

from vision.data.shapes.scene_graph import APART, PARTLY_HIDDEN, SceneGraph, scene_graphs
from vision.data.shapes.world import ShapesConfig

_NUMBERS = (
    *("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen"),
)
_PLURALS = {"cross": "crosses"}
_PHRASES = {"left of": "to the left of", "right of": "to the right of"}
_OPPOSITE = {
    **{"left of": "right of", "right of": "left of", "above": "below", "below": "above"},
    **{"behind": "in front of", "in front of": "behind"},
}


def captions(scenes: Mapping[str, np.ndarray], config: ShapesConfig) -> list[str]:
    """The first of :func:`phrasings` for each scene, which says most about it; deterministic.

    One object is described with its position ("a small red star at the top left"), two with their relation ("a large
    red star to the left of a blue circle"), more as a list with positions. Objects are named in the order of their
    index.

    Words for sizes and places are those of `vision.data.shapes.scene_graph`. Of two objects one is behind the other
    when less than nine tenths of it are visible; otherwise the difference of the boxes' centres decides, along both
    axes when neither difference is twice the other, and two centres within a tenth of the image of each other have no
    direction.
    """
    return [of[0] for of in phrasings(scenes, config)]


def phrasings(scenes: Mapping[str, np.ndarray], config: ShapesConfig) -> list[tuple[str, ...]]:
    """All captions of each scene of ``render_scenes``; a scene of as many figures always has as many.

    They differ in what they say: position, size and background may be left out; relations may be stated from either
    figure; figures may be counted by shape.
    """
    boxes = scenes["boxes"] / config.resolution
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    graphs = scene_graphs(scenes, config)
    return [_phrasings(graph, centres[index], scenes["visible"][index]) for index, graph in enumerate(graphs)]


def stated_relations(scenes: Mapping[str, np.ndarray], config: ShapesConfig) -> list[tuple[str, ...]]:
    """How the first figure of each scene lies to the second, as the first caption says it: () where it does not."""
    boxes = scenes["boxes"] / config.resolution
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    pairs = scenes["valid"].sum(1) == 2
    return [
        _direction(centres[index], scenes["visible"][index]) if pair else ()
        for index, pair in enumerate(pairs.tolist())
    ]


def _phrasings(graph: SceneGraph, centres: np.ndarray, visible: np.ndarray) -> tuple[str, ...]:
    listed = f"{_list(_placed(graph))} on {graph.background}"
    match len(graph.figures):
        case 1:
            return (*_of_one(graph), listed)
        case 2:
            return (*_of_two(graph, _direction(centres, visible)), listed)
        case _:
            return (_list(_placed(graph)), listed, _counted(graph), _related(graph))


def _of_one(graph: SceneGraph) -> tuple[str, ...]:
    (figure,) = graph.figures
    (noun,) = _nouns([figure.noun])
    plain = f"{figure.colour} {figure.shape}"
    return (
        f"{noun} {figure.place}",
        f"{figure.place} there is {noun}",
        f"one {figure.shape}, which is {figure.colour}",
        f"{_nouns([plain])[0]} on {graph.background}",
    )


def _of_two(graph: SceneGraph, kinds: tuple[str, ...]) -> tuple[str, ...]:
    first, second = (figure.noun for figure in graph.figures)
    forward, backward = _nouns([first, second]), _nouns([second, first])
    plain = _nouns([f"{figure.colour} {figure.shape}" for figure in graph.figures])
    return (
        f"{forward[0]} {_phrase(kinds)} {forward[1]}",
        f"{backward[0]} {_phrase(tuple(_OPPOSITE[kind] for kind in kinds))} {backward[1]}",
        _list(plain),
        _counted(graph),
    )


def _related(graph: SceneGraph) -> str:
    """The first relation of the scene, with how many figures there are."""
    number = f"{_NUMBERS[len(graph.figures)]} figures"
    if not graph.relations:
        return number
    each = graph.relations[0]
    one, other = _nouns([graph.figures[index].noun for index in (each.first, each.second)])
    return f"{number}, with {one} {_phrase((each.kind,))} {other}"


def _counted(graph: SceneGraph) -> str:
    """Figures by shape: "two stars and one circle"."""
    counted = [
        f"{_NUMBERS[count]} {shape if count == 1 else _PLURALS.get(shape, f'{shape}s')}"
        for shape, count in graph.counts.items()
    ]
    return _list(counted)


def _placed(graph: SceneGraph) -> list[str]:
    nouns = _nouns([figure.noun for figure in graph.figures])
    return [f"{noun} {figure.place}" for noun, figure in zip(nouns, graph.figures, strict=True)]


def _nouns(names: Sequence[str]) -> list[str]:
    """With articles: "a red star", "an orange heart", "another red star"."""
    nouns: list[str] = []
    for index, name in enumerate(names):
        article = "another" if name in names[:index] else "an" if name[0] in "aeiou" else "a"
        nouns.append(f"{article} {name}")
    return nouns


def _list(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _phrase(kinds: tuple[str, ...]) -> str:
    """Relations in words; "and" for none."""
    return " and ".join(_PHRASES.get(kind, kind) for kind in kinds) or "and"


def _direction(centres: np.ndarray, visible: np.ndarray) -> tuple[str, ...]:
    """What is said of the first of two figures: the most telling of their relations."""
    if visible[0] < PARTLY_HIDDEN:
        return ("behind",)
    if visible[1] < PARTLY_HIDDEN:
        return ("in front of",)
    across, down = (centres[0] - centres[1]).tolist()
    if max(abs(across), abs(down)) < APART:
        return ()
    horizontal = "left of" if across < 0 else "right of"
    vertical = "above" if down < 0 else "below"
    if abs(across) >= 2 * abs(down):
        return (horizontal,)
    return (vertical,) if abs(down) >= 2 * abs(across) else (vertical, horizontal)
