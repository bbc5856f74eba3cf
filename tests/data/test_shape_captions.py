"""Captions: grammar, and every statement against the annotations."""

import re

import numpy as np

from vision.data.shapes.captions import captions
from vision.data.shapes.world import COLOURS, SHAPES, ShapesConfig, render_scenes

NOUN = re.compile(
    rf"\b(a|an|another) (?:(small|large) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})\b"
    r"(?: (?:in the middle|(?:at|on) the (?:top|bottom|left|right)(?: left| right)?))?"
)


def scenes_and_captions(count, n=400, **options):
    config = ShapesConfig(resolution=64, min_objects=count, max_objects=count, min_size=0.25, **options)
    scenes = render_scenes(config, seed=5, indices=np.arange(n))
    return config, scenes, captions(scenes, config)


def objects(config, scenes, i):
    return [
        (config.colours[scenes["colour"][i, k]], config.shapes[scenes["shape"][i, k]])
        for k in np.nonzero(scenes["valid"][i])[0]
    ]


def test_objects_sizes_and_articles():
    for count in (1, 2, 4):
        config, scenes, texts = scenes_and_captions(count, 200)
        third = (config.max_size - config.min_size) / 3
        for i, text in enumerate(texts):
            named = list(NOUN.finditer(text))
            assert [match.group(3, 4) for match in named] == objects(config, scenes, i)
            before = set()
            for match, size in zip(named, scenes["size"][i], strict=True):
                article, word, colour, _ = match.groups()
                if word == "small":
                    assert size < config.min_size + third
                elif word == "large":
                    assert size > config.max_size - third
                else:
                    assert config.min_size + third <= size <= config.max_size - third + 1e-6
                if match.group(2, 3, 4) in before:
                    assert article == "another"
                else:
                    assert article == ("an" if (word or colour)[0] == "o" else "a")
                before.add(match.group(2, 3, 4))


def test_relations_are_true():
    config, scenes, texts = scenes_and_captions(2)
    seen = set()
    for i, text in enumerate(texts):
        first, second = NOUN.finditer(text)
        relation = text[first.end() : second.start()].strip()
        seen.add(relation)
        a, b = scenes["boxes"][i]
        across, down = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
        if relation == "behind":
            assert scenes["visible"][i, 0] < 0.9
            assert scenes["visible"][i, 1] == 1
        elif relation == "in front of":
            assert scenes["visible"][i, 1] < 0.9
            assert scenes["visible"][i, 0] == 1
        elif relation == "and":
            assert max(abs(across), abs(down)) < 0.1 * config.resolution
        else:
            checks = {"left": across < 0, "right": across > 0, "above": down < 0, "below": down > 0}
            said = [word for word in checks if word in relation]
            assert said
            assert all(checks[word] for word in said)
    assert {"behind", "in front of", "above", "below", "to the left of", "to the right of"} <= seen


def test_places_are_true():
    for count in (1, 3):
        config, scenes, texts = scenes_and_captions(count, 200)
        for i, text in enumerate(texts):
            for match, box in zip(NOUN.finditer(text), scenes["boxes"][i], strict=True):
                x, y = (box[:2] + box[2:]) / 2 * 3 / config.resolution
                place = match.group(0)
                assert ("left" in place, "right" in place) == (x < 1, x >= 2)
                assert ("top" in place, "bottom" in place) == (y < 1, y >= 2)
                assert ("middle" in place) == (1 <= x < 2 and 1 <= y < 2)


def test_sizes_that_hardly_vary_are_not_mentioned():
    _, _, texts = scenes_and_captions(1, 50, max_size=0.3)
    assert not any("small" in text or "large" in text for text in texts)


def test_captions_read_as_a_list():
    _, _, texts = scenes_and_captions(3, 20)
    assert all(text.count(",") == 1 and text.count(" and ") == 1 for text in texts)
