"""Pixels of COCO's segmentations: what is read, and that anything else is refused in one sentence."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data.annotations.fields import Entry
from vision.data.annotations.segmentation import LONGEST_OUTLINE, mask_of_segmentation, rle_of_segmentation
from vision.errors import UserError
from vision.ops.rle import encode

HEIGHT, WIDTH = 30, 40


def _entry(segmentation):
    return Entry({"segmentation": segmentation}, "annotations", 3, Path("set.json"))


def _mask(segmentation):
    return mask_of_segmentation(_entry(segmentation), HEIGHT, WIDTH)


def test_the_three_forms_are_one_mask():
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[4:10, 7:20] = True
    counts = [7 * HEIGHT + 4, *[6, HEIGHT - 6] * 12, 6]
    plain = {"size": [HEIGHT, WIDTH], "counts": [*counts, HEIGHT * WIDTH - sum(counts)]}
    text = {"size": [HEIGHT, WIDTH], "counts": encode(expected).counts.decode()}
    polygon = [[7, 4, 20, 4, 20, 10, 7, 10]]
    for each in (plain, text, polygon):
        np.testing.assert_array_equal(_mask(each), expected)
        assert rle_of_segmentation(_entry(each), HEIGHT, WIDTH) == encode(expected)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[5, 5, 5, 5, 5, 5]],
        [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]],
        [[100, 100, 120, 100, 120, 120]],
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
    ],
)
def test_an_instance_may_have_no_pixels(segmentation):
    assert _mask(segmentation).shape == (HEIGHT, WIDTH)
    assert not _mask(segmentation).any()


FAR = LONGEST_OUTLINE


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "a segmentation that is neither polygons nor a mask"),
        (None, "a segmentation that is neither polygons nor a mask"),
        ([[1, 2, 3, 4]], "a polygon that is not three or more pairs of finite numbers"),
        ([[1, 2, 3, 4, 5, float("inf")]], "a polygon that is not three or more pairs of finite numbers"),
        ([[0, 0, 9, 0, 9, 9], [1, 1, FAR, 1, 1, 5]], "a polygon whose outline is longer than 1,048,576 pixels"),
        ([[1e300, 0, -1e300, 0, 1, 1]], "a polygon whose outline is longer"),
        ([[1e308, 0, -1e308, 0, 1, 1]], "a polygon whose outline is longer"),
        ([[FAR, FAR, FAR + 1, FAR, FAR, FAR + 1]], "a polygon whose outline is longer than 1,048,576 pixels or as far"),
        ([[0, 0, 999, 0] * 2000], "a polygon whose outline is longer"),
        ({"size": [20, 40], "counts": [800]}, "a mask of 20x40 pixels in an image of 30x40"),
        ({"size": [HEIGHT, WIDTH], "counts": [1199]}, "a mask whose run lengths do not add up to 30x40"),
        ({"size": [HEIGHT, WIDTH], "counts": "01"}, "a mask whose run lengths do not add up to 30x40: '01'"),
        # -1, 1 and 1200
        ({"size": [HEIGHT, WIDTH], "counts": "O1`U1"}, "a mask whose run lengths do not add up to 30x40"),
        ({"size": [HEIGHT, WIDTH], "counts": "_Z1O"}, "a mask whose run lengths do not add up to 30x40"),
        ({"size": [HEIGHT, WIDTH], "counts": "\u00df"}, "a mask whose run lengths are not understood"),
    ],
)
def test_what_is_refused(segmentation, message):
    with pytest.raises(UserError, match=rf"^annotations\[3\] of set.json has {message}"):
        _mask(segmentation)


def test_an_entry_without_segmentation():
    with pytest.raises(UserError, match="no 'segmentation', only nothing"):
        mask_of_segmentation(Entry({}, "annotations", 0, Path("set.json")), HEIGHT, WIDTH)


_NUMBERS = st.one_of(
    st.integers(-(10**30), 10**30), st.floats(), st.booleans(), st.none(), st.text(max_size=2), st.integers(-5, 50)
)
_COUNTS = st.one_of(
    st.lists(_NUMBERS, max_size=8),
    st.lists(st.integers(0, 400), max_size=8),
    st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=20),
)
_SIZE = st.one_of(st.just([HEIGHT, WIDTH]), st.lists(_NUMBERS, max_size=3), _NUMBERS)
_SEGMENTATIONS = st.one_of(
    _NUMBERS,
    st.lists(st.one_of(_NUMBERS, st.lists(_NUMBERS, max_size=9)), max_size=3),
    st.lists(st.lists(st.floats(-100, 100), min_size=6, max_size=10), min_size=1, max_size=3),
    st.fixed_dictionaries({}, optional={"size": _SIZE, "counts": _COUNTS}),
)


@settings(max_examples=400)
@given(_SEGMENTATIONS)
def test_anything_is_a_mask_or_one_sentence(segmentation):
    try:
        mask = _mask(segmentation)
    except UserError as error:
        assert re.fullmatch(r"annotations\[3\] of set.json has .*\.", str(error))  # noqa: PT017 - either is right
    else:
        assert (mask.shape, mask.dtype) == ((HEIGHT, WIDTH), bool)
