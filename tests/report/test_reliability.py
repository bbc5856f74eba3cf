"""Reliability diagrams: bars of the height of the accuracy, gaps on the right side of it."""

from types import SimpleNamespace

import numpy as np
import pytest

from vision.metrics.recognition.calibration import Calibration
from vision.report.reliability import Bins, reliability_diagram

_ACCURACY, _TOO_SURE, _TOO_UNSURE = (0, 114, 178), (246, 205, 175), (159, 203, 230)


def _bins(counts, confidence, accuracy, error=0.1):
    of = lambda values: np.array(values, np.float64)
    return SimpleNamespace(
        counts=np.array(counts),
        confidence=of(confidence),
        accuracy=of(accuracy),
        expected_calibration_error=error,
    )


def _columns(picture, colour):
    """How many pixels of the colour there are in each column of the image."""
    return (np.abs(picture.astype(int) - colour).max(-1) <= 2).sum(0)


def _upper(picture):
    """The diagram without the histogram and the legend between them."""
    return picture[: int(0.66 * len(picture))]


def test_bars_are_as_high_as_the_accuracy():
    accuracy = np.array([0.2, 0.4, 0.6, 0.8])
    picture = _upper(reliability_diagram(_bins([5, 5, 5, 5], accuracy, accuracy)))
    heights = _columns(picture, _ACCURACY)
    left = np.flatnonzero(heights > 60)[0]
    right = np.flatnonzero(heights > 60)[-1]
    middles = left + (np.arange(4) + 0.5) * (right - left) / 4
    found = heights[middles.astype(int) + 4]
    np.testing.assert_allclose(found / found[-1], accuracy / 0.8, atol=0.03)


def test_gaps_lie_above_or_inside_the_bars_and_empty_bins_have_none():
    nan = np.nan
    sure = _upper(reliability_diagram(_bins([0, 50], [nan, 0.9], [nan, 0.5])))
    unsure = _upper(reliability_diagram(_bins([50, 0], [0.3, nan], [0.7, nan])))
    none = _upper(reliability_diagram(_bins([0, 50], [nan, 0.9], [nan, 0.9])))
    half = sure.shape[1] // 2
    assert _columns(sure, _TOO_SURE)[half + 30 :].sum() > 3000
    # The legend shows the shading too, in a few pixels
    assert _columns(sure, _TOO_SURE)[:half].sum() < 400
    assert _columns(sure, _TOO_UNSURE).sum() == _columns(none, _TOO_SURE).sum() == 0
    assert _columns(unsure, _TOO_UNSURE)[:half].sum() > 3000
    assert _columns(unsure, _TOO_UNSURE)[half + 30 :].sum() == 0


@pytest.mark.parametrize("number", [1, 15, 50])
def test_any_number_of_bins_and_nothing_at_the_border(number):
    generator = np.random.default_rng(number)
    middle = (np.arange(number) + 0.5) / number
    bins = _bins(generator.integers(1, 99, number), middle, np.clip(middle - 0.1, 0, 1))
    picture = reliability_diagram(bins)
    assert picture.dtype == np.uint8
    assert picture.shape == (616, 506, 3)
    assert min(picture[:2].min(), picture[-2:].min(), picture[:, :2].min()) > 250


def test_the_metric_is_what_is_plotted():
    of = np.array([0.5, 1.0])
    metric = Calibration(4, 0.0, 0.0, 0.0, np.array([2, 2]), of, of)
    assert isinstance(metric, Bins)
    np.testing.assert_array_equal(reliability_diagram(metric), reliability_diagram(_bins([2, 2], of, of, error=0.0)))


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="at least one image"):
        reliability_diagram(_bins([0, 0], [np.nan] * 2, [np.nan] * 2))
