"""The U-Net with a context: gradients, recomputation, masks, sides, conditions that it refuses, sharding."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.unet_condition.unet import SHARDING_RULES, ConditionUNet, ConditionUNetConfig
from vision.nn.down_and_up import down_and_up
from vision.parallel.sharding import path_name

SMALL = ConditionUNetConfig(
    widths=(8, 16), blocks=(1, 1), layers=(1, 1), heads=(2, 2), attending=(0,), groups=4, context=6, channels=3
)
JOINT = dataclasses.replace(
    SMALL, attention="joint", resampling="residual", conditioning="scale_shift", embedding="vector", out_channels=6
)
CONFIGS = {"transformer": SMALL, "joint": JOINT}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def given(config, height=4, width=4):
    """An image, times and conditions of two samples."""
    condition = {"context": normal(1, 2, 5, 6)}
    if config.embedding == "vector":
        condition["embedding"] = normal(2, 2, config.embedded)
    return normal(3, 2, height, width, 3), jnp.asarray([3, 700]), condition


def variables_of(config):
    """Random everywhere: what begins at 0 would let nothing through."""
    shapes = jax.eval_shape(lambda: ConditionUNet(config).init(jax.random.key(0), *given(config), train=False))
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [0.3 * normal(number, *leaf.shape) for number, leaf in enumerate(leaves)])


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_receives_a_gradient_and_remat_changes_nothing(name):
    config = CONFIGS[name]
    variables = variables_of(config)

    def gradient(config):
        loss = lambda v: jnp.sum(ConditionUNet(config).apply(v, *given(config), train=False) ** 2)
        return jax.jit(jax.grad(loss))(variables)

    plain, again = gradient(config), gradient(dataclasses.replace(config, remat=True))
    for path, leaf in jax.tree_util.tree_leaves_with_path(plain):
        key_bias = path_name(path).endswith("key/bias")  # adds the same to all logits of a query
        assert key_bias or float(jnp.abs(leaf).max()) > 0, path_name(path)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3), plain, again)


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_behind_a_mask_are_as_if_they_were_not_there(name):
    config, (image, time, condition) = CONFIGS[name], given(CONFIGS[name], height=4, width=8)
    variables = variables_of(config)
    call = jax.jit(lambda condition: ConditionUNet(config).apply(variables, image, time, condition, train=False))
    mask = jnp.asarray([[1, 1, 1, 0, 0]] * 2, bool)
    other = condition["context"].at[:, 3:].set(7.0)
    masked = call({**condition, "context_mask": mask})
    np.testing.assert_allclose(call({**condition, "context": other, "context_mask": mask}), masked, atol=1e-5)
    np.testing.assert_allclose(call({**condition, "context": other[:, :3]}), masked, rtol=1e-3, atol=1e-4)
    assert float(jnp.abs(call({**condition, "context": other}) - masked).max()) > 1e-2
    assert masked.shape == (2, 4, 8, config.out_channels or 3)


def test_bfloat16_computes_in_it_and_returns_float32():
    config = dataclasses.replace(JOINT, dtype="bfloat16")
    run = lambda: ConditionUNet(config).apply(variables_of(config), *given(config), train=False)
    assert jax.eval_shape(run).dtype == jnp.float32
    assert "bf16" in str(jax.make_jaxpr(run)())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"blocks": (1,)}, "model.blocks has 1 numbers for 2 levels"),
        ({"heads": (3, 2)}, "3 attention heads cannot share 8 channels equally"),
        ({"attending": (2,)}, "model.attending names a level that is none of 0 to 1"),
        ({"groups": 3}, "model.groups 3 does not divide the width 8"),
        ({"embedding": "linear"}, "model.embedding is linear and model.embedding_width is 0"),
        ({"embedding_width": 3}, "model.embedding is none and model.embedding_width is 3"),
    ],
)
def test_numbers_that_do_not_fit_each_other(changed, message):
    config = dataclasses.replace(SMALL, **changed)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: ConditionUNet(config).init(jax.random.key(0), *given(SMALL), train=False))


def test_conditions_that_it_was_not_built_for():
    image, time, condition = given(SMALL)
    init = lambda condition: jax.eval_shape(
        lambda: ConditionUNet(SMALL).init(jax.random.key(0), image, time, condition, train=False)
    )
    with pytest.raises(ValueError, match="was not given the condition 'context'"):
        init({})
    with pytest.raises(ValueError, match="was given the condition 'label'"):
        init({**condition, "label": jnp.zeros(2, jnp.int32)})
    with pytest.raises(ValueError, match=r"of shape \(2, 5, 4\), which should be \(2, 5, 6\)"):
        init({"context": condition["context"][..., :4]})


def test_sharding_rules_name_parameters():
    shapes = [
        jax.eval_shape(lambda config=config: ConditionUNet(config).init(jax.random.key(0), *given(config), train=False))
        for config in (SMALL, JOINT)
    ]
    names = [path_name(path) for tree in shapes for path, _ in jax.tree_util.tree_leaves_with_path(tree["params"])]
    unused = {
        *("duration_in", "duration_out", "level_in", "level_out"),
        *("_projection", "embedding_tokens", "embedding_in", "embedding_out"),
    }
    for expression, _ in SHARDING_RULES:
        found = any(re.search(expression, name) for name in names)
        assert found or any(each in expression for each in unused), expression


def test_the_way_down_and_up_keeps_every_result_for_later():
    """Each is used once, the last first; numbers of blocks may differ by level."""
    said = []

    def block(features, way, level, index):
        said.append((way, level, index, features.shape[-1]))
        return features[..., :1]

    made = down_and_up(
        jnp.zeros((1, 4, 4, 1)),
        blocks=(2, 1),
        block=block,
        halve=lambda features, level: features[:, ::2, ::2],
        middle=lambda features: features,
        double=lambda features, level: jnp.repeat(jnp.repeat(features, 2, 1), 2, 2),
    )
    assert made.shape == (1, 4, 4, 1)
    assert said == [
        *(("down", 0, 0, 1), ("down", 0, 1, 1), ("down", 1, 0, 1)),
        *(("up", 1, 0, 2), ("up", 1, 1, 2), ("up", 0, 0, 2), ("up", 0, 1, 2), ("up", 0, 2, 2)),
    ]
