"""Sentences that ask for edits of the shapes world, in several phrasings, and what the edited place then shows.

The last phrasing of each kind is held out of training. It uses only words that the others have, so that it asks for
nothing but another order of known words.
"""

from collections.abc import Mapping

import numpy as np

from vision.data.shapes.edits import SIDES, EditKind, Edits
from vision.data.shapes.scene_graph import BACKGROUND_WORDS, Figure, SceneGraph, scene_graphs

PHRASINGS: Mapping[EditKind, tuple[str, ...]] = {
    "recolour": (
        "make the {old} {colour}",
        "turn the {old} {colour}",
        "change the {old} to {colour}",
        "the {old} should be {colour}",
        "turn the {old} to {colour}",
    ),
    "remove": (
        "remove the {old}",
        "delete the {old}",
        "take the {old} away",
        "there should be no {old}",
        "take away the {old}",
    ),
    "add": (
        "add {new} {place}",
        "put {new} {place}",
        "there should be {new} {place}",
        "{place} add {new}",
        "{place} there should be {new}",
    ),
    "replace": (
        "replace the {old} with {shape}",
        "turn the {old} into {shape}",
        "change the {old} into {shape}",
        "the {old} should be {shape}",
        "make the {old} into {shape}",
    ),
    "move": (
        "move the {old} to the {side}",
        "put the {old} {there}",
        "the {old} should be {there}",
        "take the {old} to the {side}",
        "put the {old} to the {side}",
    ),
    "background": (
        "put it on {background}",
        "change the background to {background}",
        "replace the background with {background}",
        "there should be {background}",
        "turn the background into {background}",
    ),
}
HELD_OUT = 4
"""The place of the phrasing that no training sentence has."""
NOTHING = "nothing"
"""What an edited place shows after a figure was removed."""


def instructions(edits: Edits) -> list[tuple[str, ...]]:
    """All phrasings of each edit, in the order of `PHRASINGS`."""
    words = _words(edits)
    return [
        tuple(phrasing.format(**of) for phrasing in PHRASINGS[kind])
        for kind, of in zip(edits.kinds(), words, strict=True)
    ]


def contents(edits: Edits) -> list[str]:
    """What each edited place shows afterwards: "a small blue star", "nothing", "a dark striped background"."""
    shown: Mapping[EditKind, str] = {"remove": NOTHING, "background": "{background}"}
    return [shown.get(kind, "{new}").format(**of) for kind, of in zip(edits.kinds(), _words(edits), strict=True)]


def described_background(kind: str, *, dark: bool) -> str:
    """A background in words: "a dark striped background"."""
    return f"a {'dark' if dark else 'light'} {BACKGROUND_WORDS[kind].removeprefix('a ')}"


def _words(edits: Edits) -> list[dict[str, str]]:
    """What the phrasings of each edit are filled with."""
    config, before, after = edits.config, *(_graphs(edits, scene) for scene in (edits.before, edits.after))
    found = []
    for row, kind in enumerate(edits.kinds()):
        subject = int(edits.subject[row])
        words: dict[str, str] = {}
        if kind == "background":
            name = config.backgrounds[int(edits.after["background"][row])]
            found.append({"background": described_background(name, dark=bool(edits.after["dark"][row]))})
            continue
        if kind != "add":
            old = _figure(before[row], edits.before["valid"][row], subject)
            words["old"] = f"{old.colour} {old.shape}"
        if kind != "remove":
            new = _figure(after[row], edits.after["valid"][row], subject)
            words |= {"colour": new.colour, "shape": _with_article(new.shape), "new": _with_article(new.noun)}
            words["place"] = new.place
        if kind == "move":
            side = SIDES[int(edits.side[row])]
            words |= {"side": side, "there": f"{'on' if side in ('left', 'right') else 'at'} the {side}"}
        found.append(words)
    return found


def _graphs(edits: Edits, scene: Mapping[str, np.ndarray]) -> list[SceneGraph]:
    return scene_graphs(scene, edits.config)


def _figure(graph: SceneGraph, valid: np.ndarray, subject: int) -> Figure:
    return graph.figures[int(valid[:subject].sum())]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
