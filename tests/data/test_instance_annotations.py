"""Masks in annotations: what the readers make of them, the rules for bad ones, and that others are refused."""

import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vision.data.annotations.box_text import read_box_text
from vision.data.annotations.cleaning import AnnotatedImage, Annotations
from vision.data.annotations.coco import read_coco
from vision.data.annotations.counts import Counts
from vision.data.annotations.voc import read_voc
from vision.errors import UserError
from vision.metrics.segmentation.mask_average_precision import MaskTruth, detected_masks, mask_scores
from vision.ops import rle

WIDTH, HEIGHT = 40, 30


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def as_text(mask):
    return {"size": [HEIGHT, WIDTH], "counts": rle.encode(mask).counts.decode()}


def corners(x0, y0, x1, y1):
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


@pytest.fixture
def coco(tmp_path):
    """Read COCO's JSON with these annotations of one image, whose size is in its header alone unless ``size``."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")

    def read(*annotations, size=False, masks=True):
        image = {"id": 3, "file_name": "a.png", **({"width": WIDTH, "height": HEIGHT} if size else {})}
        listed = [{"image_id": 3, "category_id": 1, **each} for each in annotations]
        names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content = {"images": [image], "annotations": listed, "categories": names}
        (tmp_path / "set.json").write_text(json.dumps(content))
        return read_coco(tmp_path / "set.json", tmp_path / "images", masks=masks)

    return read


@pytest.mark.parametrize("size", [False, True])
def test_masks_of_coco(coco, size):
    found = coco(
        {"bbox": [4, 5, 7, 8], "segmentation": corners(5, 6, 10, 12)},
        {"segmentation": as_text(rectangle(0, 0, 40, 30)), "iscrowd": 1, "area": 7},
        {"segmentation": [*corners(1, 1, 3, 3), *corners(20, 20, 30, 25)], "category_id": 2},
        size=size,
    )
    (image,) = found.images
    # the box is the annotated one where there is one, and an area that is missing is the mask's
    np.testing.assert_array_equal(image.boxes, [[4, 5, 11, 13], [0, 0, 40, 30], [1, 1, 30, 25]])
    np.testing.assert_array_equal(image.area, [30, 7, 54])
    np.testing.assert_array_equal(image.crowd, [False, True, False])
    expected = [rectangle(5, 6, 10, 12), rectangle(0, 0, 40, 30), rectangle(1, 1, 3, 3) | rectangle(20, 20, 30, 25)]
    for mask, made in zip(image.masks, expected, strict=True):
        np.testing.assert_array_equal(rle.decode(mask), made)
    assert str(found.counts) == "1 image with 2 instances of 2 classes and 1 crowd (not trained on)."


def test_they_are_the_truth_of_an_evaluation(coco):
    found = coco({"segmentation": corners(5, 6, 10, 12)}, {"segmentation": corners(20, 6, 30, 12), "category_id": 2})
    assert isinstance(found, MaskTruth)
    masks = found.images[0].masks
    scores = mask_scores(found, [detected_masks(masks, np.float32([0.9, 0.8]), np.int32([0, 1]))])
    assert scores.average_precision == pytest.approx(1.0)
    without = coco({"segmentation": corners(5, 6, 10, 12)}, masks=False)
    with pytest.raises(ValueError, match="the masks of the image 3 were not read"):
        mask_scores(without, [detected_masks(masks[:1], np.float32([0.9]), np.int32([0]))])


def test_without_masks_nothing_of_them_is_read(coco):
    found = coco({"bbox": [4, 5, 7, 8], "segmentation": {"size": [3, 3], "counts": "nonsense"}}, masks=False)
    assert found.images[0].masks is None
    np.testing.assert_array_equal(found.images[0].area, [56])
    assert not found.counts.masks
    assert str(found.counts).startswith("1 image with 1 box of 2 classes.")


def test_instances_without_pixels_are_dropped_and_counted(coco):
    box = [4, 5, 7, 8]
    empty = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    found = coco(
        {"bbox": box, "segmentation": empty},
        {"bbox": box, "segmentation": [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]},
        {"bbox": box, "segmentation": corners(100, 100, 120, 120)},
        {"bbox": box, "segmentation": corners(4, 5, 11, 13)},
        {"bbox": [0, 0, 0, 0], "segmentation": empty},
        {"bbox": box, "segmentation": empty, "category_id": 9},
    )
    (image,) = found.images
    np.testing.assert_array_equal(image.boxes, [[4, 5, 11, 13]])
    assert [rle.area(each) for each in image.masks] == [56]
    counts = found.counts
    assert (counts.without_pixels, counts.without_area, counts.unknown, counts.dropped) == (3, 1, 1, 5)
    assert "Instances dropped: 1 of an unknown class (category 9 in a.png), 1 with a side" in str(counts)
    assert "3 with a mask without pixels in their image" in str(counts)
    assert "Classes without instances: dog." in str(counts)
    with pytest.raises(UserError, match=r"None of the 1 instances .* left: .* 1 with a mask without pixels in it\. "):
        coco({"bbox": box, "segmentation": empty})


def test_duplicates_have_equal_masks_however_they_are_written(coco):
    box = {"bbox": [4, 5, 7, 8]}
    mask = rectangle(4, 5, 11, 13)
    runs = rle.run_lengths_of_text(rle.encode(mask).counts.decode()).tolist()
    padded = {"size": [HEIGHT, WIDTH], "counts": [runs[0] - 1, 0, 1, *runs[1:]]}
    found = coco(
        {**box, "segmentation": as_text(mask)},
        {**box, "segmentation": padded},
        {**box, "segmentation": corners(4, 5, 11, 13)},
        {**box, "segmentation": corners(4, 5, 11, 12)},
        {**box, "segmentation": corners(4, 6, 11, 13)},  # of the same area
        {**box, "segmentation": as_text(mask), "category_id": 2},
    )
    assert found.counts.duplicates == 2
    np.testing.assert_array_equal(found.images[0].area, [56, 49, 49, 56])
    np.testing.assert_array_equal(found.images[0].labels, [0, 0, 0, 1])


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "no segmentation, from which the mask of the instance is read"),
        ([], "no segmentation, from which"),
        ({}, "no segmentation, from which"),
        ([[1, 1, 5, 5]], "a polygon that is not three or more pairs of finite numbers"),
        (
            {"size": [HEIGHT, WIDTH + 1], "counts": [HEIGHT * (WIDTH + 1)]},
            "a mask of 30x41 pixels in an image of 30x40",
        ),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "a mask whose run lengths do not add up to 30x40"),
        ({"size": [HEIGHT, WIDTH], "counts": "01"}, "a mask whose run lengths do not add up to 30x40"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "a mask whose run lengths are not understood"),
        ("square", "a segmentation that is neither polygons nor a mask"),
    ],
)
def test_masks_of_coco_that_are_refused(coco, segmentation, message):
    good = {"bbox": [1, 1, 5, 5], "segmentation": corners(1, 1, 5, 5)}
    bad = {"bbox": [4, 5, 7, 8], "segmentation": segmentation}
    if segmentation is None:
        del bad["segmentation"]
    with pytest.raises(UserError, match=rf"^annotations\[1\] of .*set.json has {message}[^\n]*\.$"):
        coco(good, bad)


_NUMBERS = st.one_of(st.integers(-5, 50), st.floats(), st.none(), st.text(max_size=2), st.booleans())
_SEGMENTATIONS = st.one_of(
    st.lists(st.lists(st.floats(-60, 60), max_size=9), max_size=3),
    st.lists(st.lists(_NUMBERS, max_size=9), max_size=2),
    st.fixed_dictionaries(
        {"size": st.sampled_from([[HEIGHT, WIDTH], [WIDTH, HEIGHT], [0, 1]])},
        optional={"counts": st.one_of(st.lists(st.integers(0, 900), max_size=4), st.text(max_size=9))},
    ),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segmentations=st.lists(_SEGMENTATIONS, min_size=1, max_size=3))
def test_any_segmentation_of_coco_is_read_or_refused(coco, segmentations):
    good = {"bbox": [1, 1, 5, 5], "segmentation": corners(1, 1, 5, 5)}
    try:
        found = coco(good, *({"bbox": [4, 5, 7, 8], "segmentation": each} for each in segmentations))
    except UserError as error:
        assert re.fullmatch(r"annotations\[[123]\] of .*set.json has [^\n]*\.", str(error))  # noqa: PT017 - either is right
    else:
        image = found.images[0]
        assert len(image.masks) == len(image.boxes) == len(segmentations) + 1 - found.counts.dropped
        assert all(rle.area(mask) > 0 for mask in image.masks)


@pytest.fixture
def text(tmp_path):
    """Read one label file of one image."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")

    def read(*lines, masks=True):
        (tmp_path / "labels" / "a.txt").write_text("\n".join(lines))
        return read_box_text(tmp_path / "images", tmp_path / "classes.txt", masks=masks)

    return read


SQUARE = "1 0.25 0.2 0.5 0.2 0.5 0.6 0.25 0.6"
TRIANGLE = "0 0.1 0.1 0.9 0.1 0.1 0.9"


def test_polygons_in_text(text):
    (image,) = text(SQUARE, "", TRIANGLE).images
    np.testing.assert_allclose(image.boxes, [[10, 6, 20, 18], [4, 3, 36, 27]], rtol=1e-6)
    np.testing.assert_array_equal(image.labels, [1, 0])
    np.testing.assert_array_equal(rle.decode(image.masks[0]), rectangle(10, 6, 20, 18))
    assert image.area[0] == 120
    assert image.area[1] == rle.area(image.masks[1]) == pytest.approx(32 * 24 / 2, rel=0.05)


def test_without_masks_a_polygon_is_its_box(text):
    found = text(SQUARE, "0 0.5 0.5 0.5 0.5", TRIANGLE, masks=False)
    (image,) = found.images
    assert image.masks is None
    np.testing.assert_allclose(image.boxes, [[10, 6, 20, 18], [10, 7.5, 30, 22.5], [4, 3, 36, 27]], rtol=1e-6)
    np.testing.assert_allclose(image.area[0], 120, rtol=1e-6)
    assert str(found.counts) == "1 image with 3 boxes of 2 classes."


def test_polygons_go_by_the_rules(text):
    found = text(
        SQUARE,
        SQUARE,
        "1 0.25 0.2 0.5 0.2 0.5 0.6",  # of the same box
        "0 0.5 0.5 1.5 0.5 1.5 0.9 0.5 0.9",
        "0 2 2 3 2 3 3",
        "0 nan 0.1 0.2 0.2 0.3 0.1",
        "0 0.5 0.5 inf 0.5 0.5 0.9",
        "7 0.1 0.1 0.2 0.1 0.2 0.2",
        "0 0.1 0.1 0.5 0.5 0.9 0.9 0.5 0.5",  # a line there and back
    )
    counts = found.counts
    numbers = (counts.duplicates, counts.clipped, counts.without_area, counts.not_finite, counts.unknown)
    assert numbers == (1, 1, 1, 2, 1)
    assert counts.boxes + counts.without_pixels == 4
    assert counts.without_pixels == 1
    np.testing.assert_array_equal(rle.decode(found.images[0].masks[2]), rectangle(20, 15, 40, 27))


@pytest.mark.parametrize(
    ("line", "masks", "message"),
    [
        ("0 0.5 0.5 0.5 0.5", True, "which is a box or two points, but masks are read from 'class x1 y1 x2 y2 x3 y3"),
        ("0 0.1 0.1", True, "but a line must be 'class cx cy w h' or 'class x1 y1 x2 y2 x3 y3 ...': an integer, and"),
        ("0 0.1 0.1", False, "but a line must be"),
        ("0 0.1 0.1 0.2 0.2 0.3", True, "but a line must be"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", False, "but a line must be"),
        ("0 0.1 0.1 0.2 0.2 0.3 x", True, "but a line must be"),
        ("0.5 0.1 0.1 0.2 0.2 0.3 0.3", True, "but a line must be"),
    ],
)
def test_lines_that_are_refused(text, line, masks, message):
    with pytest.raises(UserError, match=rf"^.*a.txt, line 2 is '{line}', {message}[^\n]*\.$"):
        text(SQUARE, line, masks=masks)


def test_a_polygon_far_beyond_its_image(text):
    with pytest.raises(UserError, match=r"a.txt, line 1 has a polygon whose outline is longer than"):
        text("0 0.1 0.1 1e9 0.1 0.1 0.9")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.floats(-2, 3), st.floats(), st.integers(0, 2)), max_size=9), st.booleans())
def test_any_line_is_read_or_refused(text, values, masks):
    line = " ".join(map(str, (0, *values)))
    try:
        found = text(SQUARE, line, masks=masks)
    except UserError as error:
        well_formed = len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)
        why = "line 2 has a polygon whose outline" if well_formed and len(values) > 4 else "line 2 is "
        assert re.match(rf".*a.txt, {why}", str(error))  # noqa: PT017 - either is right
    else:
        assert found.counts.boxes + found.counts.dropped == 2
        assert (found.images[0].masks is not None) == masks


@pytest.fixture
def voc(tmp_path):
    """Read a VOC folder of one image with these pixels in its two masks."""
    for folder in ("JPEGImages", "SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "JPEGImages" / "a.jpg")
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")

    def read(objects, classes, split="val", **options):
        for name, values in (("SegmentationObject", objects), ("SegmentationClass", classes)):
            image = Image.fromarray(values)
            if values.ndim == 2 and values.dtype == np.uint8:
                image.putpalette(np.arange(768, dtype=np.uint8).tobytes())
            image.save(tmp_path / name / "a.png")
        return read_voc(tmp_path, split, masks=True, **options)

    return read


def _pair():
    """A dog and two people, one before the other, with a void border between them."""
    objects, classes = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    for number, label, where in ((1, 15, np.s_[5:20, 3:15]), (2, 15, np.s_[8:25, 18:30]), (3, 12, np.s_[0:4, 30:40])):
        objects[where], classes[where] = number, label
    objects[8:12, 13:19] = classes[8:12, 13:19] = 255
    return objects, classes


@pytest.mark.parametrize("split", ["val", None])
def test_masks_of_voc(voc, split):
    objects, classes = _pair()
    found = voc(objects, classes, split)
    (image,) = found.images
    assert len(found.class_names) == 20
    assert [found.class_names[label] for label in image.labels] == ["person", "person", "dog"]
    assert [found.category_ids[label] for label in image.labels] == [15, 15, 12]
    np.testing.assert_array_equal(image.boxes, [[3, 5, 15, 20], [18, 8, 30, 25], [30, 0, 40, 4]])
    for number, mask in enumerate(image.masks, start=1):
        np.testing.assert_array_equal(rle.decode(mask), objects == number)
    np.testing.assert_array_equal(image.area, [12 * 15 - 8, 12 * 17 - 4, 40])
    assert not image.crowd.any()
    assert str(found.counts).startswith("1 image with 3 instances of 20 classes.")


def test_classes_of_objects_are_the_most_frequent_at_their_pixels(voc):
    objects, classes = _pair()
    classes[5:8, 3:15] = 2  # a fifth of the first object
    classes[8:25, 18:30] = 0  # nothing of the second
    classes[8:12, 20:25] = 255
    found = voc(objects, classes, class_names=tuple("abcdefghijklmno"))
    np.testing.assert_array_equal(found.images[0].labels, [14, 11])
    assert found.counts.unknown_examples == ("no class in a.jpg",)
    some = voc(objects, classes, class_names=tuple("abcdefghijkl"))
    np.testing.assert_array_equal(some.images[0].labels, [11])
    assert some.counts.unknown_examples == ("class 15 in a.jpg", "no class in a.jpg")


def test_numbers_of_objects_may_have_gaps_and_be_many(voc):
    objects, classes = _pair()
    wide = objects.astype(np.uint16)
    wide[objects == 3] = 300
    wide[objects == 2] = 254
    found = voc(wide, classes)
    np.testing.assert_array_equal(found.images[0].boxes, [[3, 5, 15, 20], [18, 8, 30, 25], [30, 0, 40, 4]])


def test_an_image_with_void_alone_is_background(voc, tmp_path):
    objects, classes = _pair()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "JPEGImages" / "b.png")
    void = Image.fromarray(np.where(objects > 0, 255, 0).astype(np.uint8))
    for name in ("SegmentationObject", "SegmentationClass"):
        void.save(tmp_path / name / "b.png")
    found = voc(objects, classes, None)
    assert [image.file.name for image in found.images] == ["a.jpg", "b.png"]
    assert (found.counts.boxes, found.counts.background) == (3, 1)
    assert found.images[1].masks == ()


def test_masks_of_voc_that_are_refused(voc, tmp_path):
    objects, classes = _pair()
    with pytest.raises(UserError, match=r"the masks .*Object/a.png and .*Class/a.png have 40x29 and 40x30 pixels"):
        voc(objects[1:], classes)
    with pytest.raises(
        UserError, match=r"the mask .*Object/a.png has 39x30 pixels and its image .*a.jpg 40x30: a mask"
    ):
        voc(objects[:, 1:].copy(), classes[:, 1:].copy())
    with pytest.raises(UserError, match=r"a mask has the size of its image, which EXIF data may turn by 90 degrees"):
        voc(objects.T.copy(), classes.T.copy())
    with pytest.raises(UserError, match=r"the mask .*SegmentationObject/a.png is in RGB, where numbers are expected"):
        voc(np.stack([objects] * 3, -1), classes)
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nz\n")
    with pytest.raises(UserError, match=r"Segmentation/train.txt, line 2 names 'z', which has no PNG file in Segm"):
        voc(objects, classes, "train")
    (tmp_path / "SegmentationClass" / "a.png").unlink()
    with pytest.raises(UserError, match=r"There is no mask .*SegmentationClass/a.png"):
        read_voc(tmp_path, "val", masks=True)
    (tmp_path / "SegmentationClass" / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"SegmentationClass/a.png cannot be decoded"):
        read_voc(tmp_path, "val", masks=True)
    (tmp_path / "SegmentationObject" / "a.png").unlink()
    with pytest.raises(UserError, match=r"There are no PNG files in .*SegmentationObject"):
        read_voc(tmp_path, "val", masks=True)
    (tmp_path / "SegmentationObject").rmdir()
    with pytest.raises(UserError, match=r"There is no folder .*SegmentationObject; VOC has images in JPEGImages and"):
        read_voc(tmp_path, "val", masks=True)


def test_an_image_of_voc_that_is_missing_is_counted(voc, tmp_path):
    objects, classes = _pair()
    for name in ("SegmentationObject", "SegmentationClass"):
        Image.fromarray(objects).save(tmp_path / name / "gone.png")
    assert voc(objects, classes, None).counts.missing_examples == ("gone.jpg",)


def test_a_set_without_masks_says_so():
    image = AnnotatedImage(
        None,
        4,
        4,
        *(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(0, np.float32)),
        1,
    )
    assert image.masks is None
    assert isinstance(Annotations((image,), (), (), Counts(1, 0, 0, 1, 0)), MaskTruth)


@pytest.mark.parametrize("split", ["train", "val"])
def test_nuclei(real_data, split):
    """Every mask is read; its box is that of the annotation to a pixel, and its area the stated one."""
    folder = real_data / "nuclei"
    found = read_coco(folder / f"{split}.json", folder / "images", masks=True)
    entries = json.loads((folder / f"{split}.json").read_text())["annotations"]
    assert found.counts.boxes + found.counts.crowd + found.counts.dropped == len(entries)
    for image in found.images:
        for mask, box, area in zip(image.masks, image.boxes, image.area, strict=True):
            np.testing.assert_allclose(rle.box(mask), box, atol=1)
            assert rle.area(mask) == area
