"""Erased rectangles: their area, shape, position and fill."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vision.data.augment.erase import cutout, random_erasing, rectangle

ONES = jnp.ones((2000, 40, 50, 1))


def _extents(changed):
    """(top, left, height, width) of the one rectangle that is set in each mask [n h w]; it must be one."""
    rows, columns = changed.any(2), changed.any(1)
    assert (changed == rows[:, :, None] & columns[:, None, :]).all()
    extents = []
    for line in (rows, columns):
        first, last = line.argmax(1), line.shape[1] - line[:, ::-1].argmax(1)
        assert (line.sum(1) == last - first).all()
        extents.append((first, last - first))
    return extents[0][0], extents[1][0], extents[0][1], extents[1][1]


def test_erased_rectangles_have_the_stated_area_ratio_and_place():
    run = jax.jit(
        lambda x: random_erasing(
            x, probability=0.4, area=(0.05, 0.2), ratio=(0.5, 2.0), fill="zeros", key=jax.random.key(0)
        )
    )
    erased = np.asarray(run(ONES))[..., 0] == 0
    chosen = erased.any((1, 2))
    assert stats.binomtest(int(chosen.sum()), len(chosen), 0.4).pvalue > 1e-6
    top, left, tall, wide = _extents(erased[chosen])
    share, ratio = tall * wide / 2000, tall / wide
    # Sides are rounded to pixels, which widens the distributions by a few percent
    assert share.min() > 0.04
    assert share.max() < 0.22
    assert abs(share.mean() - 0.125) < 0.006
    assert ratio.min() > 0.42
    assert ratio.max() < 2.4
    assert abs(ratio.mean() - 1.25) < 0.06
    for start, extent, side in ((top, tall, 40), (left, wide, 50)):
        place = (start + np.random.default_rng(0).uniform(size=len(start))) / (side - extent + 1)
        assert stats.kstest(place, "uniform").pvalue > 1e-4


def test_what_does_not_fit_is_kept():
    erase = lambda x: random_erasing(x, probability=1.0, area=(0.9, 0.9), ratio=(4.0, 4.0), key=jax.random.key(0))
    out = jax.jit(erase)(ONES[:20])
    np.testing.assert_array_equal(out, ONES[:20])


def test_the_random_fill_is_noise_of_the_full_range():
    images = jnp.full((50, 20, 20, 3), 0.125)
    erase = lambda x: random_erasing(x, probability=1.0, area=(0.3, 0.4), key=jax.random.key(3))
    out = np.asarray(jax.jit(erase)(images))
    changed = (out != 0.125).all(-1)
    assert changed.any((1, 2)).mean() > 0.9
    assert stats.kstest(out[changed].ravel(), stats.uniform(-1, 2).cdf).pvalue > 1e-4


@pytest.mark.parametrize("side", [4, 7])
def test_cutout_squares_are_clipped_and_their_middles_uniform(side):
    images = jnp.ones((3000, 9, 11, 2))
    erased = np.asarray(jax.jit(lambda x: cutout(x, side, key=jax.random.key(1)))(images)) == 0
    assert (erased[..., 0] == erased[..., 1]).all()
    masks = {}
    for y, x in np.ndindex(9, 11):
        mask = np.zeros((9, 11), bool)
        top, left = y - side // 2, x - side // 2
        mask[max(0, top) : top + side, max(0, left) : left + side] = True
        masks.setdefault(mask.tobytes(), []).append((y, x))
    counts = dict.fromkeys(masks, 0)
    for mask in erased[..., 0]:
        counts[mask.tobytes()] += 1
    expected = [3000 * len(places) / 99 for places in masks.values()]
    assert stats.chisquare(list(counts.values()), expected).pvalue > 1e-6


def test_rectangles():
    mask = rectangle(jnp.array([[1, 0], [-2, 3]]), jnp.array([[3, 2], [1, 9]]), 4, 5)[..., 0].astype(int)
    assert mask[0].tolist() == [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert mask[1].tolist() == [[0, 0, 0, 1, 1]] + [[0] * 5] * 3
