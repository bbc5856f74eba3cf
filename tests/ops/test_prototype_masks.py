"""Masks of original images from logits of the square, against a loop over pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.data.letterbox import Letterbox
from vision.ops.prototype_masks import prototype_mask, prototype_masks
from vision.ops.rle import decode

CELLS = 8  # of a square of 32 pixels


def slow(logits, box, letterbox):
    """(inside, how near to a decision) pixel by pixel in double precision."""
    made = np.zeros((letterbox.height, letterbox.width), bool)
    near = np.full(made.shape, np.inf)
    for row, column in np.ndindex(*made.shape):
        x = (column + 0.5) * letterbox.scale[0] + letterbox.offset[0]
        y = (row + 0.5) * letterbox.scale[1] + letterbox.offset[1]
        value = 0.0
        middles = [min(max(at / 4 - 0.5, 0), CELLS - 1) for at in (y, x)]
        for r, c in np.ndindex(CELLS, CELLS):
            weights = [max(1 - abs(middle - at), 0) for middle, at in zip(middles, (r, c), strict=True)]
            value += weights[0] * weights[1] * float(logits[r, c])
        inside = box[0] <= x < box[2] and box[1] <= y < box[3]
        made[row, column] = inside and value > 0
        near[row, column] = min(abs(value), abs(x - box[0]), abs(x - box[2]), abs(y - box[1]), abs(y - box[3]))
    return made, near


# whole and half pixels, at the border of the square and beyond it
_at = st.integers(-10, 74).map(lambda half: half / 2)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    corners=st.tuples(_at, _at, _at, _at),
    spread=st.sampled_from([0.0, 0.01, 0.5, 100.0]),
)
def test_masks_are_interpolated_at_every_pixel_of_the_image(seed, size, corners, spread):
    logits = np.random.default_rng(seed).normal(size=(CELLS, CELLS)).astype(np.float32)
    x, y = min(corners[0], corners[2]), min(corners[1], corners[3])
    box = np.float32([x, y, x + spread * abs(corners[2] - x), y + spread * abs(corners[3] - y)])
    letterbox = Letterbox(*size, resolution=4 * CELLS)
    found = prototype_mask(logits, box, letterbox)
    expected, near = slow(logits, box, letterbox)
    assert found.shape == expected.shape == (size[1], size[0])
    clear = near > 1e-5
    assert np.array_equal(found[clear], expected[clear])


def test_a_half_plane_ends_between_cells():
    """Logits that fall in proportion to the place end where they are 0, whatever the size of the image."""
    ramp = np.broadcast_to(13.0 - (4 * np.arange(CELLS) + 2), (CELLS, CELLS)).astype(np.float32)
    box = np.float32([0, 0, 32, 32])
    mask = prototype_mask(ramp, box, Letterbox(320, 320, 32))
    assert np.array_equal(mask, np.broadcast_to(np.arange(320) + 0.5 < 130, (320, 320)))
    assert not prototype_mask(-np.ones((CELLS, CELLS), np.float32), box, Letterbox(5, 7, 32)).any()


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ([3, 4, 4, 5], [(4, 3)]),  # one pixel
        ([3.5, 4.5, 3.6, 4.6], [(4, 3)]),  # whose centre is on the left and upper border
        ([3.4, 4.4, 3.5, 4.6], []),  # and on the right one
        ([30, 31, 90, 90], [(31, 30), (31, 31)]),  # at the border and beyond
        ([40, 40, 50, 50], []),
        ([-9, -9, -1, 40], []),
        ([5, 5, 5, 9], []),
        ([9, 9, 5, 5], []),  # whose corners are in the wrong order
    ],
)
def test_boxes_without_much_in_them(box, pixels):
    mask = prototype_mask(np.ones((CELLS, CELLS), np.float32), np.float32(box), Letterbox(32, 32, 32))
    assert [tuple(at) for at in np.argwhere(mask)] == pixels


def test_masks_of_an_image_are_packed_and_padding_is_left_out():
    """A wide image lies in the middle of the square: rows 8 to 24."""
    letterbox = Letterbox(64, 32, 32)
    logits = np.ones((2, CELLS, CELLS), np.float32)
    boxes = np.float32([[0, 0, 32, 32], [4, 10, 8, 12]])
    whole, part = prototype_masks(logits, boxes, letterbox)
    assert decode(whole).all()
    assert decode(whole).shape == (32, 64)
    expected = np.zeros((32, 64), bool)
    expected[4:8, 8:16] = True
    assert np.array_equal(decode(part), expected)
    assert prototype_masks(logits[:0], boxes[:0], letterbox) == []
