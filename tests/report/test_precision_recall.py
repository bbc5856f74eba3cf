"""Plots of a detector: curves go through the given points, in the expected colours."""

import numpy as np
import pytest

from vision.report.boxes import class_colours
from vision.report.precision_recall import confidence_plot, precision_recall_plot

RECALLS = np.linspace(0, 1, 101)
BLUE, ORANGE, YELLOW, INK, GREY = (0, 114, 178), (213, 94, 0), (230, 159, 0), (34, 34, 34), (187, 187, 187)
# Of the images, without the legend
RIGHT = slice(300, None)


def near(picture, colour):
    return np.abs(picture.astype(int) - colour).max(-1) <= 2


def row_of(picture, value):
    """The row of a height in [0, 1], by the axes of `confidence_plot` and its sibling."""
    left = np.flatnonzero(near(picture, (153, 153, 153)).sum(0) > 200)[0]
    line = np.flatnonzero(near(picture[:, left], (153, 153, 153)))
    top, bottom = line[0], line[-1]
    return bottom - (value + 0.005) / 1.025 * (bottom - top)


def test_curves_are_at_their_height():
    precision = np.stack([np.full(101, 0.8), np.full(101, 0.3), np.full(101, np.nan)])
    picture = precision_recall_plot(precision, RECALLS, np.array([0.8, 0.3, np.nan]), ("ant", "bee", "cat"))
    assert picture.shape == (484, 550, 3)
    assert picture.dtype == np.uint8
    for value, colour in ((0.8, BLUE), (0.3, YELLOW), (0.55, INK)):
        rows, columns = np.nonzero(near(picture[:, RIGHT], colour))
        assert np.median(rows) == pytest.approx(row_of(picture, value), abs=2)
        assert np.ptp(columns) > 200
    assert picture[:2].min() > 250
    assert picture[-2:].min() > 250


def test_classes_without_boxes_are_left_out():
    precision = np.full((3, 101), np.nan)
    precision[1] = 0.5
    one = precision_recall_plot(precision, RECALLS, np.array([np.nan, 0.5, np.nan]), ("ant", "bee", "cat"))
    fewer = precision_recall_plot(precision[:2], RECALLS, np.array([np.nan, 0.5]), ("ant", "bee"))
    np.testing.assert_array_equal(one, fewer)
    assert near(one[60:, RIGHT], class_colours(3)[1]).sum() > 100  # the colour of its boxes
    assert near(one[60:, RIGHT], INK).sum() == 0  # one class has no mean


def test_many_classes_are_grey_and_few_are_not():
    generator = np.random.default_rng(0)
    for classes in (12, 13):
        precision = np.sort(generator.random((classes, 101)))[:, ::-1]
        names = [f"_a $class$ named {i} of very many letters" for i in range(classes)]
        picture = precision_recall_plot(precision, RECALLS, precision.mean(1), names)
        assert (near(picture, BLUE).sum() > 100) == (classes == 12)
        assert (near(picture, GREY).sum() > 1000) == (classes == 13)
        assert near(picture[60:, RIGHT], INK).sum() > 100


def test_the_best_f1_is_marked():
    confidences = np.linspace(0, 1, 1001)
    f1 = 0.9 - 2 * (confidences - 0.7) ** 2
    precision = np.where(confidences > 0.95, np.nan, 0.95)
    picture = confidence_plot(confidences, precision, np.full(1001, 0.1), f1, best=700)
    assert picture.shape == (484, 550, 3)
    for value, colour in ((0.95, BLUE), (0.1, ORANGE)):
        rows, _ = np.nonzero(near(picture[:, 400:], colour))
        assert np.median(rows) == pytest.approx(row_of(picture, value), abs=2)
    # the mark is a disc on the curve: the column in which most is black
    left = np.flatnonzero(near(picture, (153, 153, 153)).sum(0) > 200)[0]
    inside = near(picture[30:400], INK)
    column = int(np.mean(np.flatnonzero(inside.sum(0) == inside.sum(0).max())))
    right = np.flatnonzero(near(picture[30:400], ORANGE).any(0))[-1]
    assert (column - left) / (right - left) == pytest.approx(0.7, abs=0.02)
    rows = 30 + np.flatnonzero(inside[:, column])
    assert np.mean(rows) == pytest.approx(row_of(picture, 0.9), abs=3)


def test_errors():
    with pytest.raises(ValueError, match="0 of them with boxes"):
        precision_recall_plot(np.full((1, 101), np.nan), RECALLS, np.array([np.nan]), ("ant",))
    with pytest.raises(ValueError, match="2 names for 1 classes"):
        precision_recall_plot(np.ones((1, 101)), RECALLS, np.ones(1), ("ant", "bee"))
    with pytest.raises(ValueError, match="Index 3 is out of range for 3"):
        confidence_plot(*(np.linspace(0, 1, 3),) * 4, best=3)
