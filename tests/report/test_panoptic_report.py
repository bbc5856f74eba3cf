"""Segments in images: shades, borders, sheets."""

import numpy as np

from vision.report.panoptic import (
    PanopticImage,
    SegmentsOfImage,
    labelled_segments,
    panoptic_overlay,
    panoptic_sheet,
    segment_colours,
)

COLOURS = np.array([[200, 0, 0], [0, 100, 200]], np.uint8)
NAMES = ("cat", "sky")
IMAGE = np.full((6, 9, 3), 100, np.uint8)
PLACES = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3])[None].repeat(6, 0)
SEGMENTS = SegmentsOfImage(PLACES, np.array([0, 0, 1]))


def test_each_segment_of_a_class_has_a_shade():
    made = segment_colours(np.array([0, 1, 0, 0, 0, 1]), COLOURS)
    np.testing.assert_array_equal(made[0], COLOURS[0])
    np.testing.assert_array_equal(made[1], COLOURS[1])
    assert len({tuple(each) for each in made.tolist()}) == 6
    # lighter, then darker
    assert made[2].sum() > made[0].sum() > made[3].sum()
    many = segment_colours(np.zeros(20, int), COLOURS)
    assert len({tuple(each) for each in many.tolist()}) == 7


def test_overlays_have_borders_and_leave_void():
    made = panoptic_overlay(IMAGE, SEGMENTS, COLOURS)
    assert (made[:, [3, 6]] == 255).all()
    assert (made[:, 8] == 100).all()
    assert (made[0, 0] != made[0, 4]).any()
    assert made[0, 0, 0] > made[0, 0, 2]
    assert made[0, 7, 2] > made[0, 7, 0]


def test_sheets_and_legends():
    other = SegmentsOfImage(np.zeros_like(PLACES), np.array([1]))
    one = panoptic_sheet([PanopticImage(IMAGE, SEGMENTS, other, "a.png")], NAMES, COLOURS, title="a title")
    two = panoptic_sheet([PanopticImage(IMAGE, SEGMENTS, other, "a.png")] * 2, NAMES, COLOURS, title="a title")
    assert one.dtype == np.uint8
    assert len(two) > len(one)
    swapped = panoptic_sheet([PanopticImage(IMAGE, other, SEGMENTS, "a.png")], NAMES, COLOURS, title="a title")
    assert not np.array_equal(one, swapped)
    shown = labelled_segments(IMAGE, other, NAMES, COLOURS)
    assert (shown == COLOURS[1]).all(-1).any()
    assert not (shown == COLOURS[0]).all(-1).any()
