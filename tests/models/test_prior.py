"""The prior's transformer: what a token sees, padding, gradients, recomputation, sizes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.prior import (
    PRIORS,
    PUBLISHED,
    SCALE,
    PriorConfig,
    PriorTransformer,
    condition_shapes,
    initial_variables,
)
from vision.nn.transformer import TransformerBlock
from vision.parallel.sharding import path_name

SMALL = PriorConfig(width=8, depth=2, heads=2, embedding=6, text_embedding=5, text_width=4, text_length=3)
FORMS = {
    "plain": SMALL,
    "normed": dataclasses.replace(
        SMALL, norm_in=True, text_norm=True, query=False, time_width=12, time_activation="gelu"
    ),
    "embedding alone": dataclasses.replace(SMALL, text_width=0),
    "states alone": dataclasses.replace(SMALL, text_embedding=0),
}
MASK = np.array([[True, True, False], [True, True, True]])


def inputs(config):
    generator = np.random.default_rng(0)
    condition = {
        name: jnp.asarray(generator.normal(size=shape), jnp.float32)
        for name, shape in condition_shapes(config, 2).items()
    }
    if config.text_width:
        condition["text_mask"] = jnp.asarray(MASK)
    return jnp.asarray(generator.normal(size=(2, 1, 1, config.embedding)), jnp.float32), jnp.array([3, 70]), condition


def params_of(config):
    """Parameters none of which is zero."""
    generator = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: initial_variables(config, jax.random.key(0)))["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(0.4 * generator.normal(size=leaf.shape), jnp.float32), shapes)


def predicted(config, params, *arguments):
    return jax.jit(lambda *of: PriorTransformer(config).apply({"params": params}, *of, train=False))(*arguments)


def test_the_published_size():
    made = jax.eval_shape(lambda: initial_variables(PUBLISHED, jax.random.key(0)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(made)) == 1_022_030_080
    assert {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(made[SCALE])} == {"mean", "deviation"}
    paper = PriorConfig(**dataclasses.asdict(PRIORS["paper"]))
    made = jax.eval_shape(lambda: initial_variables(paper, jax.random.key(0)))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(made["params"])) == 1_223_461_632


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_has_a_gradient_and_remat_changes_nothing(form):
    def gradient(config):
        def value(params):
            out = PriorTransformer(config).apply({"params": params}, *inputs(config), train=True)
            return jnp.sum(jnp.sin(out * jnp.arange(1, config.embedding + 1)))

        return jax.jit(jax.grad(value))(params_of(config))

    plain = gradient(FORMS[form])
    for path, leaf in jax.tree_util.tree_leaves_with_path(plain):
        assert np.abs(leaf).max() > 1e-7, path_name(path)
    again = gradient(dataclasses.replace(FORMS[form], remat=True))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5), again, plain)


@pytest.mark.parametrize("form", FORMS)
def test_predictions_depend_on_all_that_is_given(form):
    config = FORMS[form]
    noisy, time, condition = inputs(config)
    params = params_of(config)
    before = predicted(config, params, noisy, time, condition)
    assert before.shape == (2, 1, 1, 6)
    assert before.dtype == jnp.float32
    changed = [(noisy + 1, time, condition), (noisy, time + 9, condition)]
    changed += [
        (noisy, time, {**condition, name: value.at[:, 0].add(1)})
        for name, value in condition.items()
        if name != "text_mask"
    ]
    for arguments in changed:
        assert np.abs(predicted(config, params, *arguments) - before).max((1, 2, 3)).min() > 1e-4


def test_padding_has_no_effect():
    noisy, time, condition = inputs(SMALL)
    params = params_of(SMALL)
    before = predicted(SMALL, params, noisy, time, condition)
    other = {**condition, "text_states": condition["text_states"].at[:, 2].set(1e3)}
    after = predicted(SMALL, params, noisy, time, other)
    np.testing.assert_allclose(after[0], before[0], atol=1e-6)
    assert np.abs(after[1] - before[1]).max() > 1e-4
    nothing = {**condition, "text_mask": jnp.zeros((2, 3), bool)}
    found = predicted(SMALL, params, noisy, time, nothing)
    assert np.isfinite(found).all()
    states = {**nothing, "text_states": condition["text_states"] + 5}
    np.testing.assert_allclose(predicted(SMALL, params, noisy, time, states), found, atol=1e-6)


def test_a_token_sees_those_before_it():
    """Tokens after each block: what comes later changes none of those before, and all from there on."""
    noisy, time, condition = inputs(SMALL)
    variables = {"params": params_of(SMALL)}
    blocks = lambda module, _: isinstance(module, TransformerBlock)

    def tokens(noisy, condition):
        _, kept = PriorTransformer(SMALL).apply(
            variables, noisy, time, condition, train=False, capture_intermediates=blocks, mutable=["intermediates"]
        )
        return np.stack([kept["intermediates"][f"block_{index}"]["__call__"][0] for index in range(2)])

    before = tokens(noisy, condition)
    assert before.shape[2] == 3 + 4  # text, its embedding, time, noisy embedding, query
    places = {
        0: (noisy, {**condition, "text_states": condition["text_states"].at[:, 0].add(1)}),
        3: (noisy, {**condition, "text_embedding": condition["text_embedding"] + 1}),
        5: (noisy + 1, condition),
    }
    for place, arguments in places.items():
        apart = np.abs(tokens(*arguments) - before).max((0, 3))[1]
        assert (apart[:place] < 1e-6).all()
        assert (apart[place:] > 1e-5).all()


def test_a_new_network_predicts_the_mean_of_all_embeddings():
    variables = initial_variables(SMALL, jax.random.key(0))
    np.testing.assert_array_equal(predicted(SMALL, variables["params"], *inputs(SMALL)), np.zeros((2, 1, 1, 6)))


def test_dropout_and_types():
    config = dataclasses.replace(SMALL, dropout=0.5, dtype="bfloat16")
    params = params_of(config)
    run = lambda seed: PriorTransformer(config).apply(
        {"params": params}, *inputs(config), train=True, rngs={"dropout": jax.random.key(seed)}
    )
    one, other = run(0), run(1)
    assert one.dtype == jnp.float32
    assert np.abs(one - other).max() > 1e-3
    wide = predicted(dataclasses.replace(config, dtype="float32"), params, *inputs(config))
    np.testing.assert_allclose(predicted(config, params, *inputs(config)), wide, atol=0.1 * np.abs(wide).max())


def test_what_is_refused():
    noisy, time, condition = inputs(SMALL)
    params = params_of(SMALL)
    rest = {name: value for name, value in condition.items() if name != "text_mask"}
    with pytest.raises(ValueError, match="was not given the condition 'text_mask'"):
        predicted(SMALL, params, noisy, time, rest)
    with pytest.raises(ValueError, match="a prior with the condition text_embedding was given the condition 'text_"):
        predicted(FORMS["embedding alone"], params, noisy, time, condition)
    odd = dataclasses.replace(SMALL, width=7, heads=7)
    with pytest.raises(UserError, match="width 7 is odd"):
        jax.eval_shape(lambda: initial_variables(odd, jax.random.key(0)))
    heads = dataclasses.replace(SMALL, heads=3)
    with pytest.raises(UserError, match="no multiple of 3 heads"):
        jax.eval_shape(lambda: initial_variables(heads, jax.random.key(0)))


def test_a_block_with_a_mask_is_one_of_fewer_tokens():
    block = TransformerBlock(2, causal=True)
    tokens = jax.random.normal(jax.random.key(0), (1, 5, 8))
    variables = block.init(jax.random.key(1), tokens, False)
    seen = jnp.ones((1, 5, 5), bool).at[:, :, 1].set(False).at[:, 1, 1].set(True)
    masked = block.apply(variables, tokens, False, seen)
    kept = jnp.array([0, 2, 3, 4])
    np.testing.assert_allclose(masked[:, kept], block.apply(variables, tokens[:, kept], False), atol=1e-6)
