"""Counts of pixels and median frequency weights, counted by hand."""

import numpy as np
import pytest

from vision.data.class_counts import COUNTED, class_counts, median_frequency
from vision.data.on_demand import OnDemandSource
from vision.data.source import ArraySource
from vision.errors import UserError


def masks(*rows):
    """Masks of one row in a canvas of 2x5; what is outside is void."""
    semantic = np.full((len(rows), 2, 5), 255, np.uint8)
    for canvas, row in zip(semantic, rows, strict=True):
        canvas[0, : len(row)] = row
    return ArraySource({"semantic": semantic, "size": np.array([[1, len(row)] for row in rows])})


def test_counts_and_weights():
    counts = class_counts(masks([0, 0, 0, 1], [0, 255, 255, 255], [1, 1, 2, 0, 0]), 4)
    np.testing.assert_array_equal(counts.pixels, [6, 3, 1, 0])
    np.testing.assert_array_equal(counts.around, [10, 9, 5, 0])
    assert (counts.void, counts.empty, counts.counted, counts.total) == (3, 0, 3, 3)
    # frequencies 0.6, 1/3 and 0.2, of which the median is 1/3
    weights = median_frequency(counts)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [1 / 3 / 0.6, 1, 1 / 3 / 0.2, 1], rtol=1e-6)


@pytest.mark.parametrize("value", [2, 254])
def test_unknown_classes_are_refused(value):
    with pytest.raises(UserError, match=rf"image 1 has pixels of the class {value}, and classes are 0 to 1"):
        class_counts(masks([0, 1], [255, 0, value]), 2)


def test_no_pixels_have_no_frequency():
    counts = class_counts(masks([255]), 2)
    assert counts.empty == 1
    with pytest.raises(UserError, match="no pixel has a class"):
        median_frequency(counts)


def test_of_what_is_made_for_it_the_first_are_counted():
    made = []

    def make(indices):
        made.extend(indices.tolist())
        return {"semantic": np.zeros((len(indices), 1, 1), np.uint8), "size": np.ones((len(indices), 2), np.int32)}

    counts = class_counts(OnDemandSource(make, size=COUNTED + 100, fields=("semantic", "size")), 1)
    assert made == list(range(COUNTED))
    assert counts.text(["all"]) == f"the first {COUNTED} of {COUNTED + 100} images, 0.0% void; of the rest all 100.00%"
