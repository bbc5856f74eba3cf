from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision.data import dataset
from vision.data.dataset import DataConfig, is_held_out, load_dataset, open_dataset
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


def names_of(config, split):
    source = open_dataset(config, split)
    return {source.source.files[index].name for index in source.indices}


def test_a_folder_holds_out_about_a_tenth_of_its_images(tmp_path):
    config = folder_of(tmp_path, 200)
    train, test = (load_dataset(config, split, fields=("image", "label")) for split in ("train", "test"))
    assert len(train) + len(test) == 200
    assert 10 <= len(test) <= 30
    values = [set(part.arrays["image"][:, 0, 0, 0].tolist()) for part in (train, test)]
    assert values[0] | values[1] == set(range(200))
    assert not values[0] & values[1]
    assert train.class_names == test.class_names == ("class0", "class1")
    for part in (train, test):
        np.testing.assert_array_equal(part.arrays["label"], part.arrays["image"][:, 0, 0, 0] % 2)


def test_added_images_move_no_others_between_the_splits(tmp_path):
    config = folder_of(tmp_path, 60)
    before = {split: names_of(config, split) for split in ("train", "test")}
    added = [next(tmp_path.rglob("*.png")).parent / f"a{index}.png" for index in range(9)]
    for path in added:
        path.write_bytes(next(tmp_path.rglob("*.png")).read_bytes())
    dataset._folder.cache_clear()
    after = {split: names_of(config, split) for split in ("train", "test")}
    for split in ("train", "test"):
        assert before[split] <= after[split]
        assert after[split] - before[split] <= {path.name for path in added}


def test_classes_without_a_test_image_are_named(tmp_path, capsys):
    name = next(f"{index}.png" for index in range(100) if not is_held_out(f"rare/{index}.png"))
    config = folder_of(tmp_path, 200)
    (tmp_path / "rare").mkdir()
    (tmp_path / "rare" / name).write_bytes(next(tmp_path.rglob("*.png")).read_bytes())
    open_dataset(config, "train")
    assert capsys.readouterr().err == f"of the classes in {tmp_path} these have no test image: rare\n"


def test_a_folder_is_resized(tmp_path):
    config = folder_of(tmp_path, 60, side=16)
    assert load_dataset(config, "train", fields=("image",)).arrays["image"].shape[1:] == (8, 8, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda root: [
                path.unlink() for path in root.rglob("*.png") if is_held_out(path.relative_to(root).as_posix())
            ],
            "the names of none choose them as test images: add images, or set --data.test-dir",
        ),
        (lambda root: [path.unlink() for path in root.rglob("*.png")], "has no images"),
    ],
)
def test_a_folder_that_is_too_small(tmp_path, change, words):
    config = folder_of(tmp_path, 30)
    change(tmp_path)
    with pytest.raises(UserError, match=words):
        load_dataset(config, "train", fields=("image",))


def test_what_is_not_there_says_so(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        load_dataset(DataConfig(name="folder", dir=tmp_path / "none"), "train", fields=("image",))
    with pytest.raises(UserError, match="cifar10"):
        load_dataset(DataConfig(name="cifar10", dir=tmp_path), "train", fields=("image",))


def test_a_truncated_image_is_named(tmp_path):
    config = folder_of(tmp_path, 60, side=64)
    file = next(path for path in sorted(tmp_path.rglob("*3.png")) if not is_held_out(f"class1/{path.name}"))
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match=f"{file.name} cannot be decoded"):
        load_dataset(config, "train", fields=("image",))


def test_a_field_that_is_missing_is_named(tmp_path):
    config = folder_of(tmp_path, 60)
    with pytest.raises(UserError, match="the data set folder has no 'mask', only image, label"):
        load_dataset(config, "train", fields=("image", "mask"))
    with pytest.raises(UserError, match="no field 'mask'"):
        load_dataset(SHAPES, "train", fields=("mask",))
