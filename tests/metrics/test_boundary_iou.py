"""Boundary IoU against masks taken one by one and the published code's borders.

The golden values are made by make_segmentation_metrics_golden.py.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from segmentation_maps import CLASSES, VOID, masks, semantic_maps

from vision.errors import UserError
from vision.metrics.segmentation.boundary import compute, init, merge, update
from vision.ops.outlines import boundary_distance, mask_outline
from vision.parallel.mesh import MeshConfig, make_mesh

GOLDEN = Path(__file__).parents[1] / "golden" / "segmentation_metrics.npz"
_update = jax.jit(partial(update, ignore=VOID))


@pytest.mark.parametrize("ratio", [0.005, 0.02, 0.1])
def test_borders_are_those_of_the_published_code(ratio):
    golden = np.load(GOLDEN)[f"boundaries_{ratio}"]
    made = masks(0)
    distance = boundary_distance(*made.shape[1:], ratio=ratio)
    np.testing.assert_array_equal([mask_outline(mask, distance) for mask in made], golden)


def _brute(predicted, truth, distances):
    """Class by class and mask by mask."""
    shared, either = np.zeros((2, CLASSES), int)
    for found, true, distance in zip(np.where(truth == VOID, VOID, predicted), truth, distances, strict=True):
        for c in range(CLASSES):
            one, other = (mask_outline(of == c, distance) for of in (found, true))
            shared[c] += (one & other).sum()
            either[c] += (one | other).sum()
    return np.divide(shared, either, out=np.full(CLASSES, np.nan), where=either > 0)


def _sums(predicted, truth, distances, mask=None):
    mask = np.ones(len(truth), bool) if mask is None else mask
    return _update(init(CLASSES), *map(jnp.asarray, (predicted, truth, np.array(distances, np.int32), mask)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_those_of_single_masks(seed):
    predicted, truth = semantic_maps(seed)
    distances = np.random.default_rng(seed).integers(1, 6, len(truth)).tolist()
    scores = compute(_sums(predicted, truth, distances))
    expected = _brute(predicted, truth, distances)
    np.testing.assert_allclose(scores.class_boundary_iou, expected, rtol=1e-14)
    assert scores.mean_boundary_iou == pytest.approx(np.nanmean(expected))
    assert (scores.images, scores.scored) == (6, 4)


def test_padding_parts_and_void_change_nothing():
    predicted, truth = semantic_maps(1)
    distances = [1, 2, 3, 4, 2, 1]
    whole = _sums(predicted, truth, distances)
    mask = np.arange(6) < 4
    # masked images may hold anything, and so may predictions on void
    noise = np.random.default_rng(0).integers(-9, 9, truth.shape).astype(np.int32)
    first = _sums(
        np.where(mask[:, None, None] & (truth != VOID), predicted, noise), truth, [*distances[:4], 50, -3], mask
    )
    second = _sums(predicted, truth, distances, ~mask)
    for one, other in zip(jax.tree.leaves(merge(first, second)), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_eight_devices_count_as_one_does():
    predicted, truth = semantic_maps(4, images=8)
    distances, mask = np.array([1, 2, 3, 4] * 2, np.int32), np.arange(8) != 2
    split = NamedSharding(make_mesh(MeshConfig()), PartitionSpec("data"))
    sharded = [jax.device_put(of, split) for of in (predicted, truth, distances, mask)]
    assert len(sharded[0].sharding.device_set) == 8
    whole = NamedSharding(split.mesh, PartitionSpec())
    sums = jax.jit(partial(update, ignore=VOID), out_shardings=whole)(init(CLASSES), *sharded)
    expected = _brute(predicted[mask], truth[mask], distances[mask].tolist())
    np.testing.assert_allclose(compute(sums).class_boundary_iou, expected, rtol=1e-14)


def test_an_image_padded_with_void_is_the_image_alone():
    predicted, truth = semantic_maps(2)
    small = [of[:, :11, :14] for of in (predicted, truth)]
    padded = np.full((2, *truth.shape), VOID, np.int32)
    padded[:, :, :11, :14] = small
    distances = [2] * 6
    np.testing.assert_array_equal(compute(_sums(*padded, distances)).class_boundary_iou, _brute(*small, distances))


def test_a_perfect_prediction_has_one_and_a_blurred_border_less_than_its_iou():
    _, truth = semantic_maps(0)
    perfect = compute(_sums(truth, truth, [2] * 6))
    assert perfect.scalars() == {"mean_boundary_iou": 1.0}
    assert "2.0% of the diagonal wide" in perfect.protocol("toys")["mean_boundary_iou"]
    assert "6 images of toys, 5 classes" in perfect.protocol("toys")["mean_boundary_iou"]
    square = np.zeros((6, 20, 23), np.int32)
    square[:, 3:17, 3:17] = 1
    moved = np.roll(square, 1, 2)
    scores = compute(_sums(moved, square, [2] * 6))
    iou = 13 / 15
    assert scores.class_boundary_iou[1] < iou - 0.2


def test_invalid_input_is_refused():
    truth = jnp.zeros((1, 2, 2), jnp.int32)
    one = jnp.ones(1, jnp.int32)
    count = lambda predicted, truth: compute(update(init(3), predicted, truth, one, ignore=VOID))
    with pytest.raises(UserError, match="4 pixels are predicted"):
        count(truth - 1, truth)
    with pytest.raises(UserError, match="4 pixels have classes outside"):
        count(truth, truth + 3)
    with pytest.raises(UserError, match="1 images without a pixel of a known class"):
        count(truth, truth + VOID)
    with pytest.raises(UserError, match="at least 2 classes"):
        init(1)
