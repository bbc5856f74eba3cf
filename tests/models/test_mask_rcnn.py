"""Region-based detectors: published parameter counts, the pyramid, anchors, proposals' shapes, sharding, types."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_mask_rcnn import TINY

from vision.errors import UserError
from vision.models.instances.heads import Doubled
from vision.models.instances.mask_rcnn import SHARDING_RULES, MaskRcnn, MaskRcnnConfig
from vision.models.instances.pyramid import FeaturePyramid
from vision.models.instances.region_proposals import cell_anchors
from vision.models.resnet import ResNetConfig
from vision.parallel.sharding import path_name
from vision.ranges import check_ranges

PUBLISHED = MaskRcnnConfig(classes=90)


def shapes(config, side=64):
    return jax.eval_shape(
        lambda key: MaskRcnn(config).init(key, jnp.zeros((1, side, side, 3)), train=False), jax.random.key(0)
    )


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"norm": "batch"}, 44_454_513),
        ({"norm": "batch", "mask": False}, 41_808_406),
        # the 53,120 scales and biases of the backbone are no parameters
        ({}, 44_401_393),
        ({"mask": False}, 41_755_286),
    ],
)
def test_published_parameter_counts(change, count):
    """With 91 classes, the background among them; those of torchvision's networks and published weights."""
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(replace(PUBLISHED, **change))["params"])) == count


def test_shapes_of_all_predictions():
    found = jax.eval_shape(
        lambda v, x, boxes: MaskRcnn(TINY).apply(v, x, boxes, train=False),
        shapes(TINY),
        jnp.zeros((2, 64, 96, 3)),
        jnp.zeros((2, 5, 4)),
    )
    cells = [16 * 24, 8 * 12, 4 * 6, 2 * 3, 1 * 2]
    assert [each.shape for each in found.regions.objectness] == [(2, 3 * n) for n in cells]
    assert [each.shape for each in found.regions.offsets] == [(2, 3 * n, 4) for n in cells]
    assert [each.shape for each in found.regions.anchors] == [(3 * n, 4) for n in cells]
    assert (found.logits.shape, found.offsets.shape, found.masks.shape) == ((2, 5, 4), (2, 5, 4, 4), (2, 5, 28, 28, 4))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    faster = replace(TINY, mask=False)
    without = jax.eval_shape(
        lambda v, x: MaskRcnn(faster).apply(v, x, train=False), shapes(faster), jnp.zeros((1, 64, 64, 3))
    )
    assert without.masks is None


def test_cell_anchors_are_the_published_ones():
    """Corners are whole: 22.6 x 45.3 is 46 x 22 for the first ratio, by rounding halves."""
    expected = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    np.testing.assert_array_equal(cell_anchors(32.0, (0.5, 1.0, 2.0)), expected)
    # halves go to even numbers
    np.testing.assert_array_equal(cell_anchors(5.0, (1.0,)), [[-2, -2, 2, 2]])


def test_the_pyramid_by_hand():
    """With lateral convolutions of ones and 3x3 convolutions of the middle: sums of what is above each cell."""
    levels = [jnp.full((1, side, side, 1), value) for side, value in ((8, 1.0), (4, 10.0), (2, 100.0))]
    levels[-1] = levels[-1] * jnp.arange(4.0).reshape(1, 2, 2, 1)
    pyramid = FeaturePyramid(1)
    shape = jax.eval_shape(lambda: pyramid.init(jax.random.key(0), levels))
    middle = np.zeros((3, 3, 1, 1), np.float32)
    middle[1, 1] = 1
    values = {1: np.ones((1, 1, 1, 1), np.float32), 3: middle}
    fill = lambda leaf: values[leaf.shape[0]] if leaf.ndim == 4 else np.zeros(leaf.shape, np.float32)
    found = pyramid.apply(jax.tree.map(fill, shape), levels)
    top = 100 * np.arange(4).reshape(2, 2)
    np.testing.assert_allclose(found[2][0, ..., 0], top)
    np.testing.assert_allclose(found[1][0, ..., 0], 10 + top.repeat(2, 0).repeat(2, 1))
    np.testing.assert_allclose(found[0][0, ..., 0], 11 + top.repeat(4, 0).repeat(4, 1))
    np.testing.assert_allclose(found[3][0, ..., 0], [[0]])


def test_a_transposed_convolution_of_2x2():
    features = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    layer = Doubled(6)
    variables = layer.init(jax.random.key(1), features)
    kernel = variables["params"]["kernel"]
    found = layer.apply(variables, features)
    assert found.shape == (2, 6, 8, 6)
    for a, b in np.ndindex(2, 2):
        np.testing.assert_allclose(found[:, a::2, b::2], features @ kernel[a, b], rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_and_float32_comes_out():
    config = replace(TINY, backbone=replace(TINY.backbone, dtype="bfloat16"))
    made = shapes(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}
    run = jax.jit(lambda v, x: MaskRcnn(config).apply(v, x, train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(run, made, jnp.zeros((1, 64, 64, 3))))} == {
        jnp.dtype(jnp.float32)
    }
    text = run.lower(made, jnp.zeros((1, 64, 64, 3))).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions
    assert all("bf16" in line for line in convolutions)


def test_sharding_rules_name_parameters():
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes(PUBLISHED))]
    for expression, _ in SHARDING_RULES:
        assert any(re.search(expression, name) for name in names), expression


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"anchor_sizes": (32.0,) * 4}, "anchor_sizes must have one side for each of 5 levels"),
        ({"anchor_sizes": (0.0, *(32.0,) * 4)}, "anchor_sizes must be more than 0, not 0"),
        ({"anchor_ratios": ()}, r"anchor_ratios must have at least 1 number"),
        ({"classes": 0}, "classes must be at least 1 "),
        ({"backbone": ResNetConfig(depths=(1, 1, 1))}, "four stages"),
        ({"backbone": ResNetConfig(depths=(1, 1, 1, 1), stem="cifar")}, "the stem imagenet or deep"),
    ],
)
def test_networks_that_cannot_be(change, words):
    with pytest.raises(UserError, match=words):
        check_ranges(replace(TINY, **change))


def test_images_that_do_not_fit():
    with pytest.raises(UserError, match="sides are multiples of 32, not 40x64"):
        jax.eval_shape(lambda k: MaskRcnn(TINY).init(k, jnp.zeros((1, 40, 64, 3)), train=False), jax.random.key(0))
