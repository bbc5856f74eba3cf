"""``python -m vision edit``: every method leaves what is not masked bit for bit, masks, files, and hostile input."""

import functools
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import diffusion_cifar, edit_instructions, inpaint_photos, inpaint_shapes
from vision.errors import UserError
from vision.launch.devices import compiler_of
from vision.launch.edit import edit
from vision.launch.load_run import LoadedRun
from vision.launch.verb_options import EditOptions
from vision.launch.verbs import VERBS
from vision.recipes.edit_requests import fitted_mask, prepared
from vision.report.grid import save_png
from vision.types import EditRequest

pytestmark = pytest.mark.usefixtures("on_one_device")

MODULES = {
    "diffusion": diffusion_cifar,
    "instructions": edit_instructions,
    "words": inpaint_shapes,
    "photos": inpaint_photos,
}


@functools.cache
def run(name):
    """A run whose parameters are random, so that what it generates differs from what it is given."""
    module = MODULES[name]
    experiment = module.build(module.TINY)
    compiler = compiler_of(experiment)
    state = compiler.init(experiment.init, key=jax.random.key(0))
    noisy = lambda leaf: leaf + 0.05 * np.random.default_rng(0).standard_normal(leaf.shape).astype(np.float32)
    state = state.replace(ema={key: jax.tree.map(noisy, jax.device_get(tree)) for key, tree in state.ema.items()})
    return LoadedRun(
        name=name,
        folder=None,
        config=module.TINY,
        experiment=experiment,
        compiler=compiler,
        state=state,
        class_names=None,
    )


def segmenter(kind="classes"):
    """A run that finds a circle on the left of any image, as files say it."""

    def predict(state, files, folder):
        with Image.open(files[0]) as image:
            found = np.zeros((image.height, image.width), np.uint8)
        found[2:8, 1:6] = 1
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        save_png(folder / "masks" / "a.png", found[..., None] if kind == "classes" else found[..., None] * 2)
        if kind == "classes":
            table = {"class_names": ["background", "circle", "star"]}
            (folder / "segmentation.json").write_text(json.dumps(table))
        else:
            # the second most confident instance is the circle
            listed = [{"category_id": 1, "score": 0.5}, {"category_id": 2, "score": 0.9}]
            listed = [{**each, "segmentation": {}} for each in listed] if kind == "objects" else listed
            (folder / "detections.json").write_text(json.dumps(listed))
            names = [{"id": 1, "name": "circle"}, {"id": 2, "name": "star"}]
            (folder / "images.json").write_text(json.dumps({"categories": names, "images": []}))
        return []

    experiment = replace(run("diffusion").experiment, prediction=lambda compiler, names: predict)
    return replace(run("diffusion"), name="finder", experiment=experiment, class_names=("circle", "star"))


@pytest.fixture
def image(tmp_path):
    """An image of the size of the networks."""
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    save_png(tmp_path / "a.png", pixels)
    return tmp_path / "a.png"


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def options(image, **changes):
    given = {"image": (str(image),), "strengths": (), "resamplings": 2, "jump": 1, **changes}
    found = EditOptions(**given)
    found.check()
    return found


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("diffusion", {"method": "sdedit", "prompt": "red star"}),
        ("diffusion", {"method": "repaint"}),
        ("diffusion", {"method": "blended", "prompt": "red star", "feather": 1.0}),
        ("diffusion", {"method": "inversion", "prompt": "red star"}),
        ("words", {"remove": True, "seeds": 2}),
        ("words", {"prompt": "a small red star", "grow": 1.0}),
        ("photos", {}),
        ("instructions", {"instruction": "make the red star blue"}),
    ],
)
def test_pixels_outside_of_the_mask_are_those_of_the_image(name, changes, image, tmp_path):
    lines = edit(run(name), None, options(image, box=(3, 4, 10, 12), **changes), tmp_path / "out")
    folder = tmp_path / "out" / "a"
    before, mask = read(folder / "before.png"), read(folder / "mask.png")
    np.testing.assert_array_equal(before, read(image))
    count = changes.get("seeds", 1)
    results = [read(folder / f"{index:05d}.png") for index in range(count)]
    for result in results:
        np.testing.assert_array_equal(result[mask == 0], before[mask == 0])
        assert (result[mask == 255] != before[mask == 255]).any()
    assert count == 1 or (results[0] != results[1]).any()
    assert (mask == 0).sum() == 16 * 16 - (mask > 0).sum() > 0
    done = json.loads((folder / "edit.json").read_text())
    assert done["unmasked_psnr"] == [100.0] * count
    assert done["method"] == changes.get("method", "model")
    assert str(folder / "sheet.png") in "\n".join(lines)
    page = (tmp_path / "out" / "edits.html").read_text()
    assert "data:image/png;base64" in page
    assert done["method"] in page


def test_the_method_follows_from_the_request_and_has_a_strip_of_strengths(image, tmp_path):
    of = {"strengths": (0.0, 0.5)}
    edit(run("diffusion"), None, options(image, prompt="red star", strength=0.5, **of), tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "a" / "edit.json").read_text())["method"] == "sdedit"
    assert not (tmp_path / "whole" / "a" / "mask.png").exists()
    strip = read(tmp_path / "whole" / "a" / "strengths.png")
    assert strip.shape[1] > 1.5 * strip.shape[0]
    edit(run("diffusion"), None, options(image, strength=0.0, **of), tmp_path / "none")
    np.testing.assert_array_equal(read(tmp_path / "none" / "a" / "00000.png"), read(image))
    edit(run("diffusion"), None, options(image, box=(0, 0, 5, 5), remove=True), tmp_path / "removed")
    assert json.loads((tmp_path / "removed" / "a" / "edit.json").read_text())["method"] == "repaint"


@pytest.mark.parametrize("kind", ["classes", "objects"])
def test_masks_come_from_a_segmenter(kind, image, tmp_path):
    of = {"mask": "auto:circle", "remove": True}
    edit(run("words"), segmenter(kind), options(image, **of), tmp_path / "out")
    mask = read(tmp_path / "out" / "a" / "mask.png")
    assert (mask[2:8, 1:6] == 255).all()
    assert mask[0, 3] == 255  # grown by two pixels, for the shadow
    assert (mask[:, 9:] == 0).all()


def test_the_background_is_what_the_segmenter_calls_so_and_masks_can_be_inverted(image, tmp_path):
    edit(run("words"), segmenter(), options(image, background="a dark striped background"), tmp_path / "one")
    edit(
        run("words"),
        None,
        options(image, background="a light plain background", box=(1, 2, 6, 8), invert=True),
        tmp_path / "two",
    )
    masks = [read(tmp_path / name / "a" / "mask.png") for name in ("one", "two")]
    np.testing.assert_array_equal(*masks)
    assert (masks[0][2:8, 1:6] == 0).all()
    edit(run("instructions"), None, options(image, background="a dark striped background"), tmp_path / "three")


def test_an_image_of_another_size_is_fitted_with_its_mask_and_that_is_said(tmp_path):
    pixels = np.zeros((40, 64, 3), np.uint8)
    save_png(tmp_path / "a.png", pixels)
    lines = edit(run("photos"), None, options(tmp_path / "a.png", box=(24, 10, 40, 30)), tmp_path / "out")
    assert any("64x40 pixels is resized to 16x16 and its centre cropped" in line for line in lines)
    assert read(tmp_path / "out" / "a" / "00000.png").shape == (16, 16, 3)
    mask = fitted_mask(np.pad(np.full((20, 16, 1), 255, np.uint8), ((10, 10), (24, 24), (0, 0))), 16)
    np.testing.assert_array_equal(np.flatnonzero(mask[..., 0].any(1)), np.arange(4, 12))
    np.testing.assert_array_equal(np.flatnonzero(mask[..., 0].any(0)), np.arange(5, 11))


def test_unknown_words_are_said_and_several_images_have_a_folder_each(image, tmp_path, capsys):
    save_png(tmp_path / "b.png", read(image)[::-1])
    edit(run("instructions"), None, options(tmp_path / "*.png", instruction="make it glorious"), tmp_path / "out")
    assert "'make it glorious' has words that are not in the vocabulary" in capsys.readouterr().err
    assert (tmp_path / "out" / "a" / "edit.json").exists()
    assert (tmp_path / "out" / "b" / "edit.json").exists()


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("words", {"mask": "small.png"}, "has 8x8 pixels and .*a.png 16x16: give a mask of the image's size"),
        ("words", {"mask": "black.png"}, "black.png marks nothing of"),
        ("words", {"mask": "white.png"}, "white.png marks all of"),
        ("words", {"mask": "absent.png"}, "absent.png names no file"),
        ("words", {"box": (3, 3, 3, 8)}, "is no box inside"),
        ("words", {"box": (3, 3, 20, 8)}, "16x16 pixels"),
        ("words", {"box": (3, 3)}, "four numbers x0 y0 x1 y1, not 2"),
        ("words", {"box": (3, 3, 8, 8), "mask": "black.png"}, "give one of them"),
        ("words", {"box": (3, 3, 8, 8), "grow": 20.0}, "covers the whole image: leave it out, or grow it less"),
        ("words", {"mask": "auto:circle"}, "name a run with --segmenter"),
        ("words", {"prompt": "a red star"}, "paints inside a mask: give --mask or --box"),
        ("words", {"box": (3, 3, 8, 8), "prompt": "a star", "remove": True}, "give one of them"),
        ("words", {"box": (3, 3, 8, 8), "instruction": "remove it"}, "follows no instructions"),
        ("words", {"box": (3, 3, 8, 8), "method": "sdedit"}, "leave --method sdedit out"),
        ("words", {"background": "a striped background", "prompt": "a star"}, "give one"),
        ("photos", {"box": (3, 3, 8, 8), "prompt": "a star"}, "inpaints without words"),
        ("instructions", {"prompt": "a star"}, "follows instructions: say what to do"),
        ("diffusion", {"instruction": "make it red"}, "follows no instructions"),
        ("diffusion", {"method": "model"}, "was not trained to edit"),
        ("diffusion", {"remove": True}, "needs to know where"),
        ("diffusion", {"method": "repaint"}, "needs to know where"),
        ("diffusion", {"prompt": "green dragon"}, "knows the classes .*, and not 'green dragon'"),
    ],
)
def test_wrong_requests_are_one_sentence(name, changes, words, image, tmp_path):
    for file, pixels in (
        ("small.png", np.full((8, 8, 1), 255, np.uint8)),
        ("black.png", np.zeros((16, 16, 1), np.uint8)),
        ("white.png", np.full((16, 16, 1), 255, np.uint8)),
    ):
        save_png(tmp_path / file, pixels)
    if "mask" in changes and not changes["mask"].startswith("auto:"):
        changes = {**changes, "mask": str(tmp_path / changes["mask"])}
    with pytest.raises(UserError, match=words) as raised:
        edit(run(name), None, options(image, **changes), tmp_path / "out")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "mask", "words"),
    [
        ("classes", "auto:circel", "did you mean circle"),
        ("classes", "auto:star", "finder finds no star in"),
        ("classes", "auto:circle:1", "tells classes apart, and not objects"),
        ("objects", "auto:circle:2", "finds 1 of the class circle in .*, and not 2"),
        ("objects", "auto:circle:none", "a class and a number from 1"),
        ("boxes", "auto:circle", "makes no masks"),
    ],
)
def test_classes_that_are_not_there_are_one_sentence(kind, mask, words, image, tmp_path):
    with pytest.raises(UserError, match=words):
        edit(run("words"), segmenter(kind), options(image, mask=mask, remove=True), tmp_path / "out")


def test_a_mask_that_vanishes_when_the_image_is_reduced_is_an_error():
    image = np.zeros((64, 64, 3), np.uint8)
    mask = np.zeros((64, 64, 1), np.uint8)
    mask[0, 0] = 255
    with pytest.raises(UserError, match="empty as the network sees it"):
        prepared(EditRequest(image=image, mask=mask), 8)


def test_edit_is_a_verb_that_needs_an_image(tmp_path):
    with pytest.raises(UserError, match="edit needs an image"):
        EditOptions().check()
    assert VERBS["edit"].offered(run("diffusion").experiment)
    recogniser = replace(run("diffusion").experiment, editing=None)
    assert not VERBS["edit"].offered(recogniser)
    with pytest.raises(UserError, match="does not generate images"):
        edit(replace(run("diffusion"), experiment=recogniser), None, options(tmp_path), tmp_path)
