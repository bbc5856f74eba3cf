"""Masks of edits, against scipy's distances and against what each kind promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vision.ops.edit_masks import MASK_KINDS, box_mask, distance_to, feathered, grown, random_masks, reduced


def some_mask(seed, size=(9, 14)):
    return jax.random.bernoulli(jax.random.key(seed), 0.1, (*size, 1)).at[3, 4].set(True)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_distances_are_those_of_scipy(seed):
    mask = some_mask(seed)
    expected = ndimage.distance_transform_edt(~np.asarray(mask[..., 0]))
    np.testing.assert_allclose(distance_to(mask)[..., 0], expected, rtol=1e-6)


def test_an_empty_mask_is_infinitely_far_and_stays_empty():
    empty = jnp.zeros((5, 6, 1), bool)
    assert np.isinf(distance_to(empty)).all()
    assert not grown(empty, 3).any()
    assert (feathered(empty, 2) == 0.0).all()


def test_growing_and_shrinking():
    mask = box_mask((3, 2, 6, 5), (9, 12))
    assert mask.sum() == 9
    assert mask[2, 3]
    assert not mask[5, 6]
    np.testing.assert_array_equal(grown(mask, 0), mask)
    assert grown(mask, 1).sum() == 9 + 4 * 3  # no corners
    assert grown(mask, 1.5).sum() == 25
    np.testing.assert_array_equal(grown(grown(mask, 1.5), -1), mask)


def test_soft_borders_are_one_inside_and_exactly_zero_outside():
    mask = box_mask((4, 4, 6, 6), (10, 16))
    weight = np.asarray(feathered(mask, 3))[..., 0]
    np.testing.assert_array_equal(weight[4:6, 4:6], 1.0)
    np.testing.assert_allclose(weight[4, 6:11], [0.75, 0.5, 0.25, 0.0, 0.0])
    np.testing.assert_array_equal(feathered(mask, 0), mask.astype(jnp.float32))


def test_masks_of_latents_cover_all_that_may_change():
    weight = jnp.zeros((4, 6, 1)).at[1, 3].set(0.5)
    np.testing.assert_array_equal(reduced(weight, 2)[..., 0], [[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])


@functools.cache
def masks_of(kind):
    """24 masks of 16 rows and 20 columns, as one program."""
    make = jax.jit(lambda key: random_masks(24, (16, 20), kinds=(kind,), key=key))
    found = np.asarray(make(jax.random.key(0)))[..., 0]
    np.testing.assert_array_equal(found, np.asarray(make(jax.random.key(0)))[..., 0])
    return found


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_random_masks_are_what_they_are_called(kind):
    masks = masks_of(kind)
    shares = masks.mean((1, 2))
    assert ((shares > 0.0) & (shares < 1.0)).all()
    expected = {"half": (0.5, 0.5), "every_second_line": (0.5, 0.5), "every_second_pixel": (0.75, 0.75)}
    low, high = {**expected, "expand": (0.75, 0.75), "box": (0.05, 0.6), "thick": (0.03, 0.9)}.get(kind, (0.003, 0.5))
    assert low <= shares.min()
    assert shares.max() <= high
    if kind == "box":
        for mask in masks:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert mask.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    if kind in ("half", "every_second_line", "thin", "thick", "box"):
        assert (masks != masks[0]).any()


def test_thick_strokes_are_thicker_than_thin_ones():
    assert masks_of("thick").mean() > 2 * masks_of("thin").mean()


def test_all_kinds_occur():
    masks = np.asarray(jax.jit(lambda key: random_masks(64, (8, 8), key=key))(jax.random.key(2)))
    assert {0.5, 0.75} <= set(masks.mean((1, 2, 3)).tolist())
    assert len({mask.tobytes() for mask in masks}) > 20
