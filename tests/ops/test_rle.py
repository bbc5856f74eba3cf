"""Run lengths against pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.ops.rle import Rle, area, box, decode, encode, of_polygons, of_run_lengths, run_lengths_of_text, union


@st.composite
def _masks(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return generator.random(size) < draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))


def counts_of(mask):
    """By a loop over the pixels."""
    counts, value = [0], False
    for pixel in mask.T.reshape(-1):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@settings(max_examples=60)
@given(_masks())
def test_masks_return(mask):
    packed = encode(mask)
    np.testing.assert_array_equal(decode(packed), mask)
    assert (packed.height, packed.width) == mask.shape
    assert area(packed) == mask.sum()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    around = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [0] * 4
    assert box(packed).tolist() == around
    assert run_lengths_of_text(packed.counts.decode()).tolist() == counts_of(mask)
    assert of_run_lengths(counts_of(mask), *mask.shape) == packed


@settings(max_examples=30)
@given(_masks(), st.integers(1, 4))
def test_unions(mask, count):
    generator = np.random.default_rng(count)
    parts = [mask & (generator.random(mask.shape) < 0.5) for _ in range(count)]
    joint = union([encode(each) for each in parts])
    assert joint == encode(np.any(parts, axis=0))


def test_long_runs_return():
    counts = [0, 1, 2**20, 3, 2**25, 5, 7, 2**29 - 1]
    rows = 2**15
    assert sum(counts) < rows * rows
    counts[-1] += rows * rows - sum(counts)
    text = of_run_lengths(counts, rows, rows).counts.decode()
    assert run_lengths_of_text(text).tolist() == counts


@settings(max_examples=60)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=115), max_size=30))
def test_any_text_is_numbers_or_none(text):
    numbers = run_lengths_of_text(text)
    assert numbers is None or numbers.dtype == np.int64


@pytest.mark.parametrize("text", ["", "p", "P", "0P", "PPPPPPP0", "\u0663", "0 0"])
def test_what_is_no_text_of_run_lengths(text):
    assert run_lengths_of_text(text) is None


@pytest.mark.parametrize(("counts", "message"), [(b"p", "no run lengths"), (b"5", "reshape"), (b"0000", "reshape")])
def test_run_lengths_that_do_not_fit_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        decode(Rle(2, 3, counts))


def test_polygons_are_united_and_cut_off():
    square = [2.0, 1.0, 5.0, 1.0, 5.0, 4.0, 2.0, 4.0]
    other = [4.0, 3.0, 99.0, 3.0, 99.0, 99.0, 4.0, 99.0]
    mask = decode(of_polygons([square, other], 8, 9))
    expected = np.zeros((8, 9), bool)
    expected[1:4, 2:5] = expected[3:, 4:] = True
    np.testing.assert_array_equal(mask, expected)
    assert not decode(of_polygons([[50.0, 50.0, 60.0, 50.0, 60.0, 60.0]], 8, 9)).any()
