"""Images with masks: folders, published layouts, the shapes world, and what is refused."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from vision.data.annotations.index_masks import VOID
from vision.data.annotations.semantic_files import CITYSCAPES
from vision.data.class_counts import class_counts
from vision.data.content import content_of
from vision.data.semantic import (
    PAD,
    SemanticConfig,
    class_colours,
    description,
    fitted_size,
    semantic_source,
    unread_source,
    world,
)
from vision.errors import UserError


def image(path, height=4, width=6, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


def mask(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two training images and a test image of 4x6 pixels, with classes 0 to 2."""
    values = np.zeros((4, 6), int)
    values[1, 2], values[3, 5] = 1, VOID
    for split, names in (("train", ("a", "sub/b")), ("test", ("c",))):
        for name in names:
            image(tmp_path / split / "images" / f"{name}.png")
            mask(tmp_path / split / "masks" / f"{name}.png", values)
    (tmp_path / "classes.txt").write_text("ground\ncell\nother\n")
    return tmp_path


def config(folder, **changes):
    return SemanticConfig(**{"name": "folder", "dir": folder, "height": 4, "width": 6, **changes})


def test_samples_of_a_folder(folder):
    source = semantic_source(config(folder), "train")
    assert (len(source), source.class_names) == (2, ("ground", "cell", "other"))
    sample = source[0]
    assert {name: (value.shape, value.dtype.name) for name, value in sample.items()} == {
        "image": ((4, 6, 3), "uint8"),
        "semantic": ((4, 6), "uint8"),
        "size": ((2,), "int32"),
    }
    assert (sample["semantic"][1, 2], sample["semantic"][3, 5]) == (1, VOID)
    assert class_counts(source, 3).pixels.tolist() == [2 * 22, 2, 0]
    assert "2 images, 4.2% void; of the rest ground 95.65%" in class_counts(source, 3).text(source.class_names)


def test_small_images_lie_in_a_canvas(folder):
    sample = semantic_source(config(folder, height=5, width=9), "test")[0]
    assert sample["size"].tolist() == [4, 6]
    assert (sample["image"][4] == PAD).all()
    assert (sample["image"][:, 6:] == PAD).all()
    assert (sample["semantic"][4] == VOID).all()
    assert sample["truth"].shape == (4, 6)


def test_large_images_are_reduced_and_their_truth_is_not(folder):
    values = np.zeros((8, 20), int)
    values[:, 10:] = 2
    image(folder / "test" / "images" / "large.png", 8, 20)
    mask(folder / "test" / "masks" / "large.png", values)
    source = semantic_source(config(folder), "test")
    sample = next(each for each in map(source.__getitem__, range(2)) if each["truth_size"].tolist() == [8, 20])
    assert sample["size"].tolist() == [2, 6]
    np.testing.assert_array_equal(sample["semantic"][:2], [[0, 0, 0, 2, 2, 2]] * 2)
    np.testing.assert_array_equal(sample["truth"], values)
    other = next(each for each in map(source.__getitem__, range(2)) if each["truth_size"].tolist() == [4, 6])
    assert (other["truth"][4:] == VOID).all()


@pytest.mark.parametrize(
    ("size", "canvas", "expected"),
    [((4, 6), (9, 9), (4, 6)), ((20, 10), (10, 10), (10, 5)), ((1000, 1), (10, 10), (10, 1)), ((7, 9), (7, 9), (7, 9))],
)
def test_fitted_sizes(size, canvas, expected):
    assert fitted_size(size, canvas) == expected


def test_classes_without_a_list(folder):
    listless = config(folder, classes="none.txt")
    assert semantic_source(listless, "train").class_names == ("class 0", "class 1")
    with pytest.raises(UserError, match=r"the largest value of the masks of .* is 255, and classes are 0 to 254"):
        semantic_source(dataclasses.replace(listless, void=(0,)), "train")


def test_a_folder_without_splits_is_divided_by_name(tmp_path):
    for index in range(30):
        image(tmp_path / "images" / f"{index}.png")
        mask(tmp_path / "masks" / f"{index}.png", np.full((4, 6), index % 2))
    train, test = (unread_source(config(tmp_path), split) for split in ("train", "test"))
    assert len(train) + len(test) == 30
    assert not {*train.images.pairs} & {*test.images.pairs}
    assert len(test) > 0


def test_the_first_images_alone(folder):
    few = config(folder, overfit_images=1)
    assert [len(semantic_source(few, split)) for split in ("train", "test")] == [1, 1]
    assert "truth" in semantic_source(few, "test")[0]
    assert description(few, "test").startswith("the first 1 images of ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "train" / "masks" / "a.png").unlink(), r"the image .*a\.png has no mask .*masks/a\.png"),
        (lambda root: image(root / "train" / "images" / "a.png", 5, 6), "has 6x4 pixels and its image .* 6x5"),
        (
            lambda root: mask(root / "train" / "masks" / "a.png", np.full((4, 6), 9)),
            "has the value 9 at row 0, column 0",
        ),
        (lambda root: (root / "train").rename(root / "training"), "There is no folder .*train, only one for the other"),
    ],
)
def test_what_is_refused(change, said, folder):
    change(folder)
    with pytest.raises(UserError, match=said) as error:
        semantic_source(config(folder), "train")
    assert "\n" not in str(error.value)


def test_a_mask_as_jpeg_is_named(folder):
    (folder / "test" / "masks" / "c.png").rename(folder / "test" / "masks" / "c.jpg")
    with pytest.raises(UserError, match=r"c\.jpg is there, but masks are PNG files, since JPEG changes values"):
        semantic_source(config(folder), "test")


def test_masks_of_void_alone(folder):
    mask(folder / "train" / "masks" / "a.png", np.full((4, 6), VOID))
    counts = class_counts(semantic_source(config(folder), "train"), 3)
    assert counts.empty == 1
    assert "1 without any class" in counts.text(("a", "b", "c"))
    mask(folder / "train" / "masks" / "sub" / "b.png", np.full((4, 6), VOID))
    with pytest.raises(UserError, match=r"all 2 masks of .* are void alone"):
        semantic_source(config(folder, classes="none.txt"), "train")


def test_pascal_voc(tmp_path):
    for name in ("x", "y"):
        image(tmp_path / "JPEGImages" / f"{name}.jpg")
        mask(tmp_path / "SegmentationClass" / f"{name}.png", np.full((4, 6), 20))
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("x\n")
    (lists / "val.txt").write_text("y\n")
    voc = config(tmp_path, name="voc", test="val")
    source = semantic_source(voc, "train")
    assert (len(source), source.class_names[20], source[0]["semantic"][0, 0]) == (1, "tvmonitor", 20)
    (lists / "val.txt").write_text("../../etc/passwd\n")
    with pytest.raises(UserError, match="which is not the name of an image"):
        semantic_source(voc, "test")
    (lists / "val.txt").write_text("\n")
    with pytest.raises(UserError, match="names no image"):
        semantic_source(voc, "test")


def test_cityscapes(tmp_path):
    for split in ("train", "val"):
        image(tmp_path / "leftImg8bit" / split / "bonn" / "b_1_leftImg8bit.png")
        mask(tmp_path / "gtFine" / split / "bonn" / "b_1_gtFine_labelIds.png", [[7, 8, 0, 33, 5, 24]] * 4)
    source = semantic_source(config(tmp_path, name="cityscapes", test="val"), "train")
    assert source[0]["semantic"][0].tolist() == [0, 1, VOID, 18, VOID, 11]
    assert source.class_names == tuple(CITYSCAPES.values())


def test_ade20k(tmp_path):
    for split in ("training", "validation"):
        image(tmp_path / "images" / split / "a.jpg")
        mask(tmp_path / "annotations" / split / "a.png", [[0, 1, 150, 150, 1, 0]] * 4)
    source = semantic_source(config(tmp_path, name="ade20k", train="training", test="validation"), "test")
    assert source[0]["semantic"][0].tolist() == [VOID, 0, 149, 149, 0, VOID]


def test_colours_of_a_palette(folder):
    file = folder / "train" / "masks" / "a.png"
    made = Image.fromarray(np.zeros((4, 6), np.uint8))
    made.putpalette([1, 2, 3, 4, 5, 6, 7, 8, 9] + [0] * 759)
    made.save(file)
    assert class_colours(config(folder)) == ((1, 2, 3), (4, 5, 6), (7, 8, 9))


def test_scenes_have_a_class_for_every_pixel():
    shapes = SemanticConfig(height=32, width=32, shapes_count=8)
    source = semantic_source(shapes, "test")
    assert source.class_names[0] == "background"
    sample = source[3]
    np.testing.assert_array_equal(sample["semantic"], world(shapes, "test")[3]["semantic"])
    assert sample["truth_size"].tolist() == [32, 32]
    assert "truth" not in semantic_source(shapes, "train")[0]
    with pytest.raises(UserError, match="are square, not 32x64"):
        SemanticConfig(height=32, width=64)


def test_the_memory_that_is_needed(folder):
    with pytest.raises(UserError, match=r"2 images of 4x6 need .* give --data\.stream"):
        semantic_source(config(folder), "train", limit_bytes=10)
    streamed = semantic_source(config(folder, stream=True), "train", limit_bytes=10)
    np.testing.assert_array_equal(streamed[0]["semantic"], semantic_source(config(folder), "train")[0]["semantic"])


def test_the_content_is_that_of_the_files(folder):
    one = content_of(unread_source(config(folder), "train"))
    moved = folder.rename(folder.with_name("elsewhere"))
    assert content_of(unread_source(config(moved), "train")) == one
    (moved / "train" / "masks" / "a.png").rename(moved / "train" / "masks" / "z.png")
    (moved / "train" / "images" / "a.png").rename(moved / "train" / "images" / "z.png")
    assert content_of(unread_source(config(moved), "train")) != one


def test_configurations_are_read_once_for_each_folder(folder):
    other = dataclasses.replace(config(folder), classes="more.txt")
    (folder / "more.txt").write_text("one\ntwo\nthree\nfour\n")
    assert len(semantic_source(other, "train").class_names) == 4
