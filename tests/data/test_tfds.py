import io
import json
import logging
import pickle
import re
import shutil
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from vision.data.pipeline import batches
from vision.data.source import in_memory
from vision.data.tfds import tfds_source
from vision.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")


def pixels(index, height=5, width=4):
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, quality=95)
    file.seek(0)
    return file


class Zoo(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Ten animals: eight to train, of which number 3 is a grey JPEG, and two to test."""

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.2.0": "Animals."}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "photo": tfds.features.Image(shape=(None, None, 3)),
                    "depth": tfds.features.Image(shape=(None, None, 1)),
                    "heat": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16),
                    "kind": tfds.features.ClassLabel(names=["ant", "bee", "cow"]),
                    "label": np.int64,
                    "weight": np.float32,
                    "number": np.int64,
                    "caption": tfds.features.Text(),
                    "objects": tfds.features.Sequence(
                        {"bbox": tfds.features.BBoxFeature(), "name": tfds.features.Text()}
                    ),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(8)), "test": self._generate_examples(range(8, 10))}

    def _generate_examples(self, numbers):
        for i in numbers:
            grey = i == 3
            yield (
                i,
                {
                    "photo": encoded(pixels(i)[:, :, 0], "JPEG") if grey else encoded(pixels(i)),
                    "depth": encoded(pixels(i)[:, :, 0]),
                    "heat": encoded(257 * pixels(i)[:, :, 0].astype(np.uint16)),
                    "kind": i % 3,
                    "label": 100 + i,
                    "weight": i / 2,
                    "number": i,
                    "caption": f"animal {i}",
                    "objects": [
                        {"bbox": tfds.features.BBox(0.0, 0.0, 1.0, (k + 1) / 4), "name": str(k)} for k in range(i % 3)
                    ],
                },
            )


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    Zoo(data_dir=root, file_format="array_record").download_and_prepare()
    return root


@pytest.fixture
def copy(zoo, tmp_path):
    """A copy to damage, and the prepared directory in it."""
    shutil.copytree(zoo, tmp_path, dirs_exist_ok=True)
    return tmp_path, tmp_path / "zoo" / "1.2.0"


def open_zoo(root, split="train", name="zoo", image_key="photo", label_key="kind"):
    return tfds_source(name, split, data_dir=root, image_key=image_key, label_key=label_key)


def test_records_hold_the_numeric_features(zoo):
    source = open_zoo(zoo)
    assert len(source) == 8
    assert source.class_names == ("ant", "bee", "cow")
    records = {int(record["number"]): record for record in (source[i] for i in range(8))}
    assert sorted(records) == list(range(8))
    for i, record in records.items():
        assert record.keys() == {"image", "label", "depth", "heat", "weight", "number", "objects/bbox"}
        assert record["image"].dtype == np.uint8
        assert record["image"].shape == (5, 4, 3)
        assert record["label"].dtype == np.int32
        assert record["label"].shape == ()
        assert record["label"] == i % 3
        assert record["weight"] == i / 2
        assert record["weight"].dtype == np.float32
        assert record["objects/bbox"].dtype == np.float32
        np.testing.assert_array_equal(record["depth"], pixels(i)[:, :, :1])
        np.testing.assert_array_equal(record["heat"], 257 * pixels(i)[:, :, :1].astype(np.uint16))
        assert record["heat"].dtype == np.uint16
        expected = [[0, 0, 1, (k + 1) / 4] for k in range(i % 3)]
        np.testing.assert_array_equal(record["objects/bbox"], np.reshape(expected, (-1, 4)))
        assert record["objects/bbox"].shape == (i % 3, 4)
        if i != 3:
            np.testing.assert_array_equal(record["image"], pixels(i))
    # The grey one has three equal channels, near to what was compressed.
    assert np.ptp(records[3]["image"], axis=2).max() == 0
    with pytest.raises(IndexError):
        source[8]


def test_another_feature_can_be_the_image(zoo):
    source = open_zoo(zoo, "test", image_key="depth", label_key=None)
    record = {int(source[i]["number"]): source[i] for i in range(2)}[9]
    np.testing.assert_array_equal(record["image"], pixels(9)[:, :, :1])
    assert record["label"] == 109
    assert record["kind"] == 0
    assert source.class_names == ()


def test_names_versions_and_directories(zoo):
    for root, name in ((zoo, "zoo"), (str(zoo), "zoo:1.2.0"), (zoo / "zoo" / "1.2.0", "zoo")):
        assert len(open_zoo(root, name=name)) == 8


def test_the_newest_version_is_taken(copy):
    root, directory = copy
    for version in ("1.10.0", "1.9.0"):
        shutil.copytree(directory, directory.parent / version)
        description = json.loads((directory / "dataset_info.json").read_text())
        (directory.parent / version / "dataset_info.json").write_text(json.dumps({**description, "version": version}))
    (directory.parent / "1.10.0" / "zoo-train.array_record-00000-of-00001").unlink()
    with pytest.raises(UserError, match=r"1\.10\.0/zoo-train.* is missing"):
        open_zoo(root)
    assert len(open_zoo(root, name="zoo:1.9.0")) == 8


def test_parts_of_splits(zoo):
    whole = [int(open_zoo(zoo)[i]["number"]) for i in range(8)]
    part = open_zoo(zoo, "train[25%:50%]")
    assert [int(part[i]["number"]) for i in range(len(part))] == whole[2:4]
    assert len(open_zoo(zoo, "train+test")) == 10
    assert len(open_zoo(zoo, "train[:25%]+test[:1]")) == 3


def test_a_pickled_source_opens_the_same(zoo):
    source = open_zoo(zoo, "train[3:]")
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == 5
    np.testing.assert_array_equal(again[4]["image"], source[4]["image"])


def test_it_feeds_the_pipeline(zoo):
    def fixed(record, rng):
        return {"image": record["image"], "number": record["number"]}

    stream = batches(open_zoo(zoo), batch_size=4, seed=0, transform=fixed)
    numbers = np.concatenate([next(stream)["number"], next(stream)["number"]])
    stream.close()
    assert sorted(numbers.tolist()) == list(range(8))
    with pytest.raises(UserError, match=r"Sample \d has .*objects/bbox float32 .*where sample 0 has"):
        in_memory(open_zoo(zoo))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "farm"},
            r"holds no data set farm, it has zoo; prepare it: tfds build farm --file_format=array_record",
        ),
        ({"name": "cifar10"}, r"prepare it: python -m vision.data.cifar10 --data-dir DIR"),
        ({"name": "zoo:2.0.0"}, r"holds no version 2.0.0, it has 1.2.0"),
        ({"split": "val"}, r"no split 'val', it has train \(8 samples\), test \(2 samples\)"),
        ({"split": "train+val[:5]"}, r"no split 'val'"),
        ({"split": ""}, r"no split ''"),
        (
            {"split": "train[:"},
            r"Split 'train\[:' of zoo cannot be understood .* there are train \(8 samples\)",
        ),
        ({"split": "train[8:]"}, r"Split 'train\[8:\]' .* holds no samples"),
        (
            {"image_key": "image"},
            r"no feature 'image', it has caption, depth, .*; choose one with image_key\.",
        ),
        ({"label_key": "class"}, r"no feature 'class', it has .*; choose one with label_key, or None"),
        ({"image_key": "weight"}, r"'weight' of zoo is not an 8-bit image"),
        ({"image_key": "heat"}, r"'heat' of zoo is not an 8-bit image"),
        ({"label_key": "weight"}, r"'weight' of zoo is not a class number"),
        ({"label_key": "caption"}, r"'caption' of zoo is not a class number"),
    ],
)
def test_what_is_not_there_is_named(zoo, arguments, message):
    with pytest.raises(UserError, match=message):
        open_zoo(zoo, **arguments)


def test_directories_that_hold_something_else(zoo, tmp_path):
    with pytest.raises(UserError, match=r"There is no directory .*absent to read zoo from; prepare it: tfds build"):
        open_zoo(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds no data set zoo, it has no directories"):
        open_zoo(tmp_path)
    with pytest.raises(UserError, match=r"1\.2\.0 holds zoo, not farm"):
        open_zoo(zoo / "zoo" / "1.2.0", name="farm")
    (tmp_path / "zoo" / "large").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no version of zoo, it has large; give one of its configurations as zoo/CONF"):
        open_zoo(tmp_path)
    (tmp_path / "zoo" / "1.0.0").mkdir()
    with pytest.raises(UserError, match=r"zoo is not prepared: .*1\.0\.0 has no dataset_info.json"):
        open_zoo(tmp_path)


def test_another_form_is_named(copy):
    root, directory = copy
    description = json.loads((directory / "dataset_info.json").read_text())
    (directory / "dataset_info.json").write_text(json.dumps({**description, "fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="is in tfrecord form, which needs TensorFlow to read; prepare it again"):
        open_zoo(root)


def test_a_damaged_description_is_named(copy):
    root, directory = copy
    (directory / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=r"The description of zoo in .*1\.2\.0 cannot be read"):
        open_zoo(root)


def test_a_missing_file_is_named(copy):
    root, directory = copy
    (directory / "zoo-test.array_record-00000-of-00001").unlink()
    assert len(open_zoo(root, "train")) == 8
    with pytest.raises(
        UserError, match=r"zoo-test.array_record.* is missing \(1 of the 2 files of split 'train\+test'\)"
    ):
        open_zoo(root, "train+test")


@pytest.mark.parametrize("size", [0, 100, 65536, 131071])
def test_a_truncated_file_is_named(copy, size):
    root, directory = copy
    file = directory / "zoo-test.array_record-00000-of-00001"
    whole = file.read_bytes()
    assert len(whole) == 131072
    file.write_bytes(whole[:size])
    assert len(open_zoo(root, "train")) == 8
    with pytest.raises(
        UserError, match=r"zoo-test.array_record.* is damaged: it has 0 of 2 samples.*; copy it or prep"
    ):
        open_zoo(root, "train+test")


def test_a_flipped_bit_is_named(copy):
    root, directory = copy
    file = directory / "zoo-test.array_record-00000-of-00001"
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(b"animal 8")] ^= 1
    file.write_bytes(damaged)
    source = open_zoo(root, "train+test")
    assert source[7]["image"].shape == (5, 4, 3)
    unreadable = []
    for index in (8, 9):
        try:
            source[index]
        except UserError as error:
            unreadable.append(str(error))
    assert len(unreadable) == 1
    assert re.search(r"zoo-test.array_record.* is damaged or missing \(.*\); copy or prepare it again", unreadable[0])


def test_harmless_noise_is_silenced_and_the_rest_is_not(zoo, caplog):
    open_zoo(zoo)
    logger = logging.getLogger("absl")
    with caplog.at_level(logging.INFO):
        logger.error("File %s was created with group size %s. Grain requires group size 1", "x", "64")
        logger.error("File %s is on fire", "x")
    assert [record.getMessage() for record in caplog.records if "File" in record.getMessage()] == ["File x is on fire"]
