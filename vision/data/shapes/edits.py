"""Edits of scenes of the shapes world: before, after, what was changed, and where, all of it exact.

An edit changes one figure or the background and nothing else: both images are rendered from one scene, whose other
figures, shades and tones stay. The sentences that ask for it are in `vision.data.shapes.instructions`. Triple i is a
pure function of (config, seed, split, i), as scenes are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt64

from vision.data.shapes.backgrounds import are_dark, background_kinds
from vision.data.shapes.counter_random import Split, sample_keys, uniform
from vision.data.shapes.outlines import OUTLINES
from vision.data.shapes.world import SHAPES, Layout, ShapesConfig, rendered, settled
from vision.errors import UserError

EditKind = Literal["recolour", "remove", "add", "replace", "move", "background"]
EDIT_KINDS: tuple[EditKind, ...] = get_args(EditKind)
SIDES = ("left", "right", "top", "bottom")
"""Where a figure is moved to: into that third of the image, straight along one axis."""
SCENE_FIELDS = ("shape", "colour", "size", "boxes", "visible", "valid", "background")
"""What is kept of both scenes, besides their images: what ``vision.data.shapes.scene_graph`` needs."""

_PLACES = 6
"""Places tried for each side that a figure may be moved to."""
_BACKGROUNDS = 16
"""Backgrounds tried, of which the first that has another description is taken."""
_SHADOW = 0.035 + 0.15
"""How far a shadow reaches beyond its figure, as a share of the figure's size: see `vision.data.shapes.world`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Edits:
    """Edits of n scenes of at most m figures."""

    config: ShapesConfig
    kind: Int[np.ndarray, " n"]
    """Place in `EDIT_KINDS`."""
    subject: Int[np.ndarray, " n"]
    """The figure that is changed; of no meaning for the background."""
    side: Int[np.ndarray, " n"]
    """Place in `SIDES` of where it is moved to; of no meaning for other edits."""
    before: dict[str, np.ndarray]
    """`SCENE_FIELDS` of ``render_scenes``, "dark" bool [n] of the background, and perhaps "image"."""
    after: dict[str, np.ndarray]
    """The same."""
    mask: UInt8[np.ndarray, "n h w"]
    """255 where an editor may change the image: the discs around the figure before and after with its shadow, without
    other figures; for the background all that is no figure, with all shadows."""

    def kinds(self) -> list[EditKind]:
        """The name of each edit."""
        return [EDIT_KINDS[kind] for kind in self.kind.tolist()]

    def has(self, names: Sequence[str]) -> Bool[np.ndarray, " n"]:
        """Whether a figure of these kinds, such as "red star", is in the scene before or after."""
        found = np.zeros(len(self.kind), bool)
        for name in names:
            colour, shape = name.split()
            for scene in (self.before, self.after):
                same = scene["shape"] == self.config.shapes.index(shape)
                same &= scene["colour"] == self.config.colours.index(colour)
                found |= np.any(same & scene["valid"], axis=1)
        return found


def edits(
    config: ShapesConfig,
    *,
    seed: int,
    indices: Int[np.ndarray, " n"],
    split: Split = "train",
    kinds: Sequence[EditKind] = EDIT_KINDS,
    paint: bool = True,
) -> Edits:
    """The edits of these indices.

    The figure that is changed is the only one of its shape and colour; where there is none, the background is changed.
    A figure that would hide another one after the edit is given another colour instead.

    Args:
      config: of the scenes; the one with more figures, before or after, is a scene of this config.
      seed: of the data set.
      indices: at least 0.
      split: splits share no scenes.
      kinds: of edits, all equally often but for what is said above.
      paint: whether to render the images.

    Raises ``UserError`` where a kind has nothing to choose from: one colour, one shape, one background.
    """
    _check(config, kinds)
    keys = sample_keys(seed, split, np.asarray(indices))
    base = settled(config, keys)
    subject, alone = _subjects(config, keys, base)
    numbers = np.array([EDIT_KINDS.index(kind) for kind in kinds])
    kind = numbers[(uniform(keys, "edit", 1)[:, 0] * len(numbers)).astype(int)]
    kind = np.where(alone, kind, EDIT_KINDS.index("background"))
    moved, side, fits = _moved(config, keys, base, subject)
    kind = np.where((kind == EDIT_KINDS.index("move")) & ~fits, EDIT_KINDS.index("recolour"), kind)
    before, after = _layouts(config, keys, base, subject, kind, moved)
    shown = rendered(config, keys, after, behind=keys, paint=False)["visible"]
    hidden = np.any((shown < config.min_visible) & after.valid, axis=1) & (kind != EDIT_KINDS.index("background"))
    if hidden.any():
        kind = np.where(hidden, EDIT_KINDS.index("recolour"), kind)
        before, after = _layouts(config, keys, base, subject, kind, moved)
    behind = np.where(kind == EDIT_KINDS.index("background"), _other_background(config, keys), keys)
    scenes = [
        rendered(config, keys, layout, behind=own, paint=paint) for layout, own in ((before, keys), (after, behind))
    ]
    fields = (*SCENE_FIELDS, *(("image",) if paint else ()))
    first, second = (
        {**{name: scene[name] for name in fields}, "dark": are_dark(own, dark_share=config.dark_share)}
        for scene, own in zip(scenes, (keys, behind), strict=True)
    )
    mask = _masks(config, before, after, kind, subject, scenes)
    return Edits(config=config, kind=kind, subject=subject, side=side, before=first, after=second, mask=mask)


def _check(config: ShapesConfig, kinds: Sequence[EditKind]) -> None:
    if not kinds or not set(kinds) <= set(EDIT_KINDS):
        raise UserError(f"kinds of edits are some of {', '.join(EDIT_KINDS)}, not {', '.join(kinds) or 'none'}.")
    for kind, names in (("recolour", config.colours), ("replace", config.shapes)):
        if kind in kinds and len(names) < 2:
            listed = ", ".join(names)
            raise UserError(f"edits of the kind {kind} need at least two to choose from, and there is {listed} alone.")
    if "background" in kinds and len(config.backgrounds) < 2 and config.dark_share in (0.0, 1.0):
        raise UserError("edits of the background need two kinds of backgrounds, or a dark share between 0 and 1.")


def _subjects(
    config: ShapesConfig, keys: UInt64[np.ndarray, " n"], base: Layout
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """A figure that is the only one of its shape and colour, and whether there is one."""
    label = np.where(base.valid, base.shape * len(config.colours) + base.colour, -1 - np.arange(base.valid.shape[1]))
    single = ((label[:, :, None] == label[:, None, :]).sum(2) == 1) & base.valid
    order = np.where(single, uniform(keys, "subject", base.valid.shape[1]), -1.0)
    return order.argmax(1), single.any(1)


def _layouts(
    config: ShapesConfig,
    keys: UInt64[np.ndarray, " n"],
    base: Layout,
    subject: Int[np.ndarray, " n"],
    kind: Int[np.ndarray, " n"],
    moved: Float[np.ndarray, "n 2"],
) -> tuple[Layout, Layout]:
    rows = np.arange(len(keys))
    is_kind = lambda name: kind == EDIT_KINDS.index(name)
    other = lambda purpose, count: 1 + (uniform(keys, purpose, 1)[:, 0] * (count - 1)).astype(np.int32)
    before_valid, after_valid = base.valid.copy(), base.valid.copy()
    before_valid[rows, subject] &= ~is_kind("add")
    after_valid[rows, subject] &= ~is_kind("remove")
    colour, shape, angle, centre = (of.copy() for of in (base.colour, base.shape, base.angle, base.centre))
    new_colour = (colour[rows, subject] + other("recolour", len(config.colours))) % len(config.colours)
    colour[rows, subject] = np.where(is_kind("recolour"), new_colour, colour[rows, subject])
    new_shape = (shape[rows, subject] + other("replace", len(config.shapes))) % len(config.shapes)
    shape[rows, subject] = np.where(is_kind("replace"), new_shape, shape[rows, subject])
    limit = np.radians([min(OUTLINES[SHAPES.index(name)].max_rotation, config.max_rotation) for name in config.shapes])
    limit = limit[shape[rows, subject]]
    turned = np.clip(angle[rows, subject], -limit, limit)
    angle[rows, subject] = np.where(is_kind("replace"), turned, angle[rows, subject])
    centre[rows, subject] = np.where(is_kind("move")[:, None], moved, centre[rows, subject])
    after = replace(base, valid=after_valid, colour=colour, shape=shape, angle=angle, centre=centre)
    return replace(base, valid=before_valid), after


def _moved(
    config: ShapesConfig, keys: UInt64[np.ndarray, " n"], base: Layout, subject: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Where the figure is moved to: (centre, place in `SIDES`, whether there is room).

    It moves along one axis into an outer third in which it is not yet, without touching the discs of other figures.
    """
    n, m = base.valid.shape
    rows = np.arange(n)
    centre, size = base.centre[rows, subject], base.size[rows, subject]
    first = (uniform(keys, "side", 1)[:, 0] * len(SIDES)).astype(int)
    share = uniform(keys, "moved", len(SIDES), _PLACES)
    found, chosen, fits = centre.copy(), np.zeros(n, int), np.zeros(n, bool)
    # a margin to the border between thirds, since a box of whole pixels has another centre than its figure
    low, high = size / 2, 1 / 3 - 1.5 / config.resolution
    others = base.valid & (np.arange(m) != subject[:, None])
    for turn in range(len(SIDES)):
        side = (first + turn) % len(SIDES)
        axis, far = side // 2, side % 2 == 1
        there = np.where(far, centre[rows, axis] > 1 / 3 + 1 / 3, centre[rows, axis] < 1 / 3)
        for place in range(_PLACES):
            at = low + (high - low) * share[:, turn, place]
            target = centre.copy()
            target[rows, axis] = np.where(far, 1 - at, at)
            apart = np.sqrt(((target[:, None] - base.centre) ** 2).sum(-1))
            free = np.all((apart >= (base.size + size[:, None]) / 2) | ~others, axis=1)
            now = free & ~there & (high > low) & ~fits
            found[now], chosen[now] = target[now], side[now]
            fits |= now
    return found, chosen, fits


def _other_background(config: ShapesConfig, keys: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Keys of backgrounds that are described otherwise than those of ``keys``."""
    described = lambda of: (
        2 * background_kinds(len(config.backgrounds), of) + are_dark(of, dark_share=config.dark_share).astype(int)
    )
    candidates = (uniform(keys, "newback", _BACKGROUNDS) * 2.0**53).astype(np.uint64)
    differs = np.stack([described(each) != described(keys) for each in candidates.T], axis=1)
    return candidates[np.arange(len(keys)), differs.argmax(1)]


def _masks(
    config: ShapesConfig,
    before: Layout,
    after: Layout,
    kind: Int[np.ndarray, " n"],
    subject: Int[np.ndarray, " n"],
    scenes: Sequence[dict[str, np.ndarray]],
) -> UInt8[np.ndarray, "n h w"]:
    rows = np.arange(len(kind))
    pixel = (np.arange(config.resolution) + 0.5) / config.resolution
    inside = np.zeros((len(kind), config.resolution, config.resolution), bool)
    others = np.zeros_like(inside)
    for layout, scene in zip((before, after), scenes, strict=True):
        centre, size = layout.centre[rows, subject], layout.size[rows, subject]
        dx = pixel[None, None, :] - centre[:, 0, None, None]
        dy = pixel[None, :, None] - centre[:, 1, None, None]
        reach = (size / 2 + 1.5 / config.resolution)[:, None, None]
        shifted = (_SHADOW * size)[:, None, None]
        disc = np.hypot(dx, dy) <= reach
        if config.relief:
            disc |= np.hypot(dx - shifted, dy - shifted) <= reach
        inside |= disc & layout.valid[rows, subject][:, None, None]
        others |= (scene["instances"] > 0) & (scene["instances"] != (subject + 1)[:, None, None])
    whole = kind == EDIT_KINDS.index("background")
    figures = scenes[0]["instances"] > 0
    return np.where(np.where(whole[:, None, None], ~figures, inside & ~others), 255, 0).astype(np.uint8)
