"""COCO's panoptic form: what is written comes back, the rules for odd input, and that the rest is refused."""

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panoptic_files import save, write
from PIL import Image

from vision.data.annotations.cleaning import CleaningRules
from vision.data.annotations.index_masks import VOID
from vision.data.annotations.panoptic import LARGEST_ID, colours_of_ids, ids_of_colours, read_panoptic
from vision.data.content import content_of
from vision.data.detection import AnnotatedSource, DetectionConfig, detection_source, ground_truth, stuff_names
from vision.data.instance_maps import THINGS
from vision.data.shapes.world import ShapesConfig, ShapesSource, render_scenes
from vision.errors import UserError
from vision.ops import rle


def read(folder, **options):
    return read_panoptic(folder / "set.json", folder / "images", **options)


@given(st.lists(st.integers(0, LARGEST_ID), min_size=1, max_size=20))
def test_ids_are_colours(numbers):
    ids = np.array([numbers])
    np.testing.assert_array_equal(ids_of_colours(colours_of_ids(ids)), ids)
    np.testing.assert_array_equal(colours_of_ids(np.array([[1 + 256 * 2 + 65536 * 3]])), [[[1, 2, 3]]])


@st.composite
def images(draw):
    """A map of ids and its (id, category, crowd)."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    numbers = draw(st.lists(st.integers(1, LARGEST_ID), min_size=1, max_size=5, unique=True))
    flat = draw(st.lists(st.sampled_from([0, *numbers]), min_size=height * width, max_size=height * width))
    ids = np.array(flat).reshape(height, width)
    present = [each for each in numbers if (ids == each).any()]
    kinds = [(each, draw(st.sampled_from([1, 3, 92, 187])), draw(st.sampled_from([0, 0, 1]))) for each in present]
    return ids, kinds


@settings(max_examples=40, deadline=None)
@given(st.lists(images(), min_size=1, max_size=3))
def test_what_is_written_is_read(drawn):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, [ids for ids, _ in drawn], [kinds for _, kinds in drawn])
        found = read(folder)
    assert (found.class_names, found.category_ids) == (("cat", "dog"), (1, 3))
    assert (found.stuff_names, found.stuff_ids) == (("sky", "grass"), (92, 187))
    for image, (ids, kinds) in zip(found.images, drawn, strict=True):
        things = [each for each in kinds if each[1] < 90]
        assert image.labels.tolist() == [[1, 3].index(category) for _, category, _ in things]
        assert image.crowd.tolist() == [bool(crowd) for _, _, crowd in things]
        for mask, box, area, (number, _, _) in zip(image.masks, image.boxes, image.area, things, strict=True):
            np.testing.assert_array_equal(rle.decode(mask), ids == number)
            np.testing.assert_array_equal(box, rle.box(mask))
            assert area == (ids == number).sum()
        for label, category in enumerate((92, 187)):
            own = np.isin(ids, [number for number, kind, crowd in kinds if kind == category and not crowd])
            there = dict(zip(image.stuff.labels.tolist(), image.stuff.masks, strict=True))
            assert (label in there) == own.any()
            if own.any():
                np.testing.assert_array_equal(rle.decode(there[label]), own)
    assert found.counts.stuff == sum(len(each.stuff.labels) for each in found.images)


IDS = np.array([[0, 5, 5, 5], [300, 300, 5, 5], [300, 70_000, 70_000, 70_000]])
KINDS = [(5, 92, 0), (300, 1, 0), (70_000, 187, 0)]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, [IDS, IDS[:2] % 300], [KINDS, [(5, 1, 1)]])
    return tmp_path


def changed(folder, change):
    """Write the JSON file after a change of its content."""
    content = copy.deepcopy(write(folder, [IDS, IDS[:2] % 300], [KINDS, [(5, 1, 1)]]))
    change(content)
    save(folder, content)


def segments(content):
    return content["annotations"][0]["segments_info"]


def test_unknown_categories_are_void_and_counted(folder):
    changed(folder, lambda of: segments(of)[0].update(category_id=44))
    found = read(folder)
    assert found.images[0].stuff.labels.tolist() == [1]
    assert found.images[0].labels.tolist() == [0]
    assert "1 of an unknown class (category 44 in 0.png)" in str(found.counts)
    assert "1 instance of 2 classes, 1 region of stuff and 1 crowd" in str(found.counts)


def test_only_chosen_images_are_opened(folder):
    (folder / "set" / "1.png").unlink()
    with pytest.raises(UserError, match=r"^There is no file .*1\.png, in which annotations\[1\] of .*set\.json has"):
        read(folder)
    assert len(read(folder, rules=CleaningRules(first=1)).images) == 1
    # an image that is not there needs no ids
    (folder / "images" / "1.png").unlink()
    assert read(folder).counts.missing == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda of: segments(of).pop(1),
            r"0\.png has pixels of the segment 300, which annotations\[0\] of .* not l",
        ),
        (
            lambda of: segments(of).append({**segments(of)[0], "id": 6}),
            r"0\.png has no pixel of the segment 6, which annotations\[0\] of .* lists",
        ),
        (lambda of: segments(of)[1].update(id=5), r"segments_info\[1\] of .* has the id 5, which an earlier one has"),
        (
            lambda of: segments(of)[1].update(id=0),
            r"segments_info\[1\] of .* has the id 0, and a colour stands for",
        ),
        (lambda of: segments(of)[1].update(id=2**24), r"has the id 16777216, and a colour stands for 1 to 16,777,215"),
        (lambda of: segments(of)[1].update(id="x"), r"has 'id' 'x', which is not an integer"),
        (lambda of: segments(of)[1].update(bbox=[1]), r"segments_info\[1\] of .* has a bbox that is not four numbers"),
        (lambda of: segments(of)[1].pop("bbox"), r"segments_info\[1\] of .* has no 'bbox'"),
        (lambda of: of["annotations"][0].update(segments_info={}), r"has segments_info that is not a list of objects"),
        (
            lambda of: of["annotations"][0].update(file_name="../a.png"),
            r"the file_name '\.\./a\.png', which is",
        ),
        (
            lambda of: of["annotations"][1].update(image_id=7),
            r"annotations\[1\] of .* has the image_id 7, which an",
        ),
        (lambda of: of["annotations"].pop(), r"1 of the 2 images of .* have no annotation, such as that of the id 8"),
        (lambda of: of["images"][0].update(width=5), r"0\.png has 4x3 pixels and its image 5x3: the ids of segments"),
        (lambda of: of["categories"][0].pop("isthing"), r"categories\[0\] of .* has no 'isthing'"),
        (lambda of: of["categories"][0].update(isthing=2), r"has 'isthing' 2, which is neither 0 nor 1"),
        (lambda of: [each.update(isthing=0) for each in of["categories"]], r"has no category of things"),
        (lambda of: [each.update(isthing=1) for each in of["categories"]], r"has no category of stuff"),
        (
            lambda of: of["categories"].extend({"id": 1000 + k, "name": f"s{k}", "isthing": 0} for k in range(253)),
            r"has 255 categories of stuff, more than 254",
        ),
    ],
)
def test_other_input_is_refused(folder, change, words):
    changed(folder, change)
    with pytest.raises(UserError, match=words) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_files_of_ids_that_are_none(folder):
    Image.new("L", (4, 3)).save(folder / "set" / "0.png")
    with pytest.raises(UserError, match=r"0\.png is not in RGB: the colours of COCO's panoptic form are the ids"):
        read(folder)
    (folder / "set" / "0.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"0\.png cannot be"):
        read(folder)
    with pytest.raises(UserError, match=r"There is no folder .*nowhere of PNG files with the ids of segments"):
        read(folder, map_folder=folder / "nowhere")


def test_a_map_of_another_size_than_the_image(folder):
    Image.new("RGB", (5, 3)).save(folder / "set" / "0.png")
    changed(folder, lambda of: None)
    Image.fromarray(colours_of_ids(np.pad(IDS, ((0, 0), (0, 1))))).save(folder / "set" / "0.png")
    with pytest.raises(UserError, match=r"0\.png has 5x3 pixels and its image 4x3"):
        read(folder)
    # a map without any segment has a size too
    changed(folder, lambda of: of["annotations"][1].update(segments_info=[]))
    Image.new("RGB", (9, 9)).save(folder / "set" / "1.png")
    with pytest.raises(UserError, match=r"1\.png has 9x9 pixels and its image 4x2"):
        read(folder)


def test_samples_of_files(folder):
    config = DetectionConfig(
        name="coco",
        dir=folder,
        train_json="set.json",
        test_json="set.json",
        train_images="images",
        test_images="images",
        resolution=8,
        max_boxes=3,
    )
    source = detection_source(config, "train", stuff=True)
    assert stuff_names(config) == ("sky", "grass")
    assert source.class_names == ("cat", "dog")
    sample = source[0]
    classes = np.select([IDS == 5, IDS == 300, IDS == 70_000], [1, THINGS, 2], VOID)
    expected = np.full((8, 8), VOID)
    expected[1:7] = classes.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(sample["semantic"], expected)
    assert sample["semantic"].dtype == np.uint8
    np.testing.assert_array_equal(sample["instances"] == 1, expected == THINGS)
    # a crowd is of things, and no instance to train on
    crowd = source[1]
    np.testing.assert_array_equal((crowd["semantic"] == THINGS)[2:6], (IDS[:2] == 5).repeat(2, 0).repeat(2, 1))
    assert not crowd["instances"].any()
    assert not crowd["valid"].any()
    # stuff is part of what the data is
    before = content_of(AnnotatedSource(read(folder), 8, 3))
    changed(folder, lambda of: segments(of)[0].update(category_id=187))
    assert content_of(AnnotatedSource(read(folder), 8, 3)) != before
    with pytest.raises(UserError, match="data of the form text has no stuff"):
        ground_truth(replace(config, name="text"), "train", stuff=True)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ([(300, 1, 0)], "has stuff, of which panoptic segmentation learns too: list segments of stuff"),
        (
            [(5, 92, 0), (300, 1, 1)],
            r"has an instance to \w+ on: .*set\.json lists no segments of things, or crowds alone",
        ),
    ],
)
def test_a_split_has_things_and_stuff(kept, words, split, tmp_path):
    """Which is said before training, and not by the first evaluation."""
    write(tmp_path, [np.where(np.isin(IDS, [number for number, _, _ in kept]), IDS, 0)], [kept])
    config = DetectionConfig(
        name="coco",
        dir=tmp_path,
        train_json="set.json",
        test_json="set.json",
        train_images="images",
        test_images="images",
        resolution=8,
    )
    with pytest.raises(UserError, match=rf"None of the 1 images of the {split} split {words}"):
        ground_truth(config, split, stuff=True)


@pytest.mark.parametrize("stream", [False, True])
def test_samples_of_scenes(stream):
    shapes = ShapesConfig(resolution=16, max_objects=2, min_size=0.4, backgrounds=("clouds", "solid", "dots"))
    config = DetectionConfig(
        resolution=32, shapes_reduction=2, max_boxes=1, shapes=shapes, shapes_count=12, stream=stream
    )
    source, truth = detection_source(config, "train", stuff=True), ground_truth(config, "train", stuff=True)
    scenes = ShapesSource(config=shapes, size=12).render(np.arange(12))
    assert truth.stuff_names == stuff_names(config) == shapes.backgrounds
    assert len(set(truth.stuff_ids) | set(truth.category_ids)) == 11
    assert len(set(scenes["background"].tolist())) == 3
    for k in range(12):
        kind, around = scenes["background"][k], scenes["instances"][k] == 0
        expected = np.where(around, 1 + kind, THINGS).repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(source[k]["semantic"], expected)
        # things beyond the maximum of boxes are things
        assert set(np.unique(source[k]["instances"])) <= {0, 1}
        (mask,) = truth.images[k].stuff.masks
        np.testing.assert_array_equal(rle.decode(mask), around)
        assert truth.images[k].stuff.labels.tolist() == [kind]


def test_kinds_of_background_are_those_that_are_painted():
    config = ShapesConfig(resolution=16, min_size=0.4, relief=0.0, backgrounds=("stripes", "solid"))
    scenes = render_scenes(config, seed=3, indices=np.arange(30))
    assert scenes["background"].dtype == np.int32
    # objects seldom cover a corner
    corners = scenes["image"][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    varied = (corners != corners[:, :1]).any((1, 2))
    assert set(scenes["background"].tolist()) == {0, 1}
    assert varied[scenes["background"] == 0].mean() > 0.5
    assert varied[scenes["background"] == 1].mean() < 0.3
