"""Cleaning of bad input: each rule with its count and message."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from vision.data.annotations.cleaning import (
    MIN_SIDE,
    CleaningRules,
    RawAnnotation,
    collect,
    open_image,
    rendered_annotations,
)
from vision.errors import UserError

NAMES = ("cat", "dog", "emu")


def stated(file, boxes, labels=None, *, crowd=None, area=None, size=(40, 30), unknown=(), normalised=False):
    labels = [0] * len(boxes) if labels is None else labels
    return RawAnnotation(
        file=file,
        image_id=7,
        size=size,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        labels=np.array(labels, np.int32),
        unknown=unknown,
        crowd=np.array([False] * len(boxes) if crowd is None else crowd, bool),
        area=None if area is None else np.array(area, np.float64),
        normalised=normalised,
    )


@pytest.fixture
def save(tmp_path):
    """Write an image of 40x30 pixels, or of another size."""

    def write(name="a.png", size=(40, 30), **options):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", size, (200, 100, 50)).save(path, **options)
        return path

    return write


@pytest.fixture
def ruled(tmp_path):
    return lambda *items, **options: collect(
        items, class_names=NAMES, category_ids=(3, 5, 8), folder=tmp_path, **options
    )


def test_what_is_right_is_left_as_it_is(save, ruled):
    boxes = [[0, 0, 40, 30], [1.25, 2.5, 3.75, 8], [1, 2, 1.5, 2.5]]
    found = ruled(stated(save(), boxes, [2, 0, 1], crowd=[False, True, False], area=[17, np.nan, np.nan]))
    (picture,) = found.images
    np.testing.assert_array_equal(picture.boxes, np.array(boxes, np.float32))
    np.testing.assert_array_equal(picture.labels, [2, 0, 1])
    np.testing.assert_array_equal(picture.crowd, [False, True, False])
    np.testing.assert_array_equal(picture.area, np.array([17, 2.5 * 5.5, 0.25], np.float32))
    assert (picture.width, picture.height, picture.image_id) == (40, 30, 7)
    assert picture.boxes.dtype == picture.area.dtype == np.float32
    assert picture.labels.dtype == np.int32
    assert found.class_names == NAMES
    assert found.category_ids == (3, 5, 8)
    assert (found.counts.boxes, found.counts.crowd, found.counts.dropped) == (2, 1, 0)
    assert str(found.counts).splitlines() == [
        "1 image with 2 boxes of 3 classes and 1 crowd (not trained on).",
        "Classes without boxes: cat.",
    ]


def test_clipped_to_the_image(save, ruled):
    boxes = [[-3, 5, 10, 35], [5, 5, 40.015, 10], [5, 5, 40.03, 11]]
    found = ruled(stated(save(), boxes, area=[np.nan, 99, np.nan]))
    np.testing.assert_array_equal(found.images[0].boxes, [[0, 5, 10, 30], [5, 5, 40, 10], [5, 5, 40, 11]])
    # The area is that of the clipped box, unless the annotation has one.
    np.testing.assert_array_equal(found.images[0].area, [250, 99, 210])
    assert found.counts.clipped == 2  # boxes outside by rounding are clipped silently
    assert "Clipped to their image: 2 boxes." in str(found.counts)


def test_without_area_in_the_image(save, ruled):
    gone = [
        [50, 5, 60, 10],  # outside
        [39.75, 0, 45, 9],  # less than half a pixel left
        [5, 5, 5, 9],
        [9, 5, 5, 9],  # swapped corners
        [5, 5, 9, 5 + MIN_SIDE - 0.1],
    ]
    found = ruled(stated(save(), [*gone, [5, 5, 9, 5 + MIN_SIDE]]))
    np.testing.assert_array_equal(found.images[0].boxes, [[5, 5, 9, 5.5]])
    np.testing.assert_array_equal(found.images[0].area, [2])
    assert found.counts.without_area == found.counts.dropped == 5
    assert found.counts.clipped == 0
    assert "Boxes dropped: 5 with a side of less than 0.5 pixels in their image." in str(found.counts)


@pytest.mark.parametrize("normalised", [False, True])
def test_not_finite(save, ruled, normalised):
    bad = [[np.nan, 0, 1, 1], [0, 0, np.inf, 1], [0, -np.inf, 1, 1], [0, 0, np.nan, np.inf]]
    found = ruled(stated(save(), [*bad, [0, 0, 1, 1]], normalised=normalised))
    np.testing.assert_array_equal(found.images[0].boxes, [[0, 0, 40, 30] if normalised else [0, 0, 1, 1]])
    assert found.counts.not_finite == found.counts.dropped == 4
    assert "4 with corners that are not finite" in str(found.counts)


def test_exact_duplicates(save, ruled):
    boxes = [[1, 1, 9, 9]] * 5 + [[1, 1, 9, 9.001], [-5, 0, 9, 9], [-9, 0, 9, 9]]
    labels = [0, 1, 0, 0, 0, 0, 2, 2]
    crowd = [False, False, False, True, True, False, False, False]
    found = ruled(stated(save(), boxes, labels, crowd=crowd), stated(save("b.png"), boxes[:1]))
    # Boxes are compared after clipping; a different class, crowd flag or image makes them different.
    np.testing.assert_array_equal(found.images[0].labels, [0, 1, 0, 0, 2])
    np.testing.assert_array_equal(found.images[0].crowd, [False, False, True, False, False])
    assert len(found.images[1].boxes) == 1
    assert found.counts.duplicates == found.counts.dropped == 3
    assert found.counts.clipped == 1
    assert "3 that are exact duplicates" in str(found.counts)


def test_unknown_classes(save, ruled):
    first = stated(save(), [[0, 0, 9, 9]] * 3, [-1, 0, -1], unknown=("gnu", "yak"))
    second = stated(save("b.png"), [[0, 0, 9, 9], [np.nan] * 4], [-1, -1], unknown=("gnu", "owl"))
    found = ruled(first, second)
    assert found.counts.unknown == found.counts.dropped == 4
    assert found.counts.background == 1
    assert len(found.images) == 2
    assert "4 of an unknown class (gnu in a.png, yak in a.png, gnu in b.png, ...)" in str(found.counts)
    with pytest.raises(UserError, match=r"All boxes \(2\) .* \(gnu in b.png, owl in b.png\); .* cat, dog, emu"):
        ruled(second)


def test_images_that_are_missing(save, ruled, tmp_path):
    there, gone = stated(save(), [[0, 0, 9, 9]]), stated(tmp_path / "gone.png", [[np.nan] * 4])
    deep = stated(tmp_path / "no_folder" / "b.png", [])
    found = ruled(gone, there, deep)
    assert [picture.file.name for picture in found.images] == ["a.png"]
    assert found.counts.missing == 2
    assert found.counts.not_finite == 0
    assert "Images left out: 2 not in their folder (gone.png, b.png)." in str(found.counts)
    with pytest.raises(UserError, match=rf"None of the 2 images .* is in {tmp_path}, such as gone.png"):
        ruled(gone, deep)


def test_images_without_boxes_and_classes_without_boxes(save, ruled):
    found = ruled(
        stated(save("a.png"), []),
        stated(save("b.png"), [[0, 0, 9, 9]], [1]),
        stated(save("c.png"), [[0, 0, 9, 9]], [2], crowd=[True]),
    )
    assert len(found.images) == 3
    assert found.images[0].boxes.shape == (0, 4)
    assert found.counts.background == 2
    assert found.counts.empty_classes == ("cat", "emu")
    text = str(found.counts)
    assert "3 images with 1 box of 3 classes and 1 crowd" in text
    assert "2 of the images have none and serve as background" in text
    assert "Classes without boxes: cat, emu." in text


def test_boxes_none_of_which_is_left(save, ruled):
    pixels_for_fractions = stated(save(), [[100, 90, 130, 120]], normalised=True)
    with pytest.raises(UserError, match=r"None of the 1 boxes .* 1 without area inside their image"):
        ruled(pixels_for_fractions)


def test_orphans_are_reported(save, ruled):
    found = ruled(stated(save(), [[0, 0, 9, 9]]), orphans=2)
    assert "Boxes dropped: 2 of images that are not listed." in str(found.counts)


def test_fractions_and_sizes_from_headers(save, ruled):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees: 40x30 is shown as 30x40
    upright, turned = save("a.png"), save("b.jpg", exif=exif)
    found = ruled(*(stated(each, [[0.5, 0.1, 1, 1]], size=None, normalised=True) for each in (upright, turned)))
    np.testing.assert_allclose(found.images[0].boxes, [[20, 3, 40, 30]])
    np.testing.assert_allclose(found.images[1].boxes, [[15, 4, 30, 40]])
    assert (found.images[1].width, found.images[1].height) == (30, 40)


@pytest.mark.parametrize("size", [None, (40, 30)])
def test_damaged_files(save, ruled, tmp_path, size):
    (tmp_path / "text.png").write_text("not an image")
    whole = save("whole.jpg", (400, 300)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    items = [
        stated(tmp_path / "text.png", [[0, 0, 1, 1]], size=size),
        stated(tmp_path / "cut.jpg", [[0, 0, 1, 1]], size=size and (400, 300)),
        stated(save("large.png", (80, 60)), [[0, 0, 1, 1]]),
        stated(save(), [[0, 0, 1, 1]], size=size),
    ]
    found = ruled(*items, rules=CleaningRules(skip_damaged=True))
    assert [picture.file.name for picture in found.images] == ["a.png"]
    assert found.counts.damaged == 3
    text = str(found.counts)
    assert "Images left out: 3 damaged (text.png: cannot identify" in text
    assert "large.png: it has 80x60 pixels, but its annotation says 40x30" in text
    with pytest.raises(UserError, match=r"None of the 2 images .* can be used \(text.png: "):
        ruled(*items[:2], rules=CleaningRules(skip_damaged=True))
    if size is None:
        with pytest.raises(UserError, match=r"text\.png cannot be used \(cannot identify"):
            ruled(*items)
    else:
        assert len(ruled(*items).images) == 4


def test_the_first_few_that_are_there(save, ruled, tmp_path):
    items = [
        stated(tmp_path / "gone.png", []),
        stated(save("a.png"), [[0, 0, 9, 9]]),
        stated(save("b.png"), [[0, 0, 9, 9], [0, 0, 0, 0]], [1, 1]),
        stated(save("c.png"), [[0, 0, 9, 9], [np.nan] * 4], [2, 2]),
    ]
    found = ruled(*items, rules=CleaningRules(first=2))
    assert [picture.file.name for picture in found.images] == ["a.png", "b.png"]
    # Counts are of only these, except for missing images.
    assert (found.counts.boxes, found.counts.without_area, found.counts.not_finite, found.counts.missing) == (
        2,
        1,
        0,
        1,
    )
    assert len(ruled(*items, rules=CleaningRules(first=9)).images) == 3
    with pytest.raises(UserError, match="must not be negative, got -1"):
        ruled(*items, rules=CleaningRules(first=-1))


def test_nothing_at_all(ruled):
    with pytest.raises(UserError, match="lists no images"):
        ruled()


def test_every_line_of_the_counts(save, ruled):
    """Every line at once: each number of `Counts` except the examples is in it."""
    found = ruled(stated(save(), [[0, 0, 9, 9]]))
    numbers = {
        each.name: 100 + place
        for place, each in enumerate(dataclasses.fields(found.counts))
        if each.type in (int, "int")
    }
    text = str(dataclasses.replace(found.counts, **numbers))
    assert len(numbers) == 16
    for name, number in numbers.items():
        assert str(number) in text, name


def test_rendered_images_need_no_rules(save, ruled):
    pictures = ruled(stated(save(), [[0, 0, 9, 9]])).images
    found = rendered_annotations(pictures, NAMES)
    assert found.images is pictures
    assert found.category_ids == (1, 2, 3)
    assert str(found.counts).startswith("1 image with 1 box of 3 classes.")


def test_the_stated_size_tells_the_orientation(tmp_path):
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90 degrees, clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(open_image(tmp_path / "a.png", (40, 30)), pixels)
    np.testing.assert_array_equal(open_image(tmp_path / "a.png", (30, 40)), np.rot90(pixels, -1))
    exif[0x0112] = 3  # upside down: the size is ambiguous, so EXIF is applied
    Image.fromarray(pixels).save(tmp_path / "b.png", exif=exif)
    np.testing.assert_array_equal(open_image(tmp_path / "b.png", (40, 30)), np.rot90(pixels, 2))
    with pytest.raises(UserError, match=r"a.png cannot be used .it has 30x40 pixels, but its annotation says 40x31"):
        open_image(tmp_path / "a.png", (40, 31))


def test_a_image_of_any_kind_is_opened_in_rgb(tmp_path):
    Image.new("L", (4, 3), 7).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(open_image(tmp_path / "grey.png", (4, 3)), np.full((3, 4, 3), 7, np.uint8))
    with pytest.raises(UserError, match=r"gone.png cannot be used"):
        open_image(tmp_path / "gone.png", (4, 3))
