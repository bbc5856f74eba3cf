"""Photographs of differing sizes: crops, canvases, splits, and what cannot be used."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vision.data.content import content_of
from vision.data.photographs import (
    PhotographsConfig,
    canvas_side,
    description,
    photograph_data,
    random_crop,
    unread_photographs,
)
from vision.errors import UserError
from vision.ops.imresize import imresize

GENERATOR = np.random.default_rng(0)


def picture(height, width):
    return GENERATOR.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for number, (height, width) in enumerate([(40, 70), (61, 33), (90, 90), (24, 30)]):
        place = root / ("inside" if number % 2 else ".") / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(height, width)).save(place)
    return root


def config(folder, **changes):
    return PhotographsConfig(dir=folder, test_dir=folder, patch=24, **changes)


def data_of(made, **keywords):
    return photograph_data(made, **{"scale": 2, "margin": 4, **keywords})


def test_training_crops(folder, capsys):
    data = data_of(config(folder))
    share = {"process_index": 0, "process_count": 1}
    first = next(data.train_batches(4, seed=0, start_step=3, **share))["image"]
    again = next(data.train_batches(4, seed=0, start_step=3, **share))["image"]
    other = next(data.train_batches(4, seed=1, start_step=3, **share))["image"]
    assert first.shape == (4, 40, 40, 3)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert "2 of 4 photographs have less than 40 pixels on a side" in capsys.readouterr().err
    streamed = data_of(config(folder, stream=True))
    np.testing.assert_array_equal(first, next(streamed.train_batches(4, seed=0, start_step=3, **share))["image"])


def test_a_crop_of_a_small_image_is_its_mirror_image():
    image = picture(3, 50)
    made = random_crop({"image": image}, np.random.default_rng(0), side=7)["image"]
    assert made.shape == (7, 7, 3)
    np.testing.assert_array_equal(made[3:6], made[2::-1])


def test_canvases_hold_every_image_once(folder):
    data = data_of(config(folder, test_multiple=16), multiple=2)
    seen = {}
    for batch in data.test_batches(2):
        height, width = batch["image"].shape[1:3]
        assert height % 32 == width % 32 == 0
        for row in np.flatnonzero(batch["mask"]).tolist():
            seen[int(batch["index"][row])] = (batch["image"][row], tuple(batch["size"][row].tolist()))
    assert {index: size for index, (_, size) in seen.items()} == {0: (40, 70), 1: (90, 90), 2: (60, 32), 3: (24, 30)}
    source = data.source("test")
    for index, (canvas, (height, width)) in seen.items():
        np.testing.assert_array_equal(canvas[:height, :width], source[index]["image"][:height, :width])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_images_in_canvases_are_reduced_and_enlarged_as_alone(scale):
    data = photograph_data(
        PhotographsConfig(name="shapes", patch=24, test_images=1, test_multiple=16), scale=scale, margin=4
    )
    (batch,) = data.test_batches(1)
    (height, width), canvas = batch["size"][0].tolist(), jnp.asarray(batch["image"] / np.float32(255))
    alone = canvas[:, :height, :width]
    small, reduced = imresize(canvas, 1 / scale), imresize(alone, 1 / scale)
    np.testing.assert_allclose(small[:, : height // scale, : width // scale], reduced, atol=1e-5)
    enlarged = imresize(small, float(scale))[:, :height, :width]
    np.testing.assert_allclose(enlarged, imresize(reduced, float(scale)), atol=1e-5)


def test_sides_of_canvases():
    assert canvas_side(64, scale=2, multiple=16) == 64
    assert canvas_side(62, scale=2, multiple=16) == 96  # 31 + 4 > 32
    assert canvas_side(50, scale=2, multiple=16) == 64
    assert canvas_side(50, scale=2, multiple=1) == 50


def test_splits(tmp_path):
    for name, count in (("one", 1), ("many", 30)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    with pytest.raises(UserError, match=r"of the 1 images in .* choose them as test images: add images"):
        unread_photographs(PhotographsConfig(dir=tmp_path / "one"), "test")
    held = PhotographsConfig(dir=tmp_path / "many")
    sizes = [len(unread_photographs(held, split)) for split in ("train", "test")]
    assert sum(sizes) == 30
    assert min(sizes) > 0
    assert content_of(unread_photographs(held, "test")).count == sizes[1]
    assert description(held, "test").endswith("a tenth of the images, by name")
    assert description(PhotographsConfig(name="shapes", test_images=3), "test").startswith("the first 3 of the shapes")


def test_what_cannot_be_used_is_said(folder, tmp_path):
    with pytest.raises(UserError, match=r"data\.patch 24 must be a multiple of 16"):
        data_of(config(folder), scale=4, multiple=4)
    with pytest.raises(UserError, match=r"There is no folder .*none to read images from"):
        data_of(config(tmp_path / "none")).source("train")
    small, damaged = tmp_path / "small", tmp_path / "damaged"
    for place in (small, damaged):
        place.mkdir()
        Image.new("RGB", (30, 12)).save(place / "a.png")
    with pytest.raises(UserError, match="1 of the 1 test images have less than 22 pixels on a side, such as number 1"):
        data_of(config(small)).source("test")
    (damaged / "b.png").write_bytes((damaged / "a.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"Sample 1 of 2 cannot be read: .*b\.png cannot be decoded"):
        data_of(config(damaged)).source("train")
    whole = dataclasses.replace(config(damaged), skip_damaged=True)
    assert len(data_of(whole).source("train")) == 1
