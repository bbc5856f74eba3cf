import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.train.state import create_state, variables, with_values

PARAMS = {"player": {"w": jnp.arange(3.0)}, "other": {"w": jnp.ones(2)}}


def test_one_optimizer_of_all_parameters():
    state = create_state(params=PARAMS, optimizer=optax.adam(1e-3), key=jax.random.key(0))
    assert jax.tree.structure(state.opt_state[0].mu) == jax.tree.structure(PARAMS)
    assert (int(state.step), state.step.dtype, state.model_state, state.ema) == (0, jnp.int32, {}, {})


def test_an_optimizer_for_each_player_and_an_average_of_one():
    state = create_state(
        params=PARAMS,
        optimizer={"player": optax.sgd(0.1, momentum=0.9)},
        key=jax.random.key(0),
        model_state={"mean": jnp.zeros(2)},
        ema={"ema": 0.99, "short": 0.9},
        averaging=lambda state: state.params["player"],
    )
    assert state.opt_state.keys() == {"player"}
    assert jax.tree.structure(state.opt_state["player"][0].trace) == jax.tree.structure(PARAMS["player"])
    assert state.ema.keys() == {"ema", "short"}
    np.testing.assert_array_equal(state.ema["ema"]["w"], PARAMS["player"]["w"])
    assert state.model_state.keys() == {"mean"}


def test_no_two_leaves_share_a_buffer():
    """A donated state whose average is the parameters themselves would give the same buffer away twice."""
    state = create_state(
        params={"w": jnp.arange(3.0)}, optimizer=optax.adam(1e-3), key=jax.random.key(0), ema={"a": None, "b": None}
    )
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.opt_state, state.ema))]
    assert len(set(pointers)) == len(pointers)


def test_a_state_is_a_tree_of_anything():
    state = create_state(params=PARAMS, optimizer=optax.adam(1e-3), key=jax.random.key(0), ema={"ema": None})
    shapes = jax.tree.map(lambda leaf: leaf.shape, state, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    assert shapes.params["player"]["w"] == (3,)
    assert shapes.key == ()


def test_variables_are_parameters_and_what_the_model_carries():
    state = create_state(
        params=PARAMS,
        optimizer=optax.adam(1e-3),
        key=jax.random.key(0),
        model_state={"batch_stats": {"mean": jnp.zeros(2)}},
        ema={"ema": None},
        averaging=variables,
    )
    assert variables(state).keys() == state.ema["ema"].keys() == {"params", "batch_stats"}
    assert jax.tree.structure(state.ema["ema"]) == jax.tree.structure(variables(state))


def test_given_values_take_the_place_of_others_by_path():
    tree = {"params": PARAMS, "batch_stats": {"mean": jnp.zeros(2, jnp.bfloat16)}}
    given = {"params/other/w": np.array([5.0, 6.0]), "batch_stats/mean": np.array([0.1, 3.0])}
    found = jax.jit(with_values)(tree, given)
    np.testing.assert_array_equal(found["params"]["other"]["w"], [5, 6])
    np.testing.assert_array_equal(found["params"]["player"]["w"], PARAMS["player"]["w"])
    assert [leaf.dtype for leaf in jax.tree.leaves(found)] == [leaf.dtype for leaf in jax.tree.leaves(tree)]
    np.testing.assert_array_equal(found["batch_stats"]["mean"], jnp.array([0.1, 3.0], jnp.bfloat16))
    with pytest.raises(ValueError, match="there is no params/w among the variables: batch_stats/mean, "):
        with_values(tree, {"params/w": np.zeros(2)})
    with pytest.raises(ValueError, match=r"params/other/w has the shape \(2,\) and is given an array of \(1,\)"):
        with_values(tree, {"params/other/w": np.zeros(1)})
