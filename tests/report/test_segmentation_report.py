"""Overlays, maps of errors, sheets and bars of segmentations."""

import numpy as np
import pytest

from vision.report.segmentation import (
    SegmentedImage,
    class_bars,
    coloured,
    error_map,
    labelled_overlay,
    overlay,
    segmentation_sheet,
)

COLOURS = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)
NAMES = ("road", "a very long name of a class that is cut")
IMAGE = np.full((6, 8, 3), 100, np.uint8)
TRUTH = np.zeros((6, 8), np.uint8)
TRUTH[:, 4:], TRUTH[5, 0] = 1, 255
PREDICTED = np.zeros((6, 8), np.uint8)
PREDICTED[:, 6:] = 1


def test_overlays_have_the_colours_of_the_classes():
    made = overlay(IMAGE, TRUTH, COLOURS, opacity=0.5)
    assert made[0, 0].tolist() == [178, 50, 50]
    assert made[0, 7].tolist() == [50, 178, 50]
    assert made[0, 4].tolist() == [255, 255, 255]  # between the classes
    assert made[5, 0].tolist() == [100, 100, 100]  # void


def test_what_is_wrong_is_marked():
    made = error_map(TRUTH, PREDICTED, void=255)
    kinds = {tuple(colour) for colour in made.reshape(-1, 3).tolist()}
    assert len(kinds) == 3
    assert (made[:, 4:6] == made[0, 4]).all()
    assert tuple(made[5, 0]) != tuple(made[0, 0]) != tuple(made[0, 4])


def test_classes_as_colours():
    made = coloured(TRUTH, COLOURS)
    assert made[0, 0].tolist() == [255, 0, 0]
    assert made[5, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("truth", [TRUTH, None])
def test_sheets_of_any_number_of_images(count, truth):
    images = [SegmentedImage(IMAGE, PREDICTED, truth, "a caption")] * count
    sheet = segmentation_sheet(images, NAMES, COLOURS, title="a title", void=255)
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3
    again = segmentation_sheet(images[:1], NAMES, COLOURS, title="a title", void=255)
    assert len(sheet) > len(again) * 0.9 * count / 2
    with pytest.raises(ValueError, match="A sheet of no images is empty"):
        segmentation_sheet([], NAMES, COLOURS, title="", void=255)


def test_an_overlay_with_its_legend():
    large = np.full((300, 400, 3), 100, np.uint8)
    mask = np.zeros((300, 400), np.uint8)
    made = labelled_overlay(large, mask, NAMES, COLOURS)
    assert made.shape[1] == 400
    assert made.shape[0] > 300
    small = labelled_overlay(IMAGE, TRUTH, NAMES, COLOURS)
    assert small.shape[1] == 240  # enlarged by 20


def test_bars_leave_classes_without_a_number_out():
    some = class_bars(np.array([0.5, np.nan]), NAMES, COLOURS, title="mean IoU $0.5$")
    every = class_bars(np.array([0.5, 0.25]), NAMES, COLOURS, title="mean IoU 0.375")
    assert some.shape[2] == every.shape[2] == 3
    green = lambda image: ((image[..., 1] == 255) & (image[..., 0] == 0)).sum()
    assert green(every) > 100
    assert green(some) == 0
