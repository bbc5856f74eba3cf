"""Labelled images: in memory and streamed, some classes, few labels, damaged files, and folders that disagree."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision.data import labelled
from vision.data.labelled import LabelledConfig, labelled_source
from vision.data.shapes.world import ShapesConfig
from vision.data.subset import labels_of
from vision.errors import UserError

CLASSES = ("ant", "bee", "cat")
SHAPES = LabelledConfig(
    name="shapes", shapes_count=40, shapes=ShapesConfig(shapes=("circle", "star"), colours=("red", "blue"))
)


def picture(index):
    """A photograph of individual size with a bright left half, whose brightness identifies it."""
    height, width = 30 + 3 * index % 17, 41 - 2 * index % 13
    pixels = np.full((height, width, 3), 5 * index, np.uint8)
    pixels[:, : width // 2] += 60
    return Image.fromarray(pixels)


def fill(root, count, *, classes=CLASSES, first=0):
    """``count`` JPEGs, cycling through the classes."""
    for index in range(count):
        folder = root / classes[index % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        picture(first + index).save(folder / f"{index:03d}.jpg", quality=95)
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """30 training and 7 test images of three classes."""
    root = tmp_path_factory.mktemp("images")
    return fill(root / "train", 30), fill(root / "test", 7, first=30)


@pytest.fixture
def config(folders):
    train, test = folders
    return LabelledConfig(name="folder", dir=train, test_dir=test, resolution=16, test_resolution=16, test_resize=24)


def numbers(images):
    """Which images these are, by the brightness of their right half."""
    images = np.asarray(images)
    return np.round(images[:, 4:-4, -3].astype(float).mean((1, 2)) / 5).astype(int).tolist()


def first(iterator, count=2):
    found = [next(iterator) for _ in range(count)]
    iterator.close()
    return found


def same(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def test_train_and_test_folders_in_memory(config):
    train, test = (labelled_source(config, split, seed=0) for split in ("train", "test"))
    assert (len(train), len(test)) == (30, 7)
    assert train.class_names == test.class_names == CLASSES
    for source, start in ((train, 0), (test, 30)):
        assert source.arrays.keys() == {"image", "label"}
        assert source.arrays["image"].shape == (len(source), 16, 16, 3)
        assert (source.arrays["image"].dtype, source.arrays["label"].dtype) == (np.uint8, np.int32)
        found = np.array(numbers(source.arrays["image"])) - start
        assert sorted(found) == list(range(len(source)))
        np.testing.assert_array_equal(source.arrays["label"], found % 3)


def test_one_folder_is_divided(config):
    train, test = (labelled_source(replace(config, test_dir=None), split, seed=0) for split in ("train", "test"))
    parts = [set(numbers(source.arrays["image"])) for source in (train, test)]
    assert [len(part) for part in parts] == [27, 3]
    assert parts[0] | parts[1] == set(range(30))


@pytest.mark.parametrize("stream", [False, True])
def test_batches_are_a_function_of_seed_and_step(config, stream):
    config = replace(config, stream=stream, crop_scale=(0.3, 1.0))
    source = labelled_source(config, "train", seed=0)
    make = lambda **share: labelled.training_batches(source, config, batch_size=8, **share)
    batches = first(make(seed=1), 5)
    assert [batch["image"].shape for batch in batches] == [(8, 16, 16, 3)] * 5
    assert batches[0]["image"].dtype == np.uint8
    assert all(batch.keys() == {"image", "label"} for batch in batches)
    same(first(make(seed=1, start_step=3)), batches[3:])
    assert not np.array_equal(first(make(seed=2), 1)[0]["image"], batches[0]["image"])
    shares = [first(make(seed=1, process_index=i, process_count=2), 5) for i in range(2)]
    same([{n: np.concatenate([a[n], b[n]]) for n in a} for a, b in zip(*shares, strict=True)], batches)
    # every image once per epoch, with its own label
    images, labels = (np.concatenate([batch[name] for batch in batches])[:30] for name in ("image", "label"))
    if not stream:
        assert sorted(numbers(images)) == list(range(30))
        np.testing.assert_array_equal(labels, np.array(numbers(images)) % 3)
    assert np.bincount(labels).tolist() == [10, 10, 10]


def test_streamed_crops_are_random_and_test_images_are_not(config):
    config = replace(config, stream=True, crop_scale=(0.2, 0.5))
    source = labelled_source(replace(config, classes=("ant",)), "train", seed=0)
    one = labelled_source(replace(config, labels_per_class=1, classes=("ant",)), "train", seed=0)
    assert (len(source), len(one)) == (10, 1)
    batch = first(labelled.training_batches(one, config, batch_size=4, seed=0), 1)[0]["image"]
    assert not (batch == batch[0]).all()  # one image, cropped in four ways
    test = labelled_source(config, "test", seed=0)
    assert len(test) == 7
    again = [list(labelled.labelled_evaluation_batches(test, config, batch_size=4)) for _ in range(2)]
    same(*again)
    batches = again[0]
    assert [batch["image"].shape for batch in batches] == [(4, 16, 16, 3)] * 2
    assert np.concatenate([batch["mask"] for batch in batches]).tolist() == [True] * 7 + [False]
    images, labels = (np.concatenate([batch[name] for batch in batches])[:7] for name in ("image", "label"))
    assert sorted(numbers(images)) == list(range(30, 37))
    np.testing.assert_array_equal(labels, (np.array(numbers(images)) - 30) % 3)


def test_streamed_and_held_test_images_may_differ_in_size(config):
    config = replace(config, stream=True, resolution=8)
    train, test = (labelled_source(config, split, seed=0) for split in ("train", "test"))
    assert config.test_side == 16
    assert first(labelled.training_batches(train, config, batch_size=2, seed=0), 1)[0]["image"].shape == (2, 8, 8, 3)
    assert next(labelled.labelled_evaluation_batches(test, config, batch_size=2))["image"].shape == (2, 16, 16, 3)
    assert replace(config, stream=False).test_side == 8


@pytest.mark.parametrize("stream", [False, True])
def test_a_given_image_is_fitted_as_those_of_the_test_set(config, stream):
    config = replace(config, stream=stream)
    test = labelled_source(config, "test", seed=0)
    batches = list(labelled.labelled_evaluation_batches(test, config, batch_size=7))
    files = sorted(Path(config.test_dir).rglob("*.jpg"))
    for file, image in zip(files, batches[0]["image"], strict=True):
        with Image.open(file) as opened:
            np.testing.assert_array_equal(labelled.fitted(opened, config), image)
    grey = labelled.fitted(Image.new("L", (50, 20), 99), config)
    assert (grey == 99).all()
    assert grey.shape == (16, 16, 3)


@pytest.mark.parametrize("stream", [False, True])
def test_some_classes_numbered_as_they_are_named(config, stream):
    config = replace(config, stream=stream, classes=("cat", "ant"))
    for split, count in (("train", 20), ("test", 5)):
        source = labelled_source(config, split, seed=0)
        assert source.class_names == ("cat", "ant")
        assert len(source) == count
        batch = next(labelled.labelled_evaluation_batches(source, config, batch_size=count))
        classes = np.array(numbers(batch["image"])) % 3  # 0 for ant, 2 for cat
        np.testing.assert_array_equal(batch["label"], np.where(classes == 2, 0, 1))
    with pytest.raises(UserError, match="there is no class 'dog', only ant, bee, cat"):
        labelled_source(replace(config, classes=("cat", "dog")), "train", seed=0)


@pytest.mark.parametrize("stream", [False, True])
def test_few_labels_are_nested_balanced_and_only_of_the_training_split(config, stream):
    config = replace(config, stream=stream)
    few = lambda count, seed: labelled_source(replace(config, labels_per_class=count), "train", seed=seed)
    chosen = lambda source: set(numbers([labelled.fitted(Image.fromarray(r["image"]), replace(config, stream=False))
                                         for r in map(source.__getitem__, range(len(source)))]))  # fmt: skip
    two, five = few(2, 0), few(5, 0)
    assert np.bincount(labels_of(two)).tolist() == [2, 2, 2]
    assert chosen(two) < chosen(five)
    assert chosen(few(2, 0)) == chosen(two) != chosen(few(2, 1))
    assert len(labelled_source(replace(config, labels_per_class=2), "test", seed=0)) == 7
    with pytest.raises(UserError, match=r"class 0 \(ant\) has 10 samples, fewer than the requested 11"):
        few(11, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_damaged_files_are_left_out_with_a_count_on_request(tmp_path, capsys, stream):
    fill(tmp_path, 30)
    for name in ("ant/003.jpg", "cat/005.jpg"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-200])
    config = LabelledConfig(name="folder", dir=tmp_path, resolution=16, test_resolution=16, test_resize=24)
    config = replace(config, stream=stream, skip_damaged=True)
    train, test = (labelled_source(config, split, seed=0) for split in ("train", "test"))
    assert len(train) + len(test) == 28
    said = capsys.readouterr().err
    assert said.count("2 of 30 images cannot be decoded and are left out: ") == 1  # once for both
    assert "ant/003.jpg (" in said
    assert "cat/005.jpg (" in said
    for source in (train, test):
        seen = [
            n for b in labelled.labelled_evaluation_batches(source, config, batch_size=4) for n in numbers(b["image"])
        ]
        assert not {3, 5} & set(seen)

    def read_all():
        source = labelled_source(replace(config, skip_damaged=False), "train", seed=0)
        return list(labelled.labelled_evaluation_batches(source, config, batch_size=9))

    with pytest.raises(UserError, match=r"003\.jpg cannot be decoded|005\.jpg cannot be decoded"):
        read_all()


@pytest.mark.parametrize("stream", [False, True])
def test_folders_that_disagree(tmp_path, stream):
    config = LabelledConfig(
        name="folder", dir=fill(tmp_path / "train", 12), resolution=8, test_resolution=8, test_resize=8, stream=stream
    )
    for names, odd, where in (
        (("ant", "bee"), "cat", "train"),
        (("ant", "bee", "cat", "dog"), "dog", "test1"),
        (("ant", "bee", "cow"), "cat", "train"),
    ):
        number = len(list(tmp_path.iterdir())) - 1
        other = replace(config, test_dir=fill(tmp_path / f"test{number}", 12, classes=names))
        assert labelled_source(other, "train", seed=0).class_names == CLASSES
        with pytest.raises(UserError, match=rf"the folders of classes in .* differ: {odd} is only in .*{where}"):
            labelled_source(other, "test", seed=0)
        # classes that both have may be chosen
        both = labelled_source(replace(other, classes=("bee", "ant")), "test", seed=0)
        assert both.class_names == ("bee", "ant")
        # and without training images there is nothing to compare
        elsewhere = replace(other, dir=tmp_path / "elsewhere")
        assert labelled_source(elsewhere, "test", seed=0).class_names == names


def test_invalid_data_is_refused(tmp_path, config):
    for index in range(10):
        picture(index).save(tmp_path / f"{index}.png")
    with pytest.raises(UserError, match=r"the data set folder in .* has no classes to learn"):
        labelled_source(LabelledConfig(name="folder", dir=tmp_path, resolution=8), "train", seed=0)
    with pytest.raises(UserError, match="16 pixels cannot be taken from a shorter side of 12"):
        labelled_source(replace(config, stream=True, test_resize=12), "train", seed=0)


def test_the_shapes_world_is_labelled_by_colour_and_shape():
    train, test = (labelled_source(replace(SHAPES, stream=stream, test_resolution=32, test_resize=32), split, seed=0)
                   for stream, split in ((False, "train"), (True, "test")))  # fmt: skip
    assert (len(train), len(test)) == (40, 2000)
    assert train.class_names == test.class_names == ("red circle", "blue circle", "red star", "blue star")
    assert train.arrays.keys() == {"image", "label"}


@pytest.mark.parametrize(
    ("values", "train", "test"),
    [
        ({"name": "cifar10"}, "cifar10 (train), 32x32", "cifar10 (test), 32x32"),
        (
            {"name": "imagenet2012", "stream": True, "test_split": "validation", "resolution": 160},
            "imagenet2012 (train), random resized crops of 160x160",
            "imagenet2012 (validation), shorter side to 256 (bilinear, antialiased), centre 224x224",
        ),
        ({"name": "shapes"}, "the shapes world (train), 32x32", "the shapes world (test), 32x32"),
        (
            {"name": "folder"},
            "pets, all but a tenth of the images, by name, 32x32",
            "pets, a tenth of the images, by name, 32x32",
        ),
        ({"name": "folder", "test_dir": Path("val")}, "pets, 32x32", "val, 32x32"),
        (
            {"name": "mnist", "classes": ("3", "8"), "labels_per_class": 10},
            "mnist (train), 32x32, classes 3, 8, 10 images per class",
            "mnist (test), 32x32, classes 3, 8",
        ),
    ],
)
def test_the_data_description(values, train, test):
    config = LabelledConfig(dir=Path("pets"), **values)
    assert labelled.description(config, "train") == train
    assert labelled.description(config, "test") == test
