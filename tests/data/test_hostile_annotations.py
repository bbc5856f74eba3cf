"""Annotations of every kind that somebody may have: read as meant, or refused in one sentence with file and entry."""

import json
import warnings
from dataclasses import replace

import hostile_annotations
import numpy as np
import pytest
from hostile_inputs import outcome
from PIL import Image

from vision.data.annotations.box_text import class_list, read_box_text
from vision.data.annotations.coco import read_coco
from vision.data.annotations.fields import MAX_BYTES
from vision.data.annotations.voc import read_voc
from vision.data.detection import DetectionConfig, ground_truth
from vision.errors import UserError


def test_mutated_files_are_read_or_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [outcome(hostile_annotations.read, 1, index) for index in range(500)]
    assert [one for one in found if one.ending == "failed"] == []
    assert {one.kind for one in found if one.ending == "read"} == set(hostile_annotations.KINDS)
    assert sum(one.ending == "refused" for one in found) > 200


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in ("a.png", "deep/b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(folder / name)
    return folder


def content():
    return {
        "images": [{"id": 3, "file_name": "a.png", "width": 40, "height": 30}, {"id": 5, "file_name": "deep/b.png"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 1, "bbox": [1, 2, 8.5, 9], "area": 70, "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 7, "bbox": [5, 6, 10, 20]},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


@pytest.fixture
def coco(tmp_path, images):
    """Read COCO's JSON with some fields changed: (kind, place, fields) -> annotations."""

    def read(kind="images", place=0, *, without=(), **fields):
        some = content()
        some[kind][place].update(fields)
        for key in without:
            del some[kind][place][key]
        (tmp_path / "set.json").write_text(json.dumps(some))
        return read_coco(tmp_path / "set.json", images)

    return read


HUGE = 10**400


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("annotations", {"iscrowd": "0"}, "has 'iscrowd' '0', which is neither 0 nor 1"),
        ("annotations", {"iscrowd": 2}, "has 'iscrowd' 2, which is neither"),
        ("annotations", {"iscrowd": [0]}, r"has 'iscrowd' \[0\], which is neither"),
        ("annotations", {"iscrowd": float("nan")}, "has 'iscrowd' nan, which is neither"),
        ("annotations", {"id": "1"}, "has 'id' '1', which is not an integer"),
        ("annotations", {"image_id": "3"}, "has 'image_id' '3', which is not an integer"),
        ("annotations", {"image_id": 3.5}, "has 'image_id' 3.5, which is not an integer"),
        ("annotations", {"image_id": True}, "has 'image_id' True, which is not an integer"),
        ("annotations", {"image_id": float("inf")}, "has 'image_id' inf, which is not an integer"),
        ("annotations", {"category_id": HUGE}, r"has 'category_id' 1000+\.\.\.0+, which is not an integer"),
        ("annotations", {"category_id": None}, "has 'category_id' None, which is not an integer"),
        ("annotations", {"bbox": [0, 0, HUGE, 1]}, r"has a bbox that is not four numbers: \[0, 0, 1000+"),
        ("annotations", {"bbox": [0, 0, True, 1]}, "has a bbox that is not four numbers"),
        ("annotations", {"bbox": {"x": 1}}, "has a bbox that is not four numbers: {'x': 1}"),
        ("annotations", {"bbox": [[1, 2, 3, 4]]}, "has a bbox that is not four numbers"),
        ("annotations", {"area": float("nan")}, "has an area that is not a number of square pixels: nan"),
        ("annotations", {"area": -1}, "has an area that is not a number of square pixels: -1"),
        ("annotations", {"area": HUGE}, "has an area that is not a number of square pixels: 1000"),
        ("images", {"id": None}, "has 'id' None, which is not an integer"),
        ("images", {"width": "40"}, "has 'width' '40', which is not an integer"),
        ("images", {"height": 30.5}, "has 'height' 30.5, which is not an integer"),
        ("images", {"height": -30}, "has a height of -30, which is not a size"),
        ("images", {"height": 2**31}, "has a height of 2147483648, which is not a size"),
        ("images", {"file_name": ["a.png"]}, r"has a file_name that is not text: \['a.png'\]"),
        ("images", {"file_name": "/etc/passwd"}, "has the file_name '/etc/passwd', which is not inside the folder"),
        ("images", {"file_name": "deep/../../a.png"}, "has the file_name .*, which is not inside the folder"),
        ("images", {"file_name": ""}, "has the file_name '', which is not inside the folder"),
        ("images", {"file_name": "x" * 300}, "has the file_name 'xxx.*', which no file can have"),
        ("images", {"file_name": "x/" * 1200 + "a"}, "has the file_name 'x/x.*', which no file can have"),
        ("images", {"file_name": "a\0.png"}, "has the file_name .*, which no file can have"),
        ("images", {"file_name": "\ud800.png"}, "has the file_name .*, which no file can have"),
        ("categories", {"id": 1.5}, "has 'id' 1.5, which is not an integer"),
        ("categories", {"name": 5}, "has a name that is not text: 5"),
        ("categories", {"name": " "}, "has a class name without a character"),
        ("categories", {"name": "a\nb"}, r"has a class name with the character U\+000A \('a\\nb'\)"),
        ("categories", {"name": "a\u2028b"}, r"has a class name with the character U\+2028"),
        ("categories", {"name": "a\ud800b"}, r"has a class name with the character U\+D800"),
        ("categories", {"name": "x" * 999}, "has a class name of 999 characters"),
    ],
)
def test_fields_of_coco_that_are_refused(coco, kind, fields, message):
    with pytest.raises(UserError, match=rf"^{kind}\[0\] of .*set.json {message}") as caught:
        coco(kind, **fields)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_whole_floats_are_integers(coco):
    for kind, fields in (
        ("images", {"id": 3.0, "width": 40.0}),
        ("annotations", {"image_id": 3.0, "category_id": 1.0, "iscrowd": 0.0}),
        ("categories", {"id": 1.0}),
    ):
        found = coco(kind, **fields)
        assert [type(picture.image_id) for picture in found.images] == [int, int]
        assert found.category_ids == (1, 7)
        assert found.counts.boxes == 2
    assert coco("annotations", iscrowd=True).counts.crowd == 1
    assert coco("annotations", iscrowd=None).counts.crowd == 0


@pytest.mark.parametrize("unknown", [-1, 0, None])
def test_a_size_that_is_unknown_is_read_from_the_image(coco, unknown):
    found = coco(width=unknown, height=unknown)
    assert [(each.width, each.height) for each in found.images] == [(40, 30)] * 2
    assert coco(width=unknown).images[0].width == 40


def test_corners_that_are_not_finite_are_counted(coco):
    assert coco("annotations", bbox=[0, 0, float("inf"), 5]).counts.not_finite == 1
    assert coco("annotations", bbox=[1e308, 0, 1e308, 5]).counts.not_finite == 1


POLYGONS = [[10, 10, 60, 10, 10, 70.5], [4, 20, 8, 20, 8, 22]]
MASK = {"size": [30, 40], "counts": [60, 5, 25, 5, 1105]}  # two columns of five pixels


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [(POLYGONS, [4, 10, 40, 30]), (MASK, [2, 0, 4, 5])],
)
@pytest.mark.parametrize("box_is", ["missing", "null", "empty"])
def test_the_box_of_a_segmentation(coco, segmentation, box, box_is):
    fields = {"missing": {"without": ["bbox"]}, "null": {"bbox": None}, "empty": {"bbox": []}}[box_is]
    found = coco("annotations", segmentation=segmentation, **fields)
    np.testing.assert_array_equal(found.images[0].boxes, [box])
    # a box that is there counts
    np.testing.assert_array_equal(coco("annotations", segmentation=segmentation).images[0].boxes, [[1, 2, 9.5, 11]])


def test_run_lengths_as_text_have_the_box_of_plain_ones(coco):
    from pycocotools import mask

    rng = np.random.default_rng(0)
    for _ in range(20):
        pixels = np.zeros((30, 40), np.uint8)
        top, left = rng.integers(0, 25), rng.integers(0, 35)
        pixels[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = 1
        pixels *= rng.random(pixels.shape) < 0.8
        pixels[top, left] = 1
        packed = mask.encode(np.asfortranarray(pixels))
        text = {"size": [30, 40], "counts": packed["counts"].decode()}
        flat = pixels.T.reshape(-1).astype(int)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
        plain = {"size": [30, 40], "counts": np.diff(np.concatenate([[0], edges])).tolist()}
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        for each in (text, plain):
            boxes = coco("annotations", segmentation=each, without=["bbox"]).images[0].boxes
            np.testing.assert_array_equal(boxes, [expected])


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("x", "a segmentation that is neither polygons nor a mask: 'x'"),
        ([5, 6, 7, 8, 9, 10], "a polygon that is not three or more pairs of finite numbers: 5"),
        ([[1, 2, 3, 4]], "a polygon that is not three or more pairs"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a polygon that is not three or more pairs"),
        ([[1, 2, 3, 4, 5, float("nan")]], "a polygon that is not three or more pairs"),
        ([[1, 2, 3, 4, 5, HUGE]], "a polygon that is not three or more pairs"),
        ([[1, 2, 3, 4, 5, "6"]], "a polygon that is not three or more pairs"),
        ({"counts": [1200]}, "a mask whose size is not a height and a width in pixels: None"),
        ({"size": [0, 0], "counts": []}, "a mask whose size is not a height and a width"),
        ({"size": [30, 2**40], "counts": []}, "a mask whose size is not a height and a width"),
        ({"size": [30, 40], "counts": [1, 2]}, "a mask whose run lengths do not add up to 30x40"),
        ({"size": [30, 40], "counts": [-1, 1201]}, "a mask whose run lengths do not add up"),
        ({"size": [30, 40], "counts": ["1200"]}, "a mask whose run lengths do not add up"),
        ({"size": [30, 40], "counts": "p"}, "a mask whose run lengths are not understood: 'p'"),
        ({"size": [30, 40], "counts": "o" * 99 + "0"}, "a mask whose run lengths are not understood"),
        ({"size": [30, 40], "counts": "\u2028"}, "a mask whose run lengths are not understood"),
        ({"size": [30, 40]}, "a mask whose run lengths are not understood: None"),
    ],
)
def test_segmentations_that_are_refused(coco, segmentation, message):
    with pytest.raises(UserError, match=rf"^annotations\[0\] of .*set.json has {message}"):
        coco("annotations", segmentation=segmentation, without=["bbox"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"images": ' * 100_000, "nested too deeply"),
        ('{"images": ' + "9" * 5000 + "}", "is not JSON: Exceeds the limit"),
        ('{"images": [1]}', "'images' is not a list of objects"),
        (b"\xff\xfe\x00", "is not JSON"),
    ],
)
def test_json_that_is_refused(tmp_path, images, text, message):
    path = tmp_path / "set.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=rf"annotation {path}.*{message}"):
        read_coco(path, images)


def test_ids_of_annotations_that_repeat_are_reported(coco, tmp_path, capsys):
    assert coco("annotations", 1, id=1).counts.boxes == 2
    said = capsys.readouterr().err
    assert said == (
        f"{tmp_path / 'set.json'} has 1 annotation with the id of an earlier one; each is read, since no id is used.\n"
    )


def test_names_of_classes_are_unique_by_construction(coco, tmp_path, images, capsys):
    found = coco("categories", 1, name="cat")
    assert found.class_names == ("cat", "cat (id 7)")
    (tmp_path / "names").write_text("cat\ncat (id 2)\ncat\n")
    assert class_list(tmp_path / "names") == ("cat", "cat (id 2)", "cat (id 2) (id 2)")
    assert capsys.readouterr().err.count("several classes of one name") == 2


@pytest.fixture
def voc(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "Annotations").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages" / "a.jpg")

    def read(*, head="", name="cat", difficult="0", xmin="1", file="a.xml", encoding="utf-8"):
        box = f"<bndbox><xmin>{xmin}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        thing = f"<object><name>{name}</name><difficult>{difficult}</difficult>{box}</object>"
        text = f"{head}<annotation>{thing}</annotation>"
        (tmp_path / "Annotations" / file).write_bytes(text.encode(encoding))
        return read_voc(tmp_path, None)

    return read


BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": '<?xml version="1.0" encoding="klingon"?>'}, "The annotation .*a.xml cannot be read as XML: "),
        ({"head": '<?xml version="1.0" encoding="shift_jis"?>'}, "The annotation .*a.xml cannot be read as XML: "),
        ({"head": f"<!DOCTYPE a [<!ENTITY e0 'x'>{BOMB}]>", "name": "&e9;"}, "a.xml declares the entity 'e0'"),
        ({"head": "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>", "name": "&x;"}, "declares the entity 'x'"),
        ({"name": "&undefined;"}, "a.xml cannot be read as XML: undefined entity"),
        ({"name": "a&#10;b"}, r"object 1 of the annotation .*a.xml has a class name with the character U\+000A"),
        ({"name": "a\u2028b"}, r"object 1 of the annotation .*a.xml has a class name with the character U\+2028"),
        ({"name": "x" * 999}, "object 1 of the annotation .*a.xml has a class name of 999 characters"),
        ({"difficult": "yes"}, "object 1 of the annotation .*a.xml has difficult 'yes', neither 0 nor 1"),
        ({"xmin": "1_0"}, "object 1 of the annotation .*a.xml has '1_0' instead of a number of pixels"),
        ({"xmin": "9" * 5000}, "None of the 1 boxes .* 1 not finite"),
    ],
)
def test_xml_that_is_refused(voc, options, message):
    with pytest.raises(UserError, match=message) as caught:
        voc(**options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_xml_that_is_read(voc):
    assert voc(head='<?xml version="1.0" encoding="utf-16"?>', encoding="utf-16").class_names == ("cat",)
    assert voc(head='<!DOCTYPE annotation SYSTEM "nowhere.dtd">').class_names == ("cat",)
    assert voc(name="\u2603 snow").class_names == ("\u2603 snow",)


def test_suffixes_of_annotations_in_capitals(tmp_path, voc):
    assert voc(file="a.XML").counts.boxes == 1


def lines(root, text, *, file="a.txt", names="cat\ndog\n"):
    (root / "labels").mkdir(exist_ok=True)
    (root / "labels" / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    (root / "classes.txt").write_text(names)
    return read_box_text(root / "images", root / "classes.txt")


def test_label_files_in_capitals_and_in_linked_folders(tmp_path, images):
    found = lines(tmp_path, "1 0.5 0.5 0.2 0.2", file="a.TXT")
    assert found.counts.boxes == 1
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "b.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "labels" / "deep").symlink_to(tmp_path / "shelf")
    assert lines(tmp_path, "1 0.5 0.5 0.2 0.2", file="a.TXT").counts.boxes == 2
    with pytest.raises(UserError, match=r"a.TXT and .*a.txt are labels of the same image: remove one"):
        lines(tmp_path, "1 0.5 0.5 0.2 0.2")


def test_labels_from_1_are_refused_with_the_cause(tmp_path, images):
    with pytest.raises(UserError, match=r"labels in .*labels go from 1 to 2 where 0 to 1 are expected: subtract 1"):
        lines(tmp_path, "1 0.5 0.5 0.2 0.2\n2 0.5 0.5 0.2 0.2")
    with pytest.raises(UserError, match=r"go from 1 to 2 where 0 to 1 are expected"):
        lines(tmp_path, "2 0.5 0.5 0.2 0.2")
    # a number too large is something else where class 0 occurs
    assert lines(tmp_path, "0 0.5 0.5 0.2 0.2\n2 0.5 0.5 0.2 0.2").counts.unknown == 1
    assert lines(tmp_path, "1 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.3 0.2").counts.boxes == 2


@pytest.mark.parametrize("line", ["1_0 0.5 0.5 1 1", "0 0.5 0.5 1 1_0", "nan 0.5 0.5 1 1", "inf 0 0 1 1", "9" * 6000])
def test_lines_that_are_refused(tmp_path, images, line):
    with pytest.raises(UserError, match=r"a.txt, line 2 is '.*', but a line must be") as caught:
        lines(tmp_path, f"\n{line}")
    assert len(str(caught.value)) < 600


def test_numbers_in_lines(tmp_path, images):
    assert lines(tmp_path, "0.0 0.5 0.5 1 1").counts.boxes == 1
    counts = lines(tmp_path, f"0 0.5 0.5 1 1\n{'9' * 400} 0 0 1 1\n0 nan 0 1 1\n0 1e999 0 1 1").counts
    assert (counts.boxes, counts.unknown, counts.not_finite) == (1, 1, 2)


def test_only_line_feeds_end_a_line(tmp_path, images):
    with pytest.raises(UserError, match=r"classes.txt, line 1 has a class name with the character U\+0085"):
        lines(tmp_path, "0 0.5 0.5 1 1", names="c\u0085t\ndog\n")
    with pytest.raises(UserError, match=r"a.txt, line 1 is .* a line must be"):
        lines(tmp_path, "0 0.5 0.5 1 1\u2028 0 0.5 0.5 1 1")
    assert lines(tmp_path, "0 0.5 0.5 1 1\r1 0.5 0.5 1 1\r\n").counts.boxes == 2


def test_files_that_are_too_large_or_no_text(tmp_path, images):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UserError, match=r"list of classes .*large has more than 64 MiB"):
        class_list(tmp_path / "large")
    with pytest.raises(UserError, match=r"label file .*a.txt cannot be read as text in UTF-8"):
        lines(tmp_path, b"\xff\xfe0\x00")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["text", "coco", "voc"])
def test_a_split_without_boxes_is_refused_with_the_likely_cause(tmp_path, images, voc, split, name):
    box = "0 0.5 0.5 0.2 0.2"
    lines(tmp_path, box)
    empty = {**content(), "annotations": []}
    (tmp_path / "set.json").write_text(json.dumps(empty))
    voc(difficult="1")
    config = DetectionConfig(name=name, dir=tmp_path, train_json="set.json", test_json="set.json", train_names="")
    config = replace(config, test_names="", train_images="images", test_images="images")
    if name == "text":
        assert ground_truth(config, split).counts.boxes == 1
        (tmp_path / "labels" / "a.txt").write_text("")
        config = replace(config, max_boxes=99)  # another configuration, which is not cached
    cause = {
        "text": r"the label files in .*labels are empty",
        "coco": r".*set.json has no annotations, or of crowds alone",
        "voc": r"the XML files in .*Annotations have no objects, or difficult ones alone",
    }[name]
    use = "train" if split == "train" else "evaluate"
    with pytest.raises(UserError, match=rf"^None of the \d images of the {split} split has a box to {use} on: {cause}"):
        ground_truth(config, split)
