"""The shapes world with captions: scenes are rendered as ever, texts come from their scene graphs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from vision.data.captions.source import Attribute, Captioned
from vision.data.on_demand import OnDemandSource
from vision.data.shapes.captions import phrasings, stated_relations
from vision.data.shapes.scene_graph import FIELDS, SceneGraph, scene_graphs
from vision.data.shapes.world import ShapesSource, class_names
from vision.data.source import ArraySource
from vision.errors import UserError

_TEMPLATES = {
    "shape": ("a {}", "one {}", "there is a {}", "a {} in the middle", "a {} on a plain background"),
    "colour": ("a {} shape", "one {} figure", "there is a {} shape", "something {} in the middle"),
}


@dataclass(frozen=True, eq=False)
class ShapesTexts:
    """All phrasings of scenes."""

    scenes: ArraySource
    """With the fields of the scene graph; made when they are asked for."""
    source: ShapesSource
    """What they are scenes of."""
    left_out: tuple[str, ...]
    """Kinds of objects whose scenes are left out."""

    def __call__(self, indices: Int[np.ndarray, " b"]) -> list[tuple[str, ...]]:
        return phrasings(self.scenes.rows(np.asarray(indices)), self.source.config)

    def graphs(self, indices: Int[np.ndarray, " b"]) -> list[SceneGraph]:
        """What is true of the scenes."""
        return scene_graphs(self.scenes.rows(np.asarray(indices)), self.source.config)

    def stated(self, indices: Int[np.ndarray, " b"]) -> list[tuple[str, ...]]:
        """How the first of two figures lies to the second, as the first caption says it."""
        return stated_relations(self.scenes.rows(np.asarray(indices)), self.source.config)


def captioned_shapes(source: ShapesSource, *, held_out: tuple[str, ...] = ()) -> Captioned:
    """Scenes with captions, each made when it is first asked for.

    Args:
      source: the scenes.
      held_out: kinds of objects, such as "red star". In the training split no scene has one; of the test split
        ``unseen`` says which have.

    Raises:
      UserError: there is no such kind, or no scene is left.
    """
    config, names = source.config, class_names(source.config)
    kinds = [_kind(name, names) for name in held_out]
    indices = np.arange(len(source))
    if kinds and source.split == "train":
        indices = np.flatnonzero(~_has(source, indices, kinds))
        if not len(indices):
            raise UserError(f"every scene has one of the kinds {', '.join(held_out)}: hold out fewer")
    needed = ("image", *FIELDS)
    make: Callable[[np.ndarray], dict[str, np.ndarray]] = lambda rows: source.render(indices[rows], needed)
    scenes = OnDemandSource(make, size=len(indices), fields=needed)

    def facts() -> dict[str, Attribute]:
        if config.max_objects > 1:
            return {}
        # without painting
        known = source.render(indices, ("shape", "colour"))
        found = {
            "shape": Attribute(config.shapes, known["shape"][:, 0], _TEMPLATES["shape"]),
            "colour": Attribute(config.colours, known["colour"][:, 0], _TEMPLATES["colour"]),
        }
        return {name: each for name, each in found.items() if len(each.names) > 1}

    unseen = (lambda: _has(source, indices, kinds)) if kinds else None
    texts = ShapesTexts(scenes, source, held_out if source.split == "train" else ())
    return Captioned(scenes.only(("image",)), texts, facts, unseen)


def _kind(name: str, names: tuple[str, ...]) -> int:
    if name not in names:
        raise UserError(f'data.held_out has {name!r}, which is none of the kinds of objects, such as "{names[0]}"')
    return names.index(name)


def _has(source: ShapesSource, indices: np.ndarray, kinds: list[int]) -> np.ndarray:
    scenes = source.render(indices, ("shape", "colour", "valid"))
    kind = scenes["shape"] * len(source.config.colours) + scenes["colour"]
    return np.any(np.isin(kind, kinds) & scenes["valid"], axis=1)
