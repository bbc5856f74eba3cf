"""Masks of a set that TFDS has prepared: values that begin at 1, void among them, features, what is refused."""

import io
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vision.data.annotations.index_masks import VOID
from vision.data.content import content_of
from vision.data.semantic import SemanticConfig, class_colours, description, semantic_source, unread_source
from vision.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")


def png(array, mode=None):
    file = io.BytesIO()
    image = Image.fromarray(array)
    if mode == "P":
        image.putpalette([9, 9, 9] * 256)
    image.save(file, "PNG")
    file.seek(0)
    return file


def trimap(index):
    """1 everywhere, 2 in the first column, 3 in the last; of a width that differs between images."""
    values = np.ones((4, 5 + index), np.uint8)
    values[:, 0], values[:, -1] = 2, 3
    return values


class Pets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Three pets to train and two to test, with what oxford_iiit_pet has; one mask has a palette."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": image(shape=(None, None, 3)),
                    "grey": image(shape=(None, None, 1)),
                    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                    "segmentation_mask": image(shape=(None, None, 1)),
                    "large": image(shape=(None, None, 1)),
                    "named": tfds.features.LabeledImage(labels=["no", "pet", "edge", "rest"], shape=(None, None, 1)),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(3)), "test": self._generate_examples(range(3, 5))}

    def _generate_examples(self, numbers):
        for i in numbers:
            values = trimap(i)
            pixels = np.full((*values.shape, 3), 10 * i, np.uint8)
            yield (
                i,
                {
                    "image": png(pixels),
                    "grey": png(pixels[..., 0]),
                    "label": i % 2,
                    "segmentation_mask": png(values, "P" if i == 1 else None),
                    "large": png(np.zeros((9, 9), np.uint8)),
                    "named": png(values),
                },
            )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    Pets(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def config(root):
    return SemanticConfig(name="tfds", tfds="pets", dir=root, first=1, height=4, width=9)


def by_width(source):
    """Samples by the number of the image, which their width says."""
    return {int(sample["size"][1]) - 5: sample for sample in map(source.__getitem__, range(len(source)))}


def test_values_from_one_on(config):
    source = semantic_source(config, "train")
    assert source.class_names == ("class 1", "class 2", "class 3")
    samples = by_width(source)
    assert sorted(samples) == [0, 1, 2]
    for index, sample in samples.items():
        width = 5 + index
        np.testing.assert_array_equal(sample["semantic"][:, :width], trimap(index) - 1)
        assert (sample["semantic"][:, width:] == VOID).all()
        assert (sample["image"][:, :width] == 10 * index).all()
    assert class_colours(config) == ()
    assert description(config, "test") == "pets, test (tfds), 4x9"


def test_a_value_of_the_classes_may_be_void(config):
    source = semantic_source(replace(config, void=(3,)), "train")
    assert source.class_names == ("class 1", "class 2")
    np.testing.assert_array_equal(source[0]["semantic"][0, :2], [1, 0])
    assert (by_width(source)[0]["semantic"][:, 4] == VOID).all()


def test_the_truth_has_its_own_size(config):
    source = semantic_source(replace(config, width=4), "test")
    samples = {sample["truth_size"][1] - 5: sample for sample in map(source.__getitem__, range(2))}
    assert samples.keys() == {3, 4}
    assert samples[3]["truth"].shape == (4, 9)
    np.testing.assert_array_equal(samples[3]["truth"][:, :8], trimap(3) - 1)


def test_parts_of_splits_other_features_and_names(config, root):
    part = semantic_source(replace(config, train="train[:2]", image_feature="grey"), "train")
    assert (len(part), part[0]["image"].shape) == (2, (4, 9, 3))
    named = semantic_source(replace(config, mask_feature="named", first=0, void=()), "train")
    assert named.class_names == ("no", "pet", "edge", "rest")
    few = replace(config, overfit_images=1)
    assert [len(semantic_source(few, split)) for split in ("train", "test")] == [1, 1]
    (root / "pets.txt").write_text("pet\nground\nborder\n")
    assert semantic_source(replace(config, classes="pets.txt"), "train").class_names == ("pet", "ground", "border")


def test_it_can_be_streamed_by_worker_processes(config):
    source = semantic_source(replace(config, stream=True), "train")
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[2]["semantic"], source[2]["semantic"])


def test_the_content_names_the_shards_and_the_feature(config):
    one, other = (
        content_of(unread_source(replace(config, mask_feature=feature), "train"))
        for feature in ("segmentation_mask", "grey")
    )
    assert (one.count, other.count) == (3, 3)
    assert one.sha256 != other.sha256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"mask_feature": "image"},
            r"pets has no feature 'image' that is an image of one channel, .* has grey, large, named,",
        ),
        ({"mask_feature": "mask"}, r"pets has no feature 'mask' that is an image of one channel"),
        ({"image_feature": "photo"}, r"pets has no feature 'photo'"),
        ({"test": "val"}, r"no split 'val', it has train \(3 samples\), test"),
        ({"mask_feature": "large", "first": 0}, "the large of sample 0 has 9x9 pixels and its image"),
        (
            {"classes": "two.txt", "first": 0},
            r"the segmentation_mask of sample \d has the value 2 .* classes are 0 to 1",
        ),
        ({"classes": "two.txt", "first": 2}, r"has the value 1 .* classes are 2 to 3 and void is 255"),
        ({"first": 4}, r"the largest value of the masks of .* is 3, and classes are 4 to 258: give the values"),
    ],
)
def test_what_is_refused(config, root, change, said):
    (root / "two.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=said) as error:
        [semantic_source(replace(config, **change), split) for split in ("train", "test")]
    assert "\n" not in str(error.value)


def test_a_set_must_be_named(root):
    with pytest.raises(UserError, match=r"give --data\.tfds, such as oxford_iiit_pet"):
        SemanticConfig(name="tfds", dir=root)
