"""Counts of pixels and median frequency weights, counted by hand."""

import numpy as np
import pytest

from vision.errors import UserError
from vision.tasks.class_frequency import ClassPixels, class_pixels, median_frequency


def test_counts_and_weights():
    maps = [np.array([[0, 0, 0, 1]]), np.array([[0, 255], [255, 255]]), np.array([[1, 1, 2, 0, 0]])]
    counts = class_pixels(maps, classes=4, ignore=255)
    np.testing.assert_array_equal(counts.pixels, [6, 3, 1, 0])
    np.testing.assert_array_equal(counts.around, [10, 9, 5, 0])
    # frequencies 0.6, 1/3 and 0.2, of which the median is 1/3
    weights = median_frequency(counts)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [1 / 3 / 0.6, 1, 1 / 3 / 0.2, 1], rtol=1e-6)


def test_without_void_every_value_is_a_class():
    counts = class_pixels([np.array([[0, 1]])], classes=2, ignore=None)
    np.testing.assert_array_equal([counts.pixels, counts.around], [[1, 1], [2, 2]])


@pytest.mark.parametrize("value", [-1, 2, 300])
def test_unknown_classes_are_refused(value):
    with pytest.raises(UserError, match=rf"the map 1 has a pixel of the class {value}, which is outside \[0, 2\)"):
        class_pixels([np.array([[0, 1]]), np.array([[255, 0, value]])], classes=2, ignore=255)


def test_no_pixels_have_no_frequency():
    with pytest.raises(UserError, match="no pixel has a class"):
        median_frequency(ClassPixels(np.zeros(2, np.int64), np.zeros(2, np.int64)))
    with pytest.raises(UserError, match="no pixel has a class"):
        median_frequency(class_pixels([np.array([[255]])], classes=2, ignore=255))
