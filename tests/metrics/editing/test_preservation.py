"""Preservation and seams, by hand and by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.metrics.editing.preservation import MOST, seam, unmasked_psnr


def test_psnr_looks_outside_of_the_mask_alone():
    image = np.full((4, 4, 3), 100, np.uint8)
    other, mask = image.copy(), np.zeros((4, 4), bool)
    other[0, 0], mask[0, 0] = 200, True
    assert unmasked_psnr(other, image, mask) == MOST
    other[1, 1] = 110
    # one of 15 pixels is off by 10 levels
    assert unmasked_psnr(other, image, mask) == pytest.approx(10 * np.log10(255**2 / (100 / 15)))
    assert np.isnan(unmasked_psnr(other, image, np.ones((4, 4), bool)))


def test_a_step_at_the_border_is_a_seam_and_a_ramp_is_none():
    mask = np.zeros((8, 8), bool)
    mask[:, 4:] = True
    step = np.where(mask, 150, 100).astype(np.uint8)[..., None].repeat(3, -1)
    assert seam(step, mask) == 50.0
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[None, :, None] * 10, (8, 8, 3))
    assert seam(ramp, mask) == 0.0
    smooth = ramp.copy()
    smooth[:, 4:] -= 10
    assert seam(smooth, mask) == -10.0
    assert np.isnan(seam(ramp, np.ones((8, 8), bool)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_seams_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (6, 7, 3)).astype(np.uint8)
    mask = rng.random((6, 7)) < 0.3
    across, adjacent = [], {}
    for axis, (lines, inside) in enumerate(((image, mask), (image.transpose(1, 0, 2), mask.T))):
        for number, (line, own) in enumerate(zip(lines.astype(float), inside, strict=True)):
            for i in range(len(line) - 1):
                if own[i] == own[i + 1]:
                    continue
                across.append(abs(line[i] - line[i + 1]).mean())
                for shift, j in ((-1, i - 1), (1, i + 1)):
                    if 0 <= j < len(line) - 1 and own[j] == own[j + 1]:
                        adjacent[axis, number, j, shift] = abs(line[j] - line[j + 1]).mean()
    if across and adjacent:
        assert seam(image, mask) == pytest.approx(np.mean(across) - np.mean(list(adjacent.values())))
