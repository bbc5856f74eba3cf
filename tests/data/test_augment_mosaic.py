"""Mosaics against an explicit canvas and SciPy's sampling of it, in float64, and painted boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from vision.data.augment.mosaic import (
    GREY,
    extents,
    gathered,
    group_size,
    meeting_points,
    mosaic,
    mosaic_boxes,
    neighbourhood,
)
from vision.data.augment.projective import random_motions

GENERATOR = np.random.default_rng(0)
MOTIONS = {
    "separable": {"translate": 0.2, "scale": 0.5, "flip": 0.5, "flip_vertical": 0.3},
    "projective": {"translate": 0.2, "scale": 0.5, "flip": 0.5, "degrees": 40.0, "shear": 20.0, "perspective": 0.4},
}


def _canvas(images, meeting, combined, sample):
    """The canvas of one sample as an image, by the definition."""
    side = images.shape[1]
    if not combined[sample]:
        return images[sample]
    canvas = np.full((2 * side, 2 * side, images.shape[3]), GREY)
    across, down = meeting[sample]
    corners = [(down - side, across - side), (down - side, across), (down, across - side), (down, across)]
    for (top, left), source in zip(corners, neighbourhood(len(images))[sample], strict=True):
        for i in range(side):
            for j in range(side):
                if 0 <= top + i < 2 * side and 0 <= left + j < 2 * side:
                    canvas[top + i, left + j] = images[source, i, j]
    return canvas


def _warped(canvas, matrix, size):
    row, column = np.mgrid[:size, :size] + 0.5
    x, y, w = np.linalg.inv(matrix.astype(float)) @ np.stack([column.ravel(), row.ravel(), np.ones(size**2)])
    assert (w > 0).all() or (w < 0).any()
    at = np.where(w > 0, [y / w - 0.5, x / w - 0.5], -1e3)
    channels = [
        ndimage.map_coordinates(canvas[..., k].astype(float), at, order=1, mode="grid-constant", cval=GREY)
        for k in range(canvas.shape[2])
    ]
    return np.stack(channels, axis=-1).reshape(size, size, -1)


def _inputs(batch, side, size, kind):
    """Some samples are mosaics and some are not; meeting points at their limits among them."""
    images = GENERATOR.uniform(-1, 1, (batch, side, side, 2)).astype(np.float32)
    meeting = GENERATOR.integers((side + 1) // 2, 3 * side // 2 + 1, (batch, 2)).astype(np.int32)
    meeting[0] = (side + 1) // 2, 3 * side // 2
    combined = np.arange(batch) % 3 != 1
    centre = np.stack([np.asarray(extents(jnp.asarray(combined), side)) / 2] * 2, axis=-1).astype(np.float32)
    matrices = random_motions(jnp.asarray(centre), side, size, **MOTIONS[kind], key=jax.random.key(batch))
    return images, meeting, combined, np.asarray(matrices)


@pytest.mark.parametrize(
    ("batch", "side", "size", "kind"),
    [
        (8, 12, 12, "separable"),
        (8, 12, 17, "projective"),
        (6, 9, 7, "projective"),
        (1, 8, 8, "separable"),
        (2, 8, 8, "separable"),
    ],
)
def test_mosaics_are_those_of_a_real_canvas(batch, side, size, kind):
    inputs = _inputs(batch, side, size, kind)
    run = jax.jit(lambda *of: mosaic(*of, size, separable=kind == "separable"))
    out = np.asarray(run(*inputs))
    images, meeting, combined, matrices = inputs
    for sample in range(batch):
        expected = _warped(_canvas(images, meeting, combined, sample), matrices[sample], size)
        np.testing.assert_allclose(out[sample], expected, atol=2e-4)


def test_separable_sampling_is_the_general_one():
    inputs = _inputs(8, 12, 16, "separable")
    quick, general = (jax.jit(lambda *of, s=s: mosaic(*of, 16, separable=s))(*inputs) for s in (True, False))
    np.testing.assert_allclose(quick, general, atol=1e-4)


def test_an_image_by_itself_that_does_not_move_is_exact():
    images, meeting, _, _ = _inputs(4, 10, 10, "separable")
    still = np.tile(np.eye(3, dtype=np.float32), (4, 1, 1))
    for separable in (True, False):
        run = jax.jit(lambda *of, s=separable: mosaic(*of, 10, separable=s))
        np.testing.assert_array_equal(run(images, meeting, np.zeros(4, bool), still), images)


@pytest.mark.parametrize(("batch", "group"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (9, 9), (16, 4), (10, 5)])
def test_groups_divide_the_batch_and_each_sample_is_in_four_mosaics(batch, group):
    assert group_size(batch) == group
    of = neighbourhood(batch)
    assert of.shape == (batch, 4)
    np.testing.assert_array_equal(of[:, 0], np.arange(batch))
    assert (np.bincount(of.ravel(), minlength=batch) == 4).all()
    assert (of // group == np.arange(batch)[:, None] // group).all()
    if group >= 4:
        assert all(len(set(row)) == 4 for row in of.tolist())
    values = jnp.arange(2 * batch).reshape(batch, 2)
    np.testing.assert_array_equal(gathered(values), np.asarray(values)[of])


def test_meeting_points_are_uniform():
    points = np.asarray(meeting_points(4000, 7, key=jax.random.key(0)))
    for axis in range(2):
        counts = np.bincount(points[:, axis], minlength=11)
        assert counts[:4].sum() == 0
        assert stats.chisquare(counts[4:]).pvalue > 1e-4
    assert points.max() == 10


# Corners of the cube of colours, one for each of two rectangles of each of four samples
COLOURS = np.array([[r, g, b] for r in (-1, 1) for g in (-1, 1) for b in (-1, 1)], np.float32)


def _painted(side):
    """Four grey images with two solid rectangles each, and their boxes; rectangle k has colour k."""
    images = np.full((4, side, side, 3), GREY, np.float32)
    boxes = np.zeros((4, 2, 4), np.float32)
    for sample in range(4):
        for k in range(2):
            left, top = GENERATOR.integers(2, side // 4, 2)
            wide, tall = GENERATOR.integers(side // 5, side // 4, 2)
            left += k * side // 2
            images[sample, top : top + tall, left : left + wide] = COLOURS[2 * sample + k]
            boxes[sample, k] = left, top, left + wide, top + tall
    return images, boxes


@pytest.mark.parametrize("kind", MOTIONS)
def test_painted_rectangles_are_where_their_boxes_are(kind):
    side, size = 48, 40
    checked, cut = 0, 0
    run = jax.jit(lambda *of: mosaic(*of, size, separable=kind == "separable"))
    place = jax.jit(lambda *of: mosaic_boxes(*of, side, size))
    for seed in range(15):
        images, boxes = _painted(side)
        _, meeting, combined, _ = _inputs(4, side, size, kind)
        centre = np.stack([np.where(combined, side, side / 2)] * 2, axis=-1).astype(np.float32)
        matrices = random_motions(jnp.asarray(centre), side, size, **MOTIONS[kind], key=jax.random.key(seed))
        out = np.asarray(run(images, meeting, combined, matrices))
        whole, visible = map(np.asarray, place(boxes, meeting, combined, matrices))
        assert whole.shape == visible.shape == (4, 8, 4)
        assert (visible >= 0).all()
        assert (visible <= size).all()
        for sample in range(4):
            for slot in range(8 if combined[sample] else 2):
                colour = 2 * neighbourhood(4)[sample][slot // 2] + slot % 2
                seen = (np.abs(out[sample] - COLOURS[colour]) < 0.55).all(-1)
                box = visible[sample, slot]
                uncut = np.allclose(whole[sample, slot], box)
                if not seen.any():
                    # A rotated rectangle may be outside while a corner of its box is not
                    assert (box[2:] - box[:2]).min() < 3 or not (uncut or kind == "separable")
                    continue
                rows, columns = np.nonzero(seen)
                found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                # Nothing is outside its box; and a box that is complete, or cropped along the axes, is full
                assert (found[:2] >= box[:2] - 1.5).all()
                assert (found[2:] <= box[2:] + 1.5).all()
                if (kind == "separable" or uncut) and (box[2:] - box[:2]).min() > 3:
                    np.testing.assert_allclose(found, box, atol=1.5)
                    checked += 1
                    cut += not uncut
    assert checked > 60
    assert cut > 10 or kind == "projective"


def test_boxes_that_leave_the_canvas_are_cut_there_and_are_complete():
    """The window covers more than the canvas, at half the scale; two images lose their left part at its border."""
    side, size = 8, 12
    boxes = np.tile(np.float32([[[0, 2, 8, 6]]]), (4, 1, 1))
    meeting = np.tile(np.int32([[5, 8]]), (4, 1))
    half = np.tile(np.float32([[0.5, 0, 2], [0, 0.5, 1], [0, 0, 1]]), (4, 1, 1))
    whole, visible = mosaic_boxes(*map(jnp.asarray, (boxes, meeting, np.ones(4, bool), half)), side, size)
    np.testing.assert_array_equal(whole[0], [[0.5, 2, 4.5, 4], [4.5, 2, 8.5, 4], [0.5, 6, 4.5, 8], [4.5, 6, 8.5, 8]])
    np.testing.assert_array_equal(visible[0], [[2, 2, 4.5, 4], [4.5, 2, 8.5, 4], [2, 6, 4.5, 8], [4.5, 6, 8.5, 8]])
