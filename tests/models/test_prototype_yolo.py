"""Networks with prototypes: published parameter counts, shapes, gradients, remat, folding, sharding."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.instances.prototypes import SHARDING_RULES, PrototypeConfig, PrototypeYolo
from vision.models.yolo import YOLO_L, YOLO_M, YOLO_N, YOLO_S, YOLO_X, Yolo, YoloConfig
from vision.nn.fusion import fold, folded_norm
from vision.parallel.sharding import path_name
from vision.ranges import check_ranges

TINY = PrototypeConfig(YoloConfig(depth=0.33, width=0.125, classes=2), prototypes=5, width=64)
# For 80 classes, before folding, with the published numbers of millions
COUNTS = {
    1_991_549: (YOLO_N, 2.0),
    7_621_277: (YOLO_S, 7.6),
    21_990_397: (YOLO_M, 22.0),
    47_924_957: (YOLO_L, 47.9),
    88_819_517: (YOLO_X, 88.8),
}


def shapes(network):
    return jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, 64, 64, 3)), train=False),
        jax.random.key(0),
    )


@pytest.fixture(scope="module")
def tiny():
    """Variables whose statistics and scales are not those they begin with."""
    generator = np.random.default_rng(0)
    small = lambda s: 0.1 * generator.normal(size=s)
    draw = {"kernel": small, "mean": small, "var": lambda s: generator.uniform(0.5, 2, s)}
    other = lambda s: generator.normal(1.0, 0.3, size=s)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: draw.get(path[-1].key, other)(leaf.shape).astype(np.float32), shapes(PrototypeYolo(TINY))
    )


@pytest.mark.parametrize("count", COUNTS)
def test_published_parameter_counts(count):
    config, millions = COUNTS[count]
    made = shapes(PrototypeYolo(PrototypeConfig(config)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == count
    assert round(count / 1e6, 1) == millions


def test_it_is_the_detector_with_more():
    """The names of the detector and the shapes of all but its last layers; a branch, and coefficients that begin at 0.

    The biases of what the detector predicts are its own.
    """
    made = shapes(PrototypeYolo(TINY))
    plain = shapes(Yolo(TINY.yolo))
    for kind in ("params", "batch_stats"):
        branch = made[kind].pop("prototypes")
        assert branch.keys() == {"before", "after", "project"}
        assert made[kind].keys() == plain[kind].keys()
        for name, tree in plain[kind].items():
            assert name.startswith("detect_") or tree == made[kind][name], name
    variables = jax.jit(lambda key: PrototypeYolo(TINY).init(key, jnp.zeros((1, 32, 32, 3)), train=False))(
        jax.random.key(0)
    )
    for level in (3, 4, 5):
        bias = variables["params"][f"detect_{level}"]["bias"].reshape(3, 12)
        np.testing.assert_allclose(jax.nn.sigmoid(bias[:, 4:7]), TINY.yolo.prior, rtol=1e-5)
        assert not np.any(bias[:, :4])
        assert not np.any(bias[:, 7:])


def test_predictions_have_three_strides_and_a_quarter_of_the_sides():
    images = jnp.zeros((2, 64, 96, 3))
    network = PrototypeYolo(replace(TINY, yolo=replace(TINY.yolo, dtype="bfloat16")))
    made = jax.eval_shape(lambda key: network.init(key, images, train=False), jax.random.key(0))
    found = jax.eval_shape(lambda v, x: network.apply(v, x, train=False), made, images)
    assert [level.shape for level in found.raw] == [(2, 8, 12, 3, 7), (2, 4, 6, 3, 7), (2, 2, 3, 3, 7)]
    assert [level.shape for level in found.coefficients] == [(2, 8, 12, 3, 5), (2, 4, 6, 3, 5), (2, 2, 3, 3, 5)]
    assert found.prototypes.shape == (2, 16, 24, 5)
    assert {leaf.dtype for leaf in jax.tree.leaves((made, found))} == {jnp.dtype(jnp.float32)}


def test_every_parameter_has_a_gradient_and_remat_is_plain(tiny):
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))

    def gradients(config):
        def loss(params):
            found, new = PrototypeYolo(config).apply(
                {**tiny, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return sum(jnp.mean((leaf - 1.0) ** 2) for leaf in jax.tree.leaves(found)), new

        return jax.jit(jax.grad(loss, has_aux=True))(tiny["params"])

    (found, new), (again, _) = gradients(TINY), gradients(replace(TINY, yolo=replace(TINY.yolo, remat=True)))
    for (path, leaf), other in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(again), strict=True):
        assert np.abs(leaf).max() > 0, path_name(path)
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-4, err_msg=path_name(path))
    for (path, leaf), before in zip(
        jax.tree_util.tree_leaves_with_path(new), jax.tree.leaves(tiny["batch_stats"]), strict=True
    ):
        assert not np.array_equal(leaf, before), path_name(path)


def test_folded_normalisation_predicts_the_same(tiny):
    images = jax.random.normal(jax.random.key(1), (2, 32, 64, 3))
    plain = jax.jit(lambda v, x: PrototypeYolo(TINY).apply(v, x, train=False))(tiny, images)
    network = PrototypeYolo(TINY, norm=folded_norm)
    folded = fold(tiny, epsilon=lambda path: 1e-3)
    found = jax.jit(lambda v, x: network.apply(v, x, train=False))(folded, images)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, shapes(network))
    for leaf, same in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(leaf, same, rtol=1e-3, atol=1e-3 * np.abs(leaf).max())
    # a tanh, also of raw values far beyond its range, and a ReLU
    assert max(np.max(np.abs(level)) for level in found.coefficients) <= 1
    assert np.min(found.prototypes) == 0 < np.max(found.prototypes)


def test_sharding_rules_name_parameters():
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes(PrototypeYolo(TINY)))]
    for expression, _ in SHARDING_RULES:
        assert any(re.search(expression, name) for name in names), expression


def test_what_cannot_be():
    with pytest.raises(UserError, match="prototypes must be at least 1 "):
        check_ranges(replace(TINY, prototypes=0))
    with pytest.raises(UserError, match="width must be at least 1 "):
        check_ranges(replace(TINY, width=0))
    with pytest.raises(UserError, match="sides are multiples of 32, not 40x64"):
        jax.eval_shape(lambda k: PrototypeYolo(TINY).init(k, jnp.zeros((1, 40, 64, 3)), train=False), jax.random.key(0))
