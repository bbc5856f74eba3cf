"""A tokenizer that knows every word of the instructions of a shapes world: a function of the world alone."""

import functools

from vision.data.shapes.instructions import NOTHING, PHRASINGS, described_background
from vision.data.shapes.scene_graph import COLUMNS, ROWS
from vision.data.shapes.world import ShapesConfig
from vision.data.text.tokenizer import Tokenizer
from vision.data.text.training import trained_tokenizer

LENGTH = 16
"""Tokens of a text, start and end included; the longest instruction has 14."""


@functools.cache
def instruction_tokenizer(config: ShapesConfig) -> Tokenizer:
    """Words of all phrasings, shapes, colours, sizes, places and backgrounds."""
    blank = dict.fromkeys(("old", "new", "colour", "shape", "side", "there", "place", "background"), "")
    texts = [phrasing.format(**blank) for of in PHRASINGS.values() for phrasing in of]
    texts += [*config.shapes, *config.colours, *filter(None, (*ROWS, *COLUMNS)), NOTHING]
    texts += ["a small figure", "an large figure", "at the middle", "on the side", "in the middle"]
    texts += [described_background(name, dark=dark) for name in config.backgrounds for dark in (False, True)]
    return trained_tokenizer(texts, kind="words", vocabulary=512, length=LENGTH)
