from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision.data.dataset import DataConfig, load_dataset, open_dataset
from vision.data.shapes.world import ShapesConfig
from vision.errors import UserError

SHAPES = DataConfig(
    name="shapes", shapes=ShapesConfig(shapes=("circle", "star"), colours=("red", "blue")), shapes_count=20
)


def folder_of(root: Path, count: int, *, side: int = 8, classes: int = 2) -> DataConfig:
    for index in range(count):
        folder = root / f"class{index % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side, 3), index, np.uint8)).save(folder / f"{index:03d}.png")
    return DataConfig(name="folder", dir=root, resolution=8)


def test_shapes_are_those_of_their_seed_and_split():
    one = load_dataset(SHAPES, "train", fields=("image", "label"))
    assert (len(one), one.arrays["image"].shape, one.arrays["image"].dtype) == (20, (20, 32, 32, 3), np.uint8)
    assert one.class_names == ("red circle", "blue circle", "red star", "blue star")
    again = load_dataset(SHAPES, "train", fields=("image",))
    np.testing.assert_array_equal(one.arrays["image"], again.arrays["image"])
    assert again.arrays.keys() == {"image"}
    other = load_dataset(SHAPES, "train", seed=1, fields=("image",))
    assert not np.array_equal(one.arrays["image"], other.arrays["image"])
    assert len(open_dataset(SHAPES, "test")) == 2000
    assert not np.array_equal(open_dataset(SHAPES, "test")[0]["image"], one.arrays["image"][0])


def test_a_folder_holds_out_every_tenth_image(tmp_path):
    config = folder_of(tmp_path, 30)
    train, test = (load_dataset(config, split, fields=("image", "label")) for split in ("train", "test"))
    assert (len(train), len(test)) == (27, 3)
    values = [set(part.arrays["image"][:, 0, 0, 0].tolist()) for part in (train, test)]
    assert values[0] | values[1] == set(range(30))
    assert not values[0] & values[1]
    assert train.class_names == test.class_names == ("class0", "class1")
    for part in (train, test):
        np.testing.assert_array_equal(part.arrays["label"], part.arrays["image"][:, 0, 0, 0] % 2)


def test_a_folder_is_resized(tmp_path):
    config = folder_of(tmp_path, 10, side=16)
    assert load_dataset(config, "train", fields=("image",)).arrays["image"].shape == (9, 8, 8, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: None, "at least 10 images"),
        (lambda root: [path.unlink() for path in root.rglob("*.png")], "has no images"),
    ],
)
def test_a_folder_that_is_too_small(tmp_path, change, words):
    config = folder_of(tmp_path, 9)
    change(tmp_path)
    with pytest.raises(UserError, match=words):
        load_dataset(config, "train", fields=("image",))


def test_what_is_not_there_says_so(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        load_dataset(DataConfig(name="folder", dir=tmp_path / "none"), "train", fields=("image",))
    with pytest.raises(UserError, match="cifar10"):
        load_dataset(DataConfig(name="cifar10", dir=tmp_path), "train", fields=("image",))


def test_a_truncated_image_is_named(tmp_path):
    config = folder_of(tmp_path, 12, side=64)
    file = tmp_path / "class1" / "003.png"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"003\.png cannot be decoded"):
        load_dataset(config, "train", fields=("image",))


def test_a_field_that_is_missing_is_named(tmp_path):
    config = folder_of(tmp_path, 10)
    with pytest.raises(UserError, match="the data set folder has no 'mask', only image, label"):
        load_dataset(config, "train", fields=("image", "mask"))
    with pytest.raises(UserError, match="no field 'mask'"):
        load_dataset(SHAPES, "train", fields=("mask",))
