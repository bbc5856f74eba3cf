import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.units import count, duration, value


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1.00k"),
        (12_345, "12.3k"),
        (99_960, "100k"),
        (999_499, "999k"),
        (999_950, "1.00M"),
        (50_000_000, "50.0M"),
        (1.2e10, "12.0G"),
        (41.26, "41.3"),
        (0.5, "0.50"),
        (-12_345, "-12.3k"),
        (math.inf, "inf"),
    ],
)
def test_count(number, text):
    assert count(number) == text


@given(st.floats(1, 1e14))
def test_count_is_right_to_three_digits_and_short(number):
    text = count(number)
    digits, prefix = re.fullmatch(r"([\d.]+)([kMGT]?)", text).groups()
    assert float(digits) * 1000 ** " kMGT".index(prefix or " ") == pytest.approx(number, rel=0.0051)
    assert len(text) <= 5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (125, "2m05s"),
        (3599.6, "1h00m"),
        (3720, "1h02m"),
        (86_399, "1d00h"),
        (3 * 86_400 + 4 * 3600, "3d04h"),
        (math.inf, "?"),
        (math.nan, "?"),
        (-1, "?"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_value_keeps_four_digits():
    assert [value(x) for x in (0.123456, 23.456, 1.2e-5, math.nan)] == ["0.1235", "23.46", "1.2e-05", "nan"]
