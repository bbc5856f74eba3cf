"""Measures of edits: the true image is the ceiling, the untouched one the floor, and faults are found by hand."""

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from vision.data.editing.data import edits_data
from vision.data.shapes.edits import EDIT_KINDS
from vision.evaluation.caption_facts import Reader
from vision.evaluation.edited_scenes import background_words, edit_scores
from vision.evaluation.editing import edit_grid, edit_measures, means, of_parts, parts
from vision.evaluation.generator import Generator
from vision.evaluation.inpainting import filled_with_mean, inpainting_measures, inside_psnr
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.recipes.quick_edits import QUICK_EDITS, WORLD
from vision.train.compile import Compiler
from vision.types import TrainState

COUNT = 90
CONFIG = replace(QUICK_EDITS, resolution=64, shapes=WORLD, shapes_count=100, held_out=("red star", "blue cross"))
STATE = TrainState(step=0, params={}, model_state={}, opt_state=(), ema={}, key=None)


@functools.cache
def data():
    return edits_data(CONFIG, sentences="instruction")


@functools.cache
def compiler():
    return Compiler(make_mesh(MeshConfig(), jax.devices()[:1]))


@functools.cache
def edits():
    return data().edits("test", np.arange(COUNT))


@functools.cache
def read():
    return Reader(compiler())


def scores(images):
    return edit_scores(edits(), images, read()(images))


def test_true_images_succeed_and_untouched_ones_do_not():
    true, original = scores(edits().after["image"]), scores(edits().before["image"])
    assert true.success.mean() > 0.9
    assert original.success.mean() < 0.1
    for found in (true, original):
        assert np.nanmean(found.kept) > 0.9
    assert (true.psnr[~np.isnan(true.psnr)] == 100.0).all()
    assert (true.background == 0.0).all()
    kinds = np.array(edits().kinds())
    assert (original.background[kinds == "background"] > 10.0).mean() > 0.6
    assert np.nanmean(original.psnr[kinds != "background"]) > 30.0


def test_success_asks_for_nothing_but_the_edit_and_preservation_for_the_rest():
    """The right figure on a page without the others has succeeded and kept nothing."""
    kinds = np.array(edits().kinds())
    alone = edits().after["image"].copy()
    side = alone.shape[1]
    for row in np.flatnonzero(np.isin(kinds, ("recolour", "replace"))):
        x0, y0, x1, y1 = edits().after["boxes"][row, edits().subject[row]].astype(int)
        page = np.full((side, side, 3), 235, np.uint8)
        page[max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = alone[
            row, max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2
        ]
        alone[row] = page
    found = scores(alone)
    changed = np.isin(kinds, ("recolour", "replace")) & ~np.isnan(found.kept)
    assert found.success[changed].mean() > 0.7
    assert found.kept[changed].mean() < 0.3
    assert (found.psnr[changed] < 30.0).all()


def test_figures_of_another_place_are_not_kept():
    shifted = np.roll(edits().after["image"], 12, axis=2)
    assert np.nanmean(scores(shifted).kept) < 0.4


def test_backgrounds_in_words():
    for scene in (edits().before, edits().after):
        right = [
            background_words(scene["image"][row])
            == (bool(scene["dark"][row]), WORLD.backgrounds[int(scene["background"][row])] != "solid")
            for row in range(COUNT)
        ]
        assert np.mean(right) > 0.95


def test_numbers_have_their_parts_and_protocols():
    generator = Generator(
        sample=lambda variables, condition, index, key: condition["image"],
        variables=lambda state: {},
        description="copies",
        given=lambda count: {"image": edits().after["image"][np.arange(count) % COUNT]},
    )
    found = edit_measures(generator, data(), count=COUNT, batch=64)(compiler())(STATE)
    assert set(found.protocol) == set(found.scalars)
    assert found.scalars["edit_success"] == found.scalars["edit_success_true"]
    assert found.scalars["edit_success_original"] < 0.1
    assert {f"edit_success_{kind}" for kind in EDIT_KINDS} <= set(found.scalars)
    assert "floor" in found.protocol["edit_kept_original"]
    assert "unseen phrasing alone" in found.protocol["edit_success_unseen_phrasing"]
    sheet = edit_grid(generator, data(), count=12)(compiler())(STATE).images["edits"]
    assert sheet.ndim == 3


def test_parts_are_those_that_training_has_not():
    unseen = parts(edits(), np.arange(COUNT), data().held_out)
    assert unseen["unseen_phrasing"].mean() == pytest.approx(0.2)
    assert 0 < unseen["unseen_figure"].mean() < 0.5
    found = of_parts(scores(edits().after["image"]), edits(), unseen)
    assert found["success"] == means(scores(edits().after["image"]))["success"]
    assert set(found) >= {"success_unseen_phrasing", "success_unseen_figure", "success_remove"}


def test_inpainting_is_measured_inside_the_mask_next_to_a_plain_fill():
    generator = Generator(
        sample=lambda variables, condition, index, key: condition["image"],
        variables=lambda state: {},
        description="copies",
    )
    of = {"count": 6, "shown": 6, "batch": 6, "kinds": ("box", "thin")}
    found = inpainting_measures(generator, data(), **of)(compiler())(STATE)
    assert found.scalars["inpainted_psnr_box"] == 100.0
    assert found.scalars["inpainted_psnr_box_mean"] < 40.0
    assert found.scalars["inpainted_seam_thin"] == found.scalars["inpainted_seam_thin_true"]
    assert set(found.protocol) == set(found.scalars)
    image = np.zeros((4, 4, 3), np.uint8)
    image[0] = 90
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    assert inside_psnr(filled_with_mean(image, mask), image, mask) == pytest.approx(20 * np.log10(255 / 90))
