"""Detectors: published parameter counts, shapes, gradients, folding, sharding, pixels."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.yolo import SHARDING_RULES, YOLO_L, YOLO_M, YOLO_N, YOLO_S, YOLO_X, Yolo, YoloConfig, scaled_anchors
from vision.nn.fusion import fold, folded_norm
from vision.parallel.sharding import path_name
from vision.ranges import check_ranges

TINY = YoloConfig(depth=0.33, width=0.125, classes=2)
COUNTS = {1_872_157: YOLO_N, 7_235_389: YOLO_S, 21_190_557: YOLO_M, 46_563_709: YOLO_L, 86_749_405: YOLO_X}


def shapes(config, side=64):
    return jax.eval_shape(
        lambda key: Yolo(config).init(key, jnp.zeros((1, side, side, 3)), train=False), jax.random.key(0)
    )


@pytest.fixture(scope="module")
def tiny():
    """Variables whose statistics and scales are not those they begin with."""
    generator = np.random.default_rng(0)
    made = shapes(TINY)
    draw = {"kernel": lambda s: 0.1 * generator.normal(size=s), "var": lambda s: generator.uniform(0.5, 2, s)}
    other = lambda s: generator.normal(1.0, 0.3, size=s)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: draw.get(path[-1].key, other)(leaf.shape).astype(np.float32), made
    )


@pytest.mark.parametrize("count", COUNTS)
def test_published_parameter_counts(count):
    """For 80 classes, before folding."""
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(COUNTS[count])["params"])) == count


def test_predictions_have_three_strides_and_begin_unsure():
    images = jnp.zeros((2, 64, 96, 3))
    variables = jax.jit(lambda key: Yolo(TINY).init(key, images, train=False))(jax.random.key(0))
    found = jax.eval_shape(lambda v, x: Yolo(TINY).apply(v, x, train=False), variables, images)
    assert [level.shape for level in found] == [(2, 8, 12, 3, 7), (2, 4, 6, 3, 7), (2, 2, 3, 3, 7)]
    assert {level.dtype for level in found} == {jnp.dtype(jnp.float32)}
    for level in (3, 4, 5):
        bias = variables["params"][f"detect_{level}"]["bias"].reshape(3, 7)
        np.testing.assert_allclose(jax.nn.sigmoid(bias[:, 4:]), TINY.prior, rtol=1e-5)
        np.testing.assert_array_equal(bias[:, :4], 0)


def test_every_parameter_has_a_gradient_and_remat_is_plain(tiny):
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))

    def gradients(config):
        def loss(params):
            raw, new = Yolo(config).apply({**tiny, "params": params}, images, train=True, mutable=["batch_stats"])
            return sum(jnp.mean((level - 1.0) ** 2) for level in raw), new

        return jax.jit(jax.grad(loss, has_aux=True))(tiny["params"])

    (found, new), (again, same) = gradients(TINY), gradients(replace(TINY, remat=True))
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(again), strict=True):
        assert np.abs(leaf).max() > 0, path_name(path)
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-4, err_msg=path_name(path))
    for (path, leaf), other, before in zip(
        jax.tree_util.tree_leaves_with_path(new),
        jax.tree.leaves(same),
        jax.tree.leaves(tiny["batch_stats"]),
        strict=True,
    ):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-4, err_msg=path_name(path))
        assert not np.array_equal(leaf, before), path_name(path)


def test_folded_normalisation_predicts_the_same(tiny):
    images = jax.random.normal(jax.random.key(1), (2, 64, 64, 3))
    plain = jax.jit(lambda v, x: Yolo(TINY).apply(v, x, train=False))(tiny, images)
    network = Yolo(TINY, norm=folded_norm)
    folded = fold(tiny, epsilon=lambda path: 1e-3)
    found = jax.jit(lambda v, x: network.apply(v, x, train=False))(folded, images)
    expected = jax.eval_shape(lambda key: network.init(key, images, train=False), jax.random.key(0))
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, expected)
    for level, same in zip(plain, found, strict=True):
        np.testing.assert_allclose(level, same, rtol=1e-3, atol=1e-3 * np.abs(level).max())
    with pytest.raises(UserError, match="is for inference"):
        jax.eval_shape(lambda v, x: network.apply(v, x, train=True), folded, images)
    stats = {"a": {"norm": {"mean": np.zeros(1), "var": np.ones(1)}}}
    with pytest.raises(UserError, match="normalisation a/norm has no sibling convolution conv"):
        fold({"params": {"a": {"norm": {"scale": np.ones(1)}}}, "batch_stats": stats}, epsilon=lambda path: 1e-3)


def test_anchors_go_with_the_size_of_images():
    assert scaled_anchors(640) == TINY.anchors
    assert scaled_anchors(320)[:4] == (5.0, 6.5, 8.0, 15.0)
    assert TINY.anchor_levels.tolist()[2][1] == [156, 198]
    assert replace(TINY, anchors=scaled_anchors(64)).anchors_per_cell == 3


def test_pixels_are_scaled_for_the_weights(tiny):
    """Of one image, as [-1, 1], as [0, 1] and normalised: the network computes with the same numbers."""
    image = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3))
    mean, deviation = jnp.array([0.485, 0.456, 0.406]), jnp.array([0.229, 0.224, 0.225])
    given = {"symmetric": image, "unit": 2 * image - 1, "imagenet": 2 * (image * deviation + mean) - 1}
    run = lambda pixels: jax.jit(partial(Yolo(replace(TINY, pixels=pixels)).apply, train=False))(tiny, given[pixels])
    for pixels in ("unit", "imagenet"):
        for one, other in zip(run(pixels), run("symmetric"), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())


def test_bfloat16_computes_and_float32_comes_out():
    config = replace(TINY, dtype="bfloat16")
    made = shapes(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}
    text = jax.jit(lambda v, x: Yolo(config).apply(v, x, train=False)).lower(made, jnp.zeros((1, 64, 64, 3))).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions
    assert all("bf16" in line for line in convolutions)


def test_sharding_rules_name_parameters():
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes(TINY))]
    for expression, _ in SHARDING_RULES[:3]:
        assert any(re.search(expression, name) for name in names), expression


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"anchors": (1.0, 1.0)}, "anchors must be pairs, equally many for each of 3 strides"),
        ({"anchors": (0.0, 1.0) * 3}, "anchors must be more than 0, not 0"),
        ({"classes": 0}, "classes must be at least 1 "),
    ],
)
def test_shapes_that_cannot_be(change, words):
    with pytest.raises(UserError, match=words):
        check_ranges(replace(TINY, **change))


def test_images_that_do_not_fit():
    with pytest.raises(UserError, match="sides are multiples of 32, not 40x64"):
        jax.eval_shape(lambda k: Yolo(TINY).init(k, jnp.zeros((1, 40, 64, 3)), train=False), jax.random.key(0))
