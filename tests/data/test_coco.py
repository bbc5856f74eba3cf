import json

import numpy as np
import pytest
from PIL import Image

from vision.data.annotations.cleaning import CleaningRules
from vision.data.annotations.coco import read_coco, read_coco_numbers
from vision.errors import UserError


def content():
    """Two images, four boxes, categories with gaps and out of order."""
    return {
        "info": {"description": "tiny"},
        "images": [
            {"id": 20, "file_name": "b.png", "width": 40, "height": 30},
            {"id": 10, "file_name": "deep/a.png", "width": 20, "height": 50},
        ],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 90, "bbox": [1, 2, 3.5, 4], "area": 9.25, "iscrowd": 0},
            {"id": 2, "image_id": 20, "category_id": 7, "bbox": [0, 0, 40, 30], "area": 600, "iscrowd": 1},
            {"id": 3, "image_id": 10, "category_id": 7, "bbox": [10, 20, 10, 30]},
            {"id": 4, "image_id": 10, "category_id": 18, "bbox": [0, 1, 2, 3], "iscrowd": 0, "segmentation": []},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 7, "name": "train"}, {"id": 18, "name": "dog"}],
    }


@pytest.fixture
def write(tmp_path):
    for name, size in (("b.png", (40, 30)), ("deep/a.png", (20, 50))):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)

    def to_file(text):
        path = tmp_path / "set.json"
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return path, tmp_path / "images"

    return to_file


def test_what_is_read(write):
    found = read_coco(*write(content()))
    assert found.class_names == ("train", "dog", "toothbrush")
    assert found.category_ids == (7, 18, 90)
    first, second = found.images
    assert (first.image_id, first.file.name, first.width, first.height) == (20, "b.png", 40, 30)
    assert (second.image_id, second.file.name, second.width, second.height) == (10, "a.png", 20, 50)
    np.testing.assert_array_equal(second.boxes, [[1, 2, 4.5, 6], [10, 20, 20, 50], [0, 1, 2, 4]])
    np.testing.assert_array_equal(second.labels, [2, 0, 1])
    np.testing.assert_array_equal(second.area, [9.25, 300, 6])
    assert not second.crowd.any()
    np.testing.assert_array_equal(first.crowd, [True])
    np.testing.assert_array_equal(first.area, [600])
    assert (found.counts.boxes, found.counts.crowd, found.counts.background) == (3, 1, 1)


def test_written_out_again_it_is_the_same(write):
    """From corners and labels back to COCO's boxes and category ids."""
    found = read_coco(*write(content()))
    again = {
        (picture.image_id, found.category_ids[label], *box[:2], *(box[2:] - box[:2]))
        for picture in found.images
        for box, label in zip(picture.boxes, picture.labels, strict=True)
    }
    assert again == {(each["image_id"], each["category_id"], *each["bbox"]) for each in content()["annotations"]}


def test_rules_are_applied(write):
    some = content()
    some["annotations"] += [
        {"image_id": 20, "category_id": 1, "bbox": [0, 0, 5, 5]},
        {"image_id": 99, "category_id": 7, "bbox": [0, 0, 5, 5]},
        {"image_id": 20, "category_id": 7, "bbox": [0, 0, float("nan"), 5]},
        {"image_id": 20, "category_id": 7, "bbox": [9, 9, -4, 5]},
    ]
    some["images"].append({"id": 30, "file_name": "gone.png", "width": 4, "height": 4})
    counts = read_coco(*write(some)).counts
    assert (counts.unknown, counts.orphans, counts.not_finite, counts.without_area, counts.missing) == (1, 1, 1, 1, 1)
    assert counts.unknown_examples == ("category 1 in b.png",)
    assert len(read_coco(*write(some), rules=CleaningRules(first=1)).images) == 1


def test_two_categories_of_one_name_get_two_names(write, capsys):
    some = content()
    some["categories"][1]["name"] = "dog"
    path, images = write(some)
    assert read_coco(path, images).class_names == ("dog", "dog (id 18)", "toothbrush")
    assert capsys.readouterr().err == (
        f"{path} has several classes of one name; the later ones are called dog (id 18).\n"
    )
    numbers = read_coco_numbers(path)
    assert (numbers.category("dog"), numbers.category("dog (id 18)")) == (7, 18)


def _without(kind, key):
    some = content()
    del some[kind][0][key]
    return some


def _with(kind, **changes):
    some = content()
    some[kind][0].update(changes)
    return some


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [', "set.json is not JSON: Expecting value: line 1"),
        ("[]", "is a JSON list, but COCO's format is an object"),
        ("{}", "has no 'images', only nothing"),
        ({key: value for key, value in content().items() if key != "annotations"}, "has no 'annotations', only 'info'"),
        ({**content(), "categories": {"7": "cat"}}, "'categories' is not a list of objects"),
        ({**content(), "categories": []}, "has no categories"),
        ({**content(), "images": []}, "has no images"),
        (_without("images", "id"), r"images\[0\] of .*set.json has no 'id', only 'file_name', 'width'"),
        (_without("images", "file_name"), r"images\[0\] .* has no 'file_name'"),
        (_without("categories", "name"), r"categories\[0\] .* has no 'name'"),
        (_without("annotations", "image_id"), r"annotations\[0\] .* has no 'image_id'"),
        (_without("annotations", "category_id"), r"annotations\[0\] .* has no 'category_id'"),
        (_without("annotations", "bbox"), r"annotations\[0\] .* has no 'bbox'"),
        (_with("images", id="20"), r"images\[0\] .* has 'id' '20', which is not an integer"),
        (_with("images", id=10), "has two images of the id 10"),
        (_with("images", width=-2), r"images\[0\] .* has a width of -2, which is not a size"),
        (_with("images", height="30"), "has 'height' '30', which is not an integer"),
        (_with("images", file_name=3), "file_name that is not text: 3"),
        (_with("categories", id=7), "has two categories of the id 7"),
        (_with("annotations", bbox=[1, 2, 3]), r"annotations\[0\] .* bbox that is not four numbers: \[1, 2, 3\]"),
        (_with("annotations", bbox=[1, 2, 3, "4"]), "bbox that is not four numbers"),
        (_with("annotations", bbox=None), "bbox that is not four numbers: None"),
        (_with("annotations", area="9"), "an area that is not a number of square pixels: '9'"),
        (
            {**content(), "annotations": [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1]}]},
            r"None of the 1 annotations .* has the image_id 1, and images have ids such as 20",
        ),
    ],
)
def test_malformed(write, text, message):
    with pytest.raises(UserError, match=message):
        read_coco(*write(text))


def test_files_that_are_not_there(write, tmp_path):
    path, images = write(content())
    with pytest.raises(UserError, match=r"gone.json cannot be read: No such file"):
        read_coco(tmp_path / "gone.json", images)
    with pytest.raises(UserError, match=f"There is no folder {tmp_path / 'gone'} of images"):
        read_coco(path, tmp_path / "gone")
    (tmp_path / "bytes.json").write_bytes(b'{"images": "\xff\xfe"}')
    with pytest.raises(UserError, match=r"bytes.json is not JSON"):
        read_coco(tmp_path / "bytes.json", images)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"None of the 2 images .* is in {tmp_path / 'empty'}"):
        read_coco(path, tmp_path / "empty")


@pytest.mark.parametrize(("split", "images", "boxes"), [("train", 205, 2804), ("val", 87, 1137), ("test", 72, 945)])
def test_blood_cells(split, images, boxes, real_data):
    """The rules drop and clip nothing here: no box is outside, small, or duplicated."""
    folder = real_data / "bccd"
    found = read_coco(folder / f"{split}.json", folder / "images")
    counts = found.counts
    assert found.class_names == ("RBC", "WBC", "Platelets")
    assert found.category_ids == (1, 2, 3)
    assert (counts.images, counts.boxes) == (images, boxes)
    assert (counts.dropped, counts.clipped, counts.crowd, counts.background, counts.missing) == (0, 0, 0, 0, 0)
    assert str(counts) == f"{images} images with {boxes} boxes of 3 classes."
    entries = json.loads((folder / f"{split}.json").read_text())["annotations"]
    assert {picture.image_id for picture in found.images} == {entry["image_id"] for entry in entries}
    total = sum(entry["area"] for entry in entries)
    np.testing.assert_allclose(sum(picture.area.sum(dtype=np.float64) for picture in found.images), total, rtol=1e-6)
