"""Scene graphs and all phrasings of the shapes world: every statement against the annotations."""

import re

import numpy as np
import pytest

from vision.data.shapes.captions import captions, phrasings
from vision.data.shapes.scene_graph import APART, BACKGROUND_WORDS, FIELDS, scene_graphs
from vision.data.shapes.world import ShapesConfig, render_scenes

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}


def world(count, n=150, **options):
    config = ShapesConfig(resolution=64, min_objects=count, max_objects=count, min_size=0.25, **options)
    return config, render_scenes(config, seed=5, indices=np.arange(n), fields=FIELDS)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_graphs_are_true(count):
    config, scenes = world(count)
    for index, graph in enumerate(scene_graphs(scenes, config)):
        assert len(graph.figures) == count
        centres = (scenes["boxes"][index, :, :2] + scenes["boxes"][index, :, 2:]) / 2 / config.resolution
        for place, figure in enumerate(graph.figures):
            assert figure.shape == config.shapes[scenes["shape"][index, place]]
            assert figure.colour == config.colours[scenes["colour"][index, place]]
            x, y = centres[place] * 3
            assert (figure.column, figure.row) == (
                "left" if x < 1 else "right" if x >= 2 else "",
                "top" if y < 1 else "bottom" if y >= 2 else "",
            )
        assert graph.background == BACKGROUND_WORDS[config.backgrounds[scenes["background"][index]]]
        assert sum(graph.counts.values()) == count
        for first in range(count):
            for second in range(count):
                across, down = centres[first] - centres[second]
                wanted = {
                    *(["left of"] if across <= -APART else []),
                    *(["right of"] if across >= APART else []),
                    *(["above"] if down <= -APART else []),
                    *(["below"] if down >= APART else []),
                }
                found = set(graph.between(first, second))
                assert found - {"behind", "in front of"} == (wanted if first != second else set())
                if count == 2 and first != second:
                    assert ("behind" in found) == (scenes["visible"][index, first] < 0.9)
                    assert ("in front of" in found) == (scenes["visible"][index, second] < 0.9)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_phrasing_is_true(count):
    config, scenes = world(count)
    graphs, all_of = scene_graphs(scenes, config), phrasings(scenes, config)
    assert [of[0] for of in all_of] == captions(scenes, config)
    assert len({len(of) for of in all_of}) == 1
    assert {1: 5, 2: 5, 3: 4}[count] == len(all_of[0])
    for graph, of in zip(graphs, all_of, strict=True):
        figures = [(each.colour, each.shape) for each in graph.figures]
        for text in of:
            said = re.findall(rf"({'|'.join(config.colours)}) ({'|'.join(config.shapes)})\b", text)
            assert all(pair in figures for pair in said), text
            for words in BACKGROUND_WORDS.values():
                assert words not in text or words == graph.background, text
            for size in ("small", "large"):
                assert size not in text or any(each.size == size for each in graph.figures), text
            for number, shape in re.findall(rf"({'|'.join(NUMBERS)}) ({'|'.join(config.shapes)})e?s?\b", text):
                assert graph.counts[shape] == NUMBERS[number], text
            if "figures" in text:
                assert text.startswith(("three figures",))
        if count == 1:
            assert of[2] == f"one {figures[0][1]}, which is {figures[0][0]}"


def test_relations_told_from_the_other_figure():
    config, scenes = world(2)
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    for of in phrasings(scenes, config):
        forward, backward = ({word for word in opposite if f" {word}" in text} for text in of[:2])
        assert {opposite[word] for word in forward} == backward
        assert ("behind" in of[0]) == ("in front of" in of[1])


def test_phrasings_differ_in_what_they_say():
    config, scenes = world(1)
    assert any(len(set(of)) == 5 for of in phrasings(scenes, config))
    assert any("crosses" in text for of in phrasings(*world(3, shapes=("cross",))[::-1]) for text in of)
