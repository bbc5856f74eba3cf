"""Masks in the frames of boxes, against loops over points; torchvision's are in test_published_mask_rcnn_parts.py."""

import math
from functools import partial

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_roi_align import interpolated

from vision.ops.roi_masks import crop_masks, paste_mask, paste_masks, pasted

HEIGHT, WIDTH, N, SIZE = 9, 13, 4, 3


def slow(mask, box, size):
    """Every bin the mean of ceil(side / size) points along each side."""
    x0, y0, x1, y1 = np.float64(box)
    sides = [max(y1 - y0, 1), max(x1 - x0, 1)]
    counts = [math.ceil(side / size) for side in sides]
    made = np.zeros((size, size))
    for i, j in np.ndindex(size, size):
        for p, q in np.ndindex(*counts):
            y = y0 + (i + (p + 0.5) / counts[0]) * sides[0] / size
            x = x0 + (j + (q + 0.5) / counts[1]) * sides[1] / size
            made[i, j] += interpolated(np.float64(mask)[..., None], y, x)[0] / math.prod(counts)
    return made


crop = jax.jit(partial(crop_masks, size=SIZE))
_corners = hnp.arrays(np.int64, (N, 2, 2), elements=st.integers(0, 8 * HEIGHT))


@settings(max_examples=25)
@given(corners=_corners, index=hnp.arrays(np.int32, N, elements=st.integers(0, 1)))
def test_crops_are_means_over_every_pixel(corners, index):
    low, high = corners.min(1), corners.max(1)
    boxes = np.concatenate([low, high], axis=1).astype(np.float32) / 8
    given_masks = np.random.default_rng(0).integers(0, 2, (1, 2, HEIGHT, WIDTH)).astype(np.uint8)
    found = crop(given_masks, index[None], boxes[None])[0]
    for k in range(N):
        np.testing.assert_allclose(found[k], slow(given_masks[0, index[k]], boxes[k], SIZE), atol=1e-5)


def test_pasting_outside_of_the_image_and_back():
    ones = np.ones((28, 28), np.float32)
    for box in ([-90, -90, -50, -50], [50, 60, 80, 90], [-1e6, 0, -1e5, 5]):
        assert not paste_mask(ones, np.float32(box), height=20, width=30).any()
    whole = paste_mask(ones, np.float32([-1e5, -1e5, 1e5, 1e5]), height=20, width=30)
    np.testing.assert_allclose(whole, 1.0, atol=1e-6)
    # A mask that is cropped and pasted is the mask again, up to its border
    y, x = np.mgrid[:200, :250] + 0.5
    mask = (((x - 140) / 80) ** 2 + ((y - 110) / 70) ** 2 <= 1).astype(np.uint8)
    box = np.float32([60, 40, 220, 180])
    crop_28 = jax.jit(partial(crop_masks, size=28))
    small = np.asarray(crop_28(mask[None, None], np.zeros((1, 1), np.int32), box[None, None]))[0, 0]
    again = paste_mask(small, box, height=mask.shape[0], width=mask.shape[1]) >= 0.5
    assert (again != mask).sum() < 0.015 * mask.sum()
    larger = paste_mask(small, box, height=mask.shape[0], width=mask.shape[1], rounded=True) >= 0.5
    assert larger.sum() > 1.005 * again.sum()
    assert paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), height=3, width=4).shape[0] == 0


def test_masks_pasted_in_a_program_are_interpolated_in_their_boxes():
    generator = np.random.default_rng(0)
    masks = generator.random((1, 3, 14, 14)).astype(np.float32)
    boxes = np.float32([[[2, 3, 18, 19], [0, 0, 32, 24], [-5, 10, 9, 40]]])
    made = np.asarray(pasted(jnp.asarray(masks), jnp.asarray(boxes), size=(24, 32)))
    for mask, (x0, y0, x1, y1), found in zip(masks[0], boxes[0], made[0], strict=True):
        for row in range(24):
            for column in range(32):
                place = [(row + 0.5 - y0) / (y1 - y0) * 14 - 0.5, (column + 0.5 - x0) / (x1 - x0) * 14 - 0.5]
                expected = 0.0
                for r in range(14):
                    for c in range(14):
                        weight = max(1 - abs(place[0] - r), 0) * max(1 - abs(place[1] - c), 0)
                        expected += weight * mask[r, c]
                assert found[row, column] == pytest.approx(expected, abs=1e-5)
    for mask, box, found in zip(masks[0], boxes[0], made[0], strict=True):
        np.testing.assert_allclose(paste_mask(mask, box, height=24, width=32), found, atol=1e-5)
    constant = jnp.ones((1, 1, 28, 28))
    half = np.asarray(pasted(constant, jnp.array([[[4.0, 6.0, 20.0, 15.0]]]), size=(24, 32)))[0, 0] >= 0.5
    assert half.sum() == 16 * 9
    assert half[6:15, 4:20].all()
