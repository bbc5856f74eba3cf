"""English captions of the shapes world: the objects of a scene, their sizes and positions, always correct."""

from collections.abc import Mapping

import numpy as np

from vision.data.shapes.world import ShapesConfig

_PARTLY_HIDDEN = 0.9  # an object of which less is visible is described as behind the other
_APART = 0.1  # least difference of two centres, as a fraction of the image's side, that is described as a direction
_ROWS = ("top", "", "bottom")
_COLUMNS = ("left", "", "right")
_GRAMMAR = (
    *("a", "an", "another", "small", "large", ",", "and"),
    *("in", "at", "on", "the", "middle", "top", "bottom", "left", "right"),
    *("behind", "front", "of", "to", "above", "below"),
)
_NOUN, _PLACE, _RELATION = 4, 4, 6  # words of "a large red star", "at the top left", "above and to the left of"


def captions(scenes: Mapping[str, np.ndarray], config: ShapesConfig) -> list[str]:
    """One caption for each scene of `vision.data.shapes.world.render_scenes` with this config; deterministic.

    One object is described with its position ("a small red star at the top left"), two with their relation ("a large
    red star to the left of a blue circle"), more as a list with positions. Objects are named in the order of their
    index.

    An object is small or large when its size is in the lowest or highest third of the config's range; sizes are omitted
    when the largest is less than 1.4 times the smallest. Positions are the thirds of the image that contain the centre
    of the object's box. Of two objects one is behind the other when less than nine tenths of it are visible; otherwise
    the difference of the boxes' centres decides, along both axes when neither difference is twice the other, and two
    centres within a tenth of the image of each other have no direction.
    """
    names = ("shape", "colour", "size", "boxes", "visible")
    return [
        _caption(config, {name: scenes[name][i][valid] for name in names}) for i, valid in enumerate(scenes["valid"])
    ]


def caption_words(config: ShapesConfig) -> tuple[str, ...]:
    """Every word, and the comma, that a caption of this config may have: a vocabulary for `vision.data.text.words`."""
    return (*_GRAMMAR, *config.colours, *config.shapes)


def caption_length(config: ShapesConfig) -> int:
    """Words and commas in the longest caption that this config may have."""
    if config.max_objects == 1:
        return _NOUN + _PLACE
    lengths = [2 * _NOUN + _RELATION] if config.min_objects <= 2 else []
    if config.max_objects > 2:
        # between any two of them stands a comma or "and"
        lengths.append(config.max_objects * (_NOUN + _PLACE + 1) - 1)
    return max(lengths)


def _caption(config: ShapesConfig, scene: Mapping[str, np.ndarray]) -> str:
    nouns = _nouns(config, scene)
    boxes = scene["boxes"] / config.resolution
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    if len(nouns) == 2:
        return f"{nouns[0]} {_relation(centres, scene['visible'])} {nouns[1]}"
    phrases = [f"{noun} {_place(centre)}" for noun, centre in zip(nouns, centres, strict=True)]
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _nouns(config: ShapesConfig, scene: Mapping[str, np.ndarray]) -> list[str]:
    """Noun phrases in the order of objects: "a red star", "an orange heart", "another red star"."""
    nouns: list[str] = []
    seen: set[str] = set()
    for shape, colour, size in zip(scene["shape"], scene["colour"], scene["size"], strict=True):
        noun = f"{_size_word(config, float(size))}{config.colours[colour]} {config.shapes[shape]}"
        article = "another" if noun in seen else "an" if noun[0] in "aeiou" else "a"
        nouns.append(f"{article} {noun}")
        seen.add(noun)
    return nouns


def _size_word(config: ShapesConfig, size: float) -> str:
    span = config.max_size - config.min_size
    if config.max_size < 1.4 * config.min_size:
        return ""
    if size < config.min_size + span / 3:
        return "small "
    return "large " if size > config.max_size - span / 3 else ""


def _place(centre: np.ndarray) -> str:
    column, row = np.minimum((centre * 3).astype(int), 2)
    words = " ".join(word for word in (_ROWS[row], _COLUMNS[column]) if word)
    if not words:
        return "in the middle"
    return f"{'at' if _ROWS[row] else 'on'} the {words}"


def _relation(centres: np.ndarray, visible: np.ndarray) -> str:
    if visible[0] < _PARTLY_HIDDEN:
        return "behind"
    if visible[1] < _PARTLY_HIDDEN:
        return "in front of"
    across, down = centres[0] - centres[1]
    if max(abs(across), abs(down)) < _APART:
        return "and"
    horizontal = "to the left of" if across < 0 else "to the right of"
    vertical = "above" if down < 0 else "below"
    if abs(across) >= 2 * abs(down):
        return horizontal
    return vertical if abs(down) >= 2 * abs(across) else f"{vertical} and {horizontal}"
