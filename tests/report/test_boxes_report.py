"""Images with boxes: frames at the boxes, tags inside the image without overlap, crops that contain their box."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.report.boxes import ImageWithBoxes, boxes_sheet, class_colours, context, image_with_boxes

NAMES = ("ant", "bee", "cat")
GREY = 90


def marked(height=200, width=400, found=(), labels=(), scores=(), true=(), true_labels=(), caption=()):
    array = lambda values, kind: np.array(values, kind)
    return ImageWithBoxes(
        image=np.full((height, width, 3), GREY, np.uint8),
        predicted=array(found, np.float32).reshape(-1, 4),
        predicted_labels=array(labels, np.int32),
        scores=array(scores, np.float32),
        true=array(true, np.float32).reshape(-1, 4),
        true_labels=array(true_labels, np.int32),
        caption=caption,
    )


def is_colour(picture, colour):
    return np.all(picture == np.asarray(colour, np.uint8), axis=-1)


@pytest.mark.parametrize("classes", [1, 3, 7, 8, 20, 80, 1000])
def test_classes_have_colours_that_differ(classes):
    colours = class_colours(classes)
    assert colours.shape == (classes, 3)
    assert len({tuple(each) for each in colours.tolist()}) == min(classes, len(np.unique(colours, axis=0)))
    if classes <= 80:
        assert len(np.unique(colours, axis=0)) == classes
    if classes <= 8:
        far = np.abs(colours[:, None].astype(int) - colours[None]).sum(-1) + 999 * np.eye(classes, dtype=int)
        assert far.min() > 60


def test_a_frame_is_at_the_first_and_last_pixels_of_its_box():
    colour = class_colours(3)[1]
    picture = image_with_boxes(marked(found=[[50, 60, 150, 160]], labels=[1], scores=[0.5]), NAMES)
    assert picture.shape == (200, 400, 3)
    frame = is_colour(picture, colour)
    for edge in (frame[60, 50:150], frame[159, 50:150], frame[60:160, 50], frame[60:160, 149]):
        assert edge.all()
    # the background is unchanged inside and outside, except for the tag above
    assert (picture[64:156, 54:146] == GREY).all()
    assert (picture[161:] == GREY).all()
    assert (picture[:, 152:] == GREY).all()
    assert (picture[:35] == GREY).all()
    assert frame[40:60, 50:110].mean() > 0.4


def test_no_detections_leave_the_image_as_it_is():
    one = marked()
    np.testing.assert_array_equal(image_with_boxes(one, NAMES), one.image)


def test_small_images_are_enlarged_by_a_whole_factor():
    one = marked(20, 30)
    one.image[3, 4] = 255
    picture = image_with_boxes(one, NAMES)
    assert picture.shape == (220, 330, 3)
    assert (picture[33:44, 44:55] == 255).all()
    assert (picture == 255).sum() == 11 * 11 * 3


def test_tags_grow_with_the_image():
    def height(factor):
        box = np.array([[100, 100, 200, 200]]) * factor
        one = marked(400 * factor, 400 * factor, found=box, labels=[0], scores=[0.5])
        rows = is_colour(image_with_boxes(one, NAMES), class_colours(3)[0]).sum(1)
        return np.sum(rows[: 100 * factor] > 0)

    assert 10 < height(1) < 20
    assert height(8) == pytest.approx(8 * height(1), rel=0.3)


def test_tags_are_apart_and_give_way():
    """Boxes at one place have tags above, below and inside; when there is no room the number alone, then nothing."""
    box = [100, 60, 200, 120]
    filled = []
    for count in range(1, 8):
        one = marked(found=[box] * count, labels=[0] * count, scores=[0.5] * count)
        filled.append(is_colour(image_with_boxes(one, NAMES), class_colours(3)[0]).sum())
    more = np.diff(filled)
    assert (more[:3] > 300).all()
    assert (more[3:] == 0).all()


@pytest.mark.parametrize("box", [[0, 0, 400, 200], [390, 190, 400, 200], [0, 0, 3, 3], [0, 190, 400, 200]])
def test_tags_at_the_border_are_inside(box):
    colour = class_colours(3)[2]
    frame = image_with_boxes(marked(found=[box], labels=[2], scores=[0.25]), NAMES)
    long = image_with_boxes(marked(found=[box], labels=[0], scores=[0.25]), ("x" * 30,))
    assert is_colour(frame, colour).sum() > 500
    assert is_colour(long, class_colours(1)[0]).sum() > 1500
    # a name that is wider than the image is left out
    wide = image_with_boxes(marked(found=[box], labels=[0], scores=[0.25]), ("x" * 90,))
    assert 200 < is_colour(wide, class_colours(1)[0]).sum() < is_colour(long, class_colours(1)[0]).sum()


@settings(max_examples=30)
@given(corners=st.lists(st.tuples(*[st.floats(-40, 90, width=32)] * 4), max_size=4), height=st.integers(1, 40))
def test_any_box_can_be_plotted(corners, height):
    boxes = [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners]
    labels, scores = [0] * len(boxes), [0.5] * len(boxes)
    one = marked(height, 50, found=boxes, labels=labels, scores=scores, true=boxes, true_labels=labels)
    assert image_with_boxes(one, NAMES).shape == (7 * height, 350, 3)


def test_true_boxes_are_dashed_in_white_and_their_colour():
    picture = image_with_boxes(marked(true=[[50, 60, 150, 160]], true_labels=[1]), NAMES)
    edge = np.concatenate([picture[60, 50:150], picture[159, 50:150], picture[60:160, 50], picture[60:160, 149]])
    white, coloured = is_colour(edge, (255, 255, 255)).mean(), is_colour(edge, class_colours(3)[1]).mean()
    assert white + coloured == 1
    assert 0.4 < white < 0.6
    assert (picture[62:158, 52:148] == GREY).all()


@settings(max_examples=60)
@given(
    corner=st.tuples(st.floats(0, 300, width=32), st.floats(0, 200, width=32)),
    sides=st.tuples(st.floats(0, 400, width=32), st.floats(0, 400, width=32)),
)
def test_a_crop_holds_its_box(corner, sides):
    image = np.arange(200 * 300 * 3).reshape(200, 300, 3).astype(np.uint8)
    low = np.array(corner, np.float32)
    high = np.minimum(low + np.array(sides, np.float32), [300, 200]).astype(np.float32)
    low = np.minimum(low, high)
    crop, (x, y) = context(image, np.concatenate([low, high]))
    height, width = crop.shape[:2]
    np.testing.assert_array_equal(crop, image[int(y) : int(y) + height, int(x) : int(x) + width])
    assert x <= low[0]
    assert y <= low[1]
    assert high[0] <= x + width
    assert high[1] <= y + height
    side = max(48, 2 * float(max(high - low)))
    assert width == pytest.approx(min(side, 300), abs=1)
    assert height == pytest.approx(min(side, 200), abs=1)


def test_a_sheet_has_its_images_in_rows_under_their_headings():
    one = marked(found=[[50, 60, 150, 160]], labels=[1], scores=[0.5], caption=("an image", "of nothing"))
    alone = boxes_sheet([("heading", [one])], NAMES, columns=3, tile=300)
    assert alone.dtype == np.uint8
    assert alone.shape[1] == 480  # wide enough for the legend
    ground = is_colour(alone, (GREY,) * 3)
    rows, columns = np.flatnonzero(ground.sum(1) > 30), np.flatnonzero(ground.sum(0) > 30)
    assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (150, 300)
    four = boxes_sheet([("heading", [one] * 4)], NAMES, columns=3, tile=300)
    assert four.shape == (alone.shape[0] + 150 + 4 + 2 * 17 + 12, 12 + 3 * 312, 3)
    # the legend, and captions of every image
    colours = class_colours(3)
    for colour in colours:
        assert is_colour(four[: rows[0]], colour).sum() > 100
    nothing = boxes_sheet([("first", []), ("second", [one])], NAMES, columns=3, tile=300)
    assert nothing.shape == (alone.shape[0] + 27, 480, 3)
    # of many classes the legend would be longer than the sheet
    many = boxes_sheet([("heading", [one])], [f"class {k}" for k in range(80)], columns=3, tile=300)
    assert many.shape == alone.shape
    tall = boxes_sheet([("heading", [one])], [f"a long name of class {k}" for k in range(20)], columns=3, tile=300)
    assert tall.shape[0] > alone.shape[0] + 60


def test_what_is_long_is_cut_and_nothing_is_at_the_border():
    one = marked(caption=("a caption of very many words " * 9,))
    sheet = boxes_sheet([("a heading of very many words " * 9, [one])], ("x" * 200,), columns=1, tile=400)
    assert sheet.shape[1] == 480
    assert sheet[:, -8:].min() == 255


def test_empty_sheets_are_refused():
    for sections, columns, tile in (([], 3, 100), ([("heading", [])], 0, 100), ([("heading", [])], 3, 0)):
        with pytest.raises(ValueError, match="is empty"):
            boxes_sheet(sections, NAMES, columns=columns, tile=tile)
