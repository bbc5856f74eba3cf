"""Facts of captions in images: real images have them, images of other captions have not, and by hand."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from vision.data.captions.data import captioned_data, training_texts
from vision.data.text.training import trained_tokenizer
from vision.evaluation.caption_facts import (
    Asked,
    Reader,
    Shown,
    asked_of,
    caption_facts,
    captions_given,
    is_right,
    shares,
)
from vision.evaluation.figures_in_images import figures_in
from vision.evaluation.generator import Generator
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.recipes.quick_data import PAIRS
from vision.train.compile import Compiler
from vision.types import TrainState

COUNT = 48
CONFIG = replace(PAIRS, shapes_count=200, resolution=64, held_out=("red star", "blue cross", "pink heart"))
STATE = TrainState(step=0, params={}, model_state={}, opt_state=(), ema={}, key=None)

BOX = (0.0, 0.0, 1.0, 1.0)
"""Of no meaning for captions."""


@pytest.fixture(scope="module")
def data():
    def tokenizer():
        return trained_tokenizer(training_texts(found.captioned("train")), kind="words", vocabulary=96, length=24)

    found = captioned_data(CONFIG, tokenizer=tokenizer, length=24)
    return found


@pytest.fixture(scope="module")
def compiler():
    return Compiler(make_mesh(MeshConfig(), jax.devices()[:1]))


def generator_of(data, images):
    """Returns the given images, whatever the noise."""
    return Generator(
        sample=lambda variables, condition, index, key: condition["image"],
        variables=lambda state: {},
        description="copies",
        given=lambda count: {"image": images[np.arange(count) % len(images)]},
    )


def star(colour="red", x=0.2, y=0.5):
    return Shown("star", colour, (x, y), BOX)


def test_facts_by_hand():
    pair = Asked((("star", "red"), ("circle", "blue")), ("left of",))
    circle = Shown("circle", "blue", (0.8, 0.5), BOX)
    assert is_right(pair, [star(), circle])
    assert is_right(pair, [circle, star()])  # in whatever order they are found
    assert not is_right(pair, [star(x=0.9), circle])
    assert not is_right(pair, [star(x=0.75), circle])  # too little to be left of it
    assert not is_right(pair, [star("blue"), Shown("circle", "red", (0.8, 0.5), BOX)])
    assert not is_right(pair, [star(), circle, star("green")])
    assert not is_right(pair, [star()])
    both = replace(pair, relations=("above", "left of"))
    assert not is_right(both, [star(), circle])
    assert is_right(both, [star(y=0.2), circle])
    same = Asked((("star", "red"), ("star", "red")), ("below",))
    assert is_right(same, [star(y=0.1), star(y=0.9)])
    assert is_right(Asked((("star", "red"),)), [star()])
    assert not is_right(Asked((("star", "red"),)), [])


def test_shares_of_known_images():
    single = Asked((("star", "red"),))
    pair = Asked((("star", "red"), ("circle", "blue")), ("left of",))
    asked = [single, single, None, pair, Asked((("star", "green"),))]
    shown = [[star()], [star("blue")], [star()], [star(), Shown("circle", "blue", (0.9, 0.5), BOX)], [star("green")]]
    found = shares(asked, shown, np.array([True, False, False, False, False]))
    assert found == {
        "single": pytest.approx(2 / 3),
        # the next ones show a blue star for a red one, a green one for a red one, and a red one for a green one
        "single_shuffled": 0.0,
        "single_unseen": 1.0,
        "pair": 1.0,
    }


def test_figures_are_found_where_they_are(data):
    texts, source = data.captioned("test").texts, data.source("test")
    scenes = texts.scenes.rows(np.arange(COUNT))
    right = 0
    for index in range(COUNT):
        found = figures_in(source[index]["image"], side=32)
        boxes = scenes["boxes"][index][scenes["valid"][index]] / CONFIG.resolution
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        if len(found) != len(centres):
            continue
        near = [min(np.abs(centre - each.centre).max() for each in found) for centre in centres]
        right += max(near) < 0.05
        assert all(each.crop.shape == (32, 32, 3) for each in found)
    assert right >= 0.9 * COUNT
    assert figures_in(np.full((16, 16, 3), 230, np.uint8), side=32) == []
    assert len(figures_in(np.tile(np.array([222, 42, 46], np.uint8), (16, 16, 1)), side=32)) == 1


def test_real_images_have_the_facts_and_others_have_not(data, compiler):
    source = data.source("test")
    real = np.stack([source[index]["image"] for index in range(COUNT)])
    evaluate = caption_facts(generator_of(data, real), data, count=COUNT, batch=16)(compiler)
    found = evaluate(STATE)
    names = {f"facts_{kind}{end}" for kind in ("single", "pair") for end in ("", "_real", "_shuffled")}
    assert names <= set(found.scalars)
    assert found.scalars["facts_single"] == found.scalars["facts_single_real"] > 0.9
    assert found.scalars["facts_pair"] == found.scalars["facts_pair_real"] > 0.8
    assert found.scalars["facts_single_shuffled"] < 0.2
    assert found.scalars["facts_pair_shuffled"] < 0.2
    assert "facts_pair_unseen" in found.scalars or "facts_single_unseen" in found.scalars
    assert set(found.protocol) == set(found.scalars)
    assert "neither has seen generated images" in found.protocol["facts_pair"]
    grey = np.full_like(real, 128)
    nothing = caption_facts(generator_of(data, grey), data, count=COUNT, batch=16, name="other")(compiler)(STATE)
    assert nothing.scalars["other_single"] == nothing.scalars["other_pair"] == 0.0


def test_what_is_asked_is_what_captions_say(data):
    texts = data.captioned("test").texts
    for index, each in enumerate(asked_of(texts, COUNT)):
        (captions,) = texts(np.array([index]))
        if each is None:
            continue
        for shape, colour in each.figures:
            assert f"{colour} {shape}" in captions[0]
        for relation in each.relations:
            assert relation in captions[0]
        assert bool(each.relations) == (len(each.figures) == 2)


def test_given_conditions_repeat_where_there_are_fewer(data):
    read = []

    def lengths(texts, images):
        read.append(texts)
        return {"length": np.array([len(text) for text in texts])}

    given = captions_given(data, lengths)
    found = given(5)
    assert read[0] == [of[0] for of in data.captioned("test").first(5)]
    np.testing.assert_array_equal(found["length"], [len(text) for text in read[0]])
    assert len(given(2_003)["length"]) == 2_003
    assert len(read[1]) == 2_000


def test_the_reader_names_figures(compiler, data):
    image = data.source("test")[0]["image"]
    (shown,) = Reader(compiler)(image[None])
    (graph,) = data.captioned("test").texts.graphs(np.array([0]))
    assert {(each.shape, each.colour) for each in shown} == {(each.shape, each.colour) for each in graph.figures}
