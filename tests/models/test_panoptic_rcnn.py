"""Panoptic networks: Mask R-CNN with its own names and numbers, the semantic branch, parameter counts."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_mask_rcnn import TINY

from vision.models.instances.mask_rcnn import MaskRcnn, MaskRcnnConfig
from vision.models.instances.panoptic import SHARDING_RULES, PanopticRcnn, PanopticRcnnConfig
from vision.models.segmentation.feature_pyramid import SemanticBranch
from vision.parallel.sharding import path_name

SMALL = PanopticRcnnConfig(TINY, stuff=4, branch_width=8)


def shapes(model):
    return jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)), train=False), jax.random.key(0))


@pytest.mark.parametrize(("norm", "count"), [("batch", 46_031_467), ("frozen", 45_978_347)])
def test_parameter_counts_for_the_133_classes_of_coco(norm, count):
    """Of the branch: seven 3x3 convolutions of 256 or 128 channels to 128, their normalisations, 54 logits."""
    made = shapes(PanopticRcnn(PanopticRcnnConfig(MaskRcnnConfig(norm=norm))))["params"]
    of = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert of(made) == count
    # one convolution of the strides 4 and 8, two of 16, three of 32
    branch = 9 * (4 * 256 + 3 * 128) * 128 + 7 * 2 * 128 + 129 * 54
    assert of(made["semantic"]) == branch
    assert of(made) - branch == of(shapes(MaskRcnn(MaskRcnnConfig(norm=norm)))["params"])


def test_all_but_the_branch_is_mask_rcnn():
    """With the same variables."""
    model, alone = PanopticRcnn(SMALL), MaskRcnn(TINY)
    image = jax.random.normal(jax.random.key(1), (1, 64, 96, 3))

    @jax.jit
    def run(key):
        variables = model.init(key, image, train=False)
        rest = {**variables, "params": {k: v for k, v in variables["params"].items() if k != "semantic"}}
        return model.apply(variables, image, train=False), alone.apply(rest, image, train=False), variables

    found, expected, variables = jax.device_get(run(jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, found.instances, expected)
    assert found.semantic.shape == (1, 64, 96, 5)
    assert found.semantic.dtype == np.float32
    assert found.semantic.std() > 0
    assert set(variables["params"]) - set(shapes(alone)["params"]) == {"semantic"}


def test_the_branch_takes_the_levels_that_regions_take():
    model = PanopticRcnn(SMALL)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)), train=False))
    variables = jax.device_get(init(jax.random.key(0)))
    levels = [jax.random.normal(jax.random.key(k), (1, 64 >> k, 64 >> k, 8)) for k in range(2, 7)]
    found = model.apply(variables, levels, method="semantic")
    branch = SemanticBranch(5, 8)
    named = {f"c{k}": each for k, each in enumerate(levels[:4], start=2)}
    own = branch.apply({"params": variables["params"]["semantic"]}, named)
    assert own.shape == (1, 16, 16, 5)
    expected = jax.image.resize(own, (1, 64, 64, 5), "bilinear")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # the coarsest level is for proposals alone
    other = model.apply(variables, [*levels[:4], 0 * levels[4]], method="semantic")
    np.testing.assert_array_equal(found, other)


def test_sharding_rules_name_parameters():
    made = shapes(PanopticRcnn(PanopticRcnnConfig()))
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(made)]
    for expression, _ in SHARDING_RULES:
        assert any(re.search(expression, name) for name in names), expression


def test_bfloat16_gives_float32_logits():
    config = replace(SMALL, instances=replace(TINY, backbone=replace(TINY.backbone, dtype="bfloat16")))
    model = PanopticRcnn(config)
    made = shapes(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.float32)}
    out = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), made, jnp.zeros((1, 64, 64, 3)))
    assert out.semantic.dtype == jnp.float32
