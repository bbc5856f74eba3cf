"""Edits of the shapes world: what should change changes, nothing else does, and the sentences say it."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from vision.data.editing.data import EditsConfig, edits_data
from vision.data.editing.words import instruction_tokenizer
from vision.data.shapes.edits import EDIT_KINDS, SIDES, edits
from vision.data.shapes.instructions import HELD_OUT, NOTHING, PHRASINGS, contents, instructions
from vision.data.shapes.world import ShapesConfig, render_scenes
from vision.errors import UserError
from vision.recipes.quick_edits import WORLD

COUNT = 160


@functools.cache
def made():
    return edits(WORLD, seed=3, indices=np.arange(COUNT))


def rows(kind):
    return [row for row, each in enumerate(made().kinds()) if each == kind]


def test_all_kinds_occur_and_each_triple_is_a_function_of_its_index():
    assert set(made().kinds()) == set(EDIT_KINDS)
    alone = edits(WORLD, seed=3, indices=np.array([7, 41]))
    for name in ("image", "shape", "colour", "valid", "boxes", "dark"):
        np.testing.assert_array_equal(alone.before[name], made().before[name][[7, 41]])
        np.testing.assert_array_equal(alone.after[name], made().after[name][[7, 41]])
    assert instructions(alone) == [instructions(made())[row] for row in (7, 41)]
    other = edits(WORLD, seed=3, indices=np.arange(8), split="test")
    assert (other.before["image"] != made().before["image"][:8]).any()


def test_the_first_image_is_the_scene_of_the_world_but_where_a_figure_is_added():
    scenes = render_scenes(WORLD, seed=3, indices=np.arange(COUNT))
    added = np.isin(np.arange(COUNT), rows("add"))
    np.testing.assert_array_equal(made().before["image"][~added], scenes["image"][~added])
    np.testing.assert_array_equal(made().after["image"][added], scenes["image"][added])


def test_only_what_is_masked_changes():
    """Backgrounds shine through the soft edges of figures, which no mask of whole pixels has."""
    changed = np.any(made().before["image"] != made().after["image"], axis=-1)
    assert changed.any((1, 2)).all()
    objects = np.array([kind != "background" for kind in made().kinds()])
    outside = changed & (made().mask == 0)
    # the shadow of the figure may fall on others, which the mask leaves out
    assert outside[objects].mean() < 0.002
    assert (made().mask[objects] == 0).mean() > 0.5


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_the_annotation_changes_as_the_kind_says_and_nowhere_else(kind):
    before, after = made().before, made().after
    for row in rows(kind):
        subject = int(made().subject[row])
        for slot in range(WORLD.max_objects):
            names = ("shape", "colour", "valid", "size")
            same = [name for name in names if before[name][row, slot] == after[name][row, slot]]
            if slot != subject or kind == "background":
                assert len(same) == 4
                np.testing.assert_allclose(before["boxes"][row, slot], after["boxes"][row, slot], atol=1.0)
        figure = lambda scene, at=(row, subject): tuple(scene[name][at] for name in ("valid", "shape", "colour"))
        expected = {
            "recolour": figure(before)[:2] == figure(after)[:2] and figure(before)[2] != figure(after)[2],
            "replace": figure(before)[1] != figure(after)[1] and figure(before)[2] == figure(after)[2],
            "remove": figure(before)[0] and not figure(after)[0],
            "add": figure(after)[0] and not figure(before)[0],
            "move": figure(before) == figure(after),
            "background": before["background"][row] != after["background"][row]
            or before["dark"][row] != after["dark"][row],
        }
        assert expected[kind]


def test_a_figure_moves_into_the_third_that_its_sentence_says():
    sentences = instructions(made())
    for row in rows("move"):
        side = SIDES[int(made().side[row])]
        box = made().after["boxes"][row, made().subject[row]] / WORLD.resolution
        centre = (box[:2] + box[2:]) / 2
        along = centre[0 if side in ("left", "right") else 1]
        assert along > 2 / 3 if side in ("right", "bottom") else along < 1 / 3
        assert side in sentences[row][0]


def test_every_figure_is_visible_before_and_after():
    for scene in (made().before, made().after):
        assert (scene["visible"][scene["valid"]] >= WORLD.min_visible).all()


def test_sentences_name_one_figure_of_the_scene_and_all_words_are_known():
    tokenizer = instruction_tokenizer(WORLD)
    assert tokenizer.length == 16
    sentences = instructions(made())
    coverage = tokenizer.coverage([text for of in sentences for text in of] + contents(made()))
    assert coverage.unknown == 0
    assert coverage.cut == 0
    for row, (kind, of) in enumerate(zip(made().kinds(), sentences, strict=True)):
        assert len(of) == len(PHRASINGS[kind]) == HELD_OUT + 1
        assert len(set(of)) == len(of)
        if kind in ("recolour", "remove", "replace", "move"):
            config, subject = made().config, made().subject[row]
            scene = {name: made().before[name][row] for name in ("shape", "colour", "valid")}
            name = f"{config.colours[scene['colour'][subject]]} {config.shapes[scene['shape'][subject]]}"
            assert all(name in sentence for sentence in of)
            same = (scene["shape"] == scene["shape"][subject]) & (scene["colour"] == scene["colour"][subject])
            assert (same & scene["valid"]).sum() == 1
    assert tokenizer.coverage(["paint it"]).unknown == 1


def test_words_of_held_out_phrasings_are_in_others():
    training = {word for of in PHRASINGS.values() for phrasing in of[:HELD_OUT] for word in phrasing.split()}
    unknown = {word for of in PHRASINGS.values() for word in of[HELD_OUT].split()} - training
    assert not unknown


def test_what_is_shown_afterwards():
    for row, (kind, text) in enumerate(zip(made().kinds(), contents(made()), strict=True)):
        if kind == "remove":
            assert text == NOTHING
        elif kind == "background":
            assert text.split()[1] == ("dark" if made().after["dark"][row] else "light")
        else:
            assert text.split()[-1] == made().config.shapes[made().after["shape"][row, made().subject[row]]]


def test_held_out_figures_are_in_no_training_triple_and_phrasings_in_no_training_sentence():
    config = EditsConfig(resolution=32, shapes=WORLD, shapes_count=120, held_out=("red star", "blue cross"))
    data = edits_data(config, sentences="instruction")
    size = len(data.source("train"))
    assert 0 < size < 120
    assert not data.edits("train", np.arange(size)).has(config.held_out).any()
    assert data.edits("test", np.arange(200)).has(config.held_out).any()
    batch = next(data.train_batches(8, seed=0, start_step=0, process_index=0, process_count=1))
    assert {name: value.shape for name, value in batch.items()} == {
        "image": (8, 32, 32, 3),
        "before": (8, 32, 32, 3),
        "region": (8, 32, 32, 1),
        "tokens": (8, 16),
    }
    texts = data.sentences("train", np.arange(size))
    held_out = {of[HELD_OUT] for of in instructions(data.edits("train", np.arange(size)))}
    assert not set(texts) & held_out
    np.testing.assert_array_equal(data.tokenizer.encode(texts[:2]), data.source("train").rows(np.arange(2))["tokens"])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(EditsConfig(), name="cifar10"), "shapes world alone"),
        (replace(EditsConfig(), held_out=("red dragon",)), "'red dragon', which is none of the kinds"),
    ],
)
def test_wrong_data_is_one_sentence(config, words):
    with pytest.raises(UserError, match=words):
        edits_data(config, sentences="instruction")


@pytest.mark.parametrize(
    ("changes", "kinds", "words"),
    [
        ({"colours": ("red",)}, ("recolour",), "two to choose from, and there is red alone"),
        ({"backgrounds": ("solid",), "dark_share": 0.0}, ("background",), "two kinds of backgrounds"),
        ({}, (), "not none"),
    ],
)
def test_kinds_without_a_choice_are_refused(changes, kinds, words):
    with pytest.raises(UserError, match=words):
        edits(replace(ShapesConfig(), **changes), seed=0, indices=np.arange(2), kinds=kinds)
