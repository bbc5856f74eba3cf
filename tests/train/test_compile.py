import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from vision.errors import UserError
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.train.compile import Compiler
from vision.train.flops import count_flops
from vision.train.state import create_state
from vision.train.step import gradient, repeated

OPTIMIZER = optax.sgd(0.1, momentum=0.9)
RULES = ((r"params/w$|trace/w$", P(None, "tensor")),)


def init(key):
    params_key, run_key = jax.random.split(key)
    params = {"w": jax.random.normal(params_key, (6, 8)), "b": jnp.zeros(8)}
    return create_state(params=params, optimizer=OPTIMIZER, key=run_key, ema={"ema": None})


def loss(params, model_state, batch, *, key, step):
    out = batch["x"] @ params["w"] + params["b"] + 0.1 * jax.random.normal(key, (8,))
    return jnp.square(out).mean(), (model_state, {})


def batch(size=16, *, seed=0, lead=()):
    return {"x": np.random.default_rng(seed).normal(size=(*lead, size, 6)).astype(np.float32)}


def test_traced_once_over_many_steps(one_device):
    compiler = Compiler(one_device)
    step, state = compiler.step(gradient(loss, OPTIMIZER), init), compiler.init(init, key=jax.random.key(0))
    for index in range(12):
        state, _ = step(state, compiler.shard(batch(seed=index)))
    assert (step.traces, int(state.step)) == (1, 12)
    assert step.compile_seconds > 0


def test_tracing_takes_neither_data_nor_a_state(one_device):
    compiler = Compiler(one_device)
    step = compiler.step(gradient(loss, OPTIMIZER), init)
    shapes, _ = compiler.state_shardings(init)
    step.program(shapes, {"x": jax.ShapeDtypeStruct((16, 6), jnp.float32)})
    step(compiler.init(init, key=jax.random.key(0)), compiler.shard(batch()))
    assert step.traces == 1


def test_operations_are_known_of_each_shape(one_device):
    compiler = Compiler(one_device)
    step = compiler.step(gradient(loss, OPTIMIZER), init, shapes=2)
    shapes, _ = compiler.state_shardings(init)
    small, large = (compiler.shard(batch(size)) for size in (8, 16))
    for each in (small, large):
        assert step.program(shapes, each).flops == step.flops(each)
        assert step.flops(each) == count_flops(gradient(loss, OPTIMIZER), shapes, each)
    assert step.flops(large).matrix == 2 * step.flops(small).matrix > 0


@pytest.mark.parametrize("shapes", [1, 2])
def test_one_batch_shape_too_many_raises_and_names_both(one_device, shapes):
    compiler = Compiler(one_device)
    step = compiler.step(gradient(loss, OPTIMIZER), init, shapes=shapes)
    state = compiler.init(init, key=jax.random.key(0))
    for size in (8, 16)[:shapes]:
        state, _ = step(state, compiler.shard(batch(size)))
    with pytest.raises(RuntimeError, match=rf"\(8, 6\).*\(24, 6\).*more than {shapes}"):
        step(state, compiler.shard(batch(24)))
    step(state, compiler.shard(batch(8)))  # the state was not given away to the step that did not happen
    assert step.traces == shapes


def test_another_dtype_is_another_shape(one_device):
    compiler = Compiler(one_device)
    step, state = compiler.step(gradient(loss, OPTIMIZER), init), compiler.init(init, key=jax.random.key(0))
    state, _ = step(state, compiler.shard(batch()))
    with pytest.raises(RuntimeError, match="float16"):
        step(state, compiler.shard({"x": batch()["x"].astype(np.float16)}))


def test_the_old_state_is_given_away(one_device):
    compiler = Compiler(one_device)
    step, old = compiler.step(gradient(loss, OPTIMIZER), init), compiler.init(init, key=jax.random.key(0))
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((old.params, old.opt_state))}
    new, _ = step(old, compiler.shard(batch()))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old.params, old.opt_state, old.ema, old.step)))
    # not merely deleted: the new state lives where the old one did
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((new.params, new.opt_state))} == pointers
    with pytest.raises((RuntimeError, ValueError), match=r"[Dd]eleted|donated"):
        step(old, compiler.shard(batch()))


def test_a_step_moves_nothing_between_host_and_devices():
    compiler = Compiler(make_mesh(MeshConfig(data=4, fsdp=2)))
    step, state = compiler.step(gradient(loss, OPTIMIZER), init), compiler.init(init, key=jax.random.key(0))
    with jax.transfer_guard("disallow"):
        placed = compiler.shard(batch())
        for _ in range(3):
            state, scalars = step(state, placed)
        with pytest.raises(Exception, match=r"[Dd]isallowed"):
            jnp.add(scalars["loss"], np.ones(3))
    assert np.isfinite(float(scalars["loss"]))


def test_a_state_born_in_shards_is_the_one_of_a_single_device(one_device):
    split = Compiler(make_mesh(MeshConfig(data=2, fsdp=1, tensor=4)), RULES)
    state = split.init(init, key=jax.random.key(5))
    assert state.params["w"].sharding.shard_shape((6, 8)) == (6, 2)
    assert state.opt_state[0].trace["w"].sharding.shard_shape((6, 8)) == (6, 2)
    assert state.params["b"].sharding.is_fully_replicated
    alone = Compiler(one_device).init(init, key=jax.random.key(5))
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(alone), strict=True):
        if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other)


def test_the_shardings_of_a_state_survive_a_step():
    compiler = Compiler(make_mesh(MeshConfig(data=2, fsdp=1, tensor=4)), RULES)
    step, state = compiler.step(gradient(loss, OPTIMIZER), init), compiler.init(init, key=jax.random.key(0))
    before = jax.tree.map(lambda leaf: leaf.sharding, state)
    state, scalars = step(state, compiler.shard(batch()))
    after = jax.tree.map(lambda leaf: leaf.sharding, state)
    same = jax.tree.map(lambda a, b, leaf: a.is_equivalent_to(b, leaf.ndim), before, after, state)
    assert all(jax.tree.leaves(same))
    assert scalars["loss"].sharding.is_fully_replicated


def test_batches_are_cut_over_data_and_fsdp_but_not_tensor():
    compiler = Compiler(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    whole = batch(16)["x"]
    placed = compiler.shard({"x": whole})["x"]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(4, 6)}
    np.testing.assert_array_equal(placed, whole)
    stacked = batch(16, lead=(3,))["x"]
    placed = compiler.shard({"x": stacked}, dispatch=3)["x"]
    assert {shard.data.shape for shard in placed.addressable_shards} == {(3, 4, 6)}
    np.testing.assert_array_equal(placed, stacked)


def test_several_steps_in_one_dispatch():
    compiler = Compiler(make_mesh(MeshConfig()))
    single = gradient(loss, OPTIMIZER)
    step = compiler.step(repeated(single, 3), init, dispatch=3)
    state, _ = step(compiler.init(init, key=jax.random.key(0)), compiler.shard(batch(lead=(3,)), dispatch=3))
    alone = compiler.init(init, key=jax.random.key(0))
    one = compiler.step(single, init)
    for part in batch(lead=(3,))["x"]:
        alone, _ = one(alone, compiler.shard({"x": part}))
    assert int(state.step) == 3
    np.testing.assert_allclose(state.params["w"], alone.params["w"], rtol=1e-5, atol=1e-6)


def test_results_of_functions_are_whole_on_every_device():
    compiler = Compiler(make_mesh(MeshConfig(data=4, fsdp=2)))
    doubled = compiler.function(lambda batch: 2 * batch["x"])(compiler.shard(batch()))
    assert doubled.sharding.is_fully_replicated
    np.testing.assert_array_equal(doubled, 2 * batch()["x"])


@pytest.mark.parametrize(
    ("size", "microbatches", "fits"), [(16, 1, True), (16, 2, True), (16, 4, False), (12, 1, False)]
)
def test_a_batch_must_be_shared_equally(size, microbatches, fits):
    compiler = Compiler(make_mesh(MeshConfig()))
    if fits:
        compiler.check_batch_size(size, microbatches=microbatches)
    else:
        with pytest.raises(UserError, match=rf"batch of {size}.*8 devices.*multiple of {8 * microbatches}"):
            compiler.check_batch_size(size, microbatches=microbatches)
