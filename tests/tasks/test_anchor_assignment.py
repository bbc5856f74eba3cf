"""Assignment against a slow reference that is written from its description, box by box and cell by cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_assignment import answers

from vision.tasks.anchor_assignment import assign

ANCHORS = np.array([[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]], np.float32)
STRIDE, ROWS, COLUMNS, SLOTS = 8, 8, 12, 6
_assign = jax.jit(
    lambda boxes, valid: assign(boxes, valid, anchors=jnp.asarray(ANCHORS), stride=STRIDE, grid=(ROWS, COLUMNS)),
)


def reference(boxes, valid):
    return answers(boxes, valid, anchors=ANCHORS.tolist(), stride=STRIDE, grid=(ROWS, COLUMNS))


def found(boxes, valid):
    result = jax.device_get(_assign(boxes, valid))
    image = np.broadcast_to(np.arange(len(boxes))[:, None], result.row.shape)
    columns = (image, result.row, result.column, result.anchor, result.box)
    listed = [tuple(int(v) for v in row) for row in np.stack(columns, -1)[result.valid]]
    assert len(listed) == len(set(listed)), "an answer is given twice"
    return set(listed)


# Quarters of pixels, so that centres on borders and in the middle of cells are frequent and exact
_edge = st.integers(0, 4 * STRIDE * COLUMNS).map(lambda quarter: quarter / 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_edge, _edge, _edge, _edge, st.booleans()), min_size=2 * SLOTS, max_size=2 * SLOTS))
def test_equals_the_reference(drawn):
    array = np.array([each[:4] for each in drawn], np.float32).reshape(2, SLOTS, 4)
    limits = np.array([COLUMNS * STRIDE, ROWS * STRIDE] * 2, np.float32)
    corners = np.minimum(
        np.concatenate([np.minimum(array[..., :2], array[..., 2:]), np.maximum(array[..., :2], array[..., 2:])], -1),
        limits,
    )
    valid = np.array([each[4] for each in drawn]).reshape(2, SLOTS)
    assert found(corners, valid) == reference(corners, valid)


def around(x, y, w=16.0, h=16.0):
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        (around(20, 20), {(2, 2), (2, 3), (3, 2)}),  # the middle of a cell: the right and the lower one
        (around(18, 21), {(2, 2), (2, 1), (3, 2)}),
        (around(24, 24), {(3, 3), (3, 2), (2, 3)}),  # the corner of four cells
        (around(9, 9, 16, 16), {(1, 1), (1, 0), (0, 1)}),
        (around(3, 3, 6, 6), {(0, 0)}),  # its nearest neighbours are outside
        ([80.0, 48.0, 96.0, 64.0], {(7, 11), (7, 10), (6, 11)}),  # in the corner of the image
        ([96.0, 64.0, 96.0, 64.0], set()),  # no size
        ([0.0, 0.0, 96.0, 64.0], {(4, 6), (4, 5), (3, 6)}),
        ([0.0, 0.0, 2.0, 2.0], set()),  # smaller than a quarter of every anchor
    ],
)
def test_by_hand(box, cells):
    boxes = np.zeros((1, SLOTS, 4), np.float32)
    boxes[0, 0] = box
    given = found(boxes, np.arange(SLOTS)[None] < 1)
    assert {(row, column) for _, row, column, _, _ in given} == cells
    assert given == reference(boxes, np.arange(SLOTS)[None] < 1)


def test_a_ratio_of_exactly_four_does_not_match():
    boxes = np.zeros((1, SLOTS, 4), np.float32)
    boxes[0, 0] = around(48, 32, 40, 52)  # four times the first anchor, and near the others
    assert {anchor for _, _, _, anchor, _ in found(boxes, np.arange(SLOTS)[None] < 1)} == {1, 2}
