"""Several runs as one program: each replica is the run it would be alone, however the axis is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.parallel.mesh import MeshConfig, make_mesh
from vision.train.compile import Compiler
from vision.train.flops import count_flops
from vision.train.state import create_state
from vision.train.step import OverSeeds, averaged, gradient, has_convolution, repeated

OPTIMIZER = optax.sgd(0.2, momentum=0.9)
REPLICAS, STEPS, SIZE = 4, 3, 8


def init(key):
    """A convolution and a dense layer, large enough for fsdp to divide the dense one."""
    first, second, run = jax.random.split(key, 3)
    params = {
        "kernel": 0.3 * jax.random.normal(first, (3, 3, 2, 4)),
        "dense": 0.3 * jax.random.normal(second, (4 * 36, 128)),
    }
    return create_state(params=params, optimizer=OPTIMIZER, key=run, ema={"ema": None})


def loss(params, model_state, batch, *, key, step):
    del step
    noisy = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
    hidden = jax.lax.conv_general_dilated(
        noisy, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    out = jnp.tanh(hidden).reshape(hidden.shape[0], -1) @ params["dense"]
    return jnp.square(out - 1).mean(), (model_state, {"mean": out.mean()})


def dense_loss(params, model_state, batch, *, key, step):
    del step, key
    out = batch["x"].reshape(batch["x"].shape[0], -1) @ params["dense"][:72]
    return jnp.square(out - 1).mean(), (model_state, {})


STEP = averaged(gradient(loss, OPTIMIZER), {"ema": 0.9})


def batch(replica, step, *, size=SIZE):
    rng = np.random.default_rng([replica, step])
    return {"x": rng.normal(size=(size, 6, 6, 2)).astype(np.float32)}


def stacked(parts):
    return {"x": np.stack([part["x"] for part in parts])}


def alone(replica, *, step=STEP, one_device):
    compiler = Compiler(one_device)
    compiled, state = compiler.step(step, init), compiler.init(init, key=jax.random.key(replica))
    losses = []
    for index in range(STEPS):
        state, scalars = compiled(state, compiler.shard(batch(replica, index)))
        losses.append(float(scalars["loss"]))
    return jax.device_get((state.params, state.ema, state.opt_state)), losses


def members_init(key):
    del key
    return jax.vmap(init)(jax.vmap(jax.random.key)(jnp.arange(REPLICAS)))


def trained(config, *, sequential, step=STEP, numbers=None):
    mesh = make_mesh(config, replicas=REPLICAS)
    compiler = Compiler(mesh, replicas=REPLICAS)
    compiled = compiler.step(OverSeeds(step, REPLICAS, numbers, sequential=sequential), members_init)
    state, losses = compiler.init(members_init, key=jax.random.key(0)), []
    for index in range(STEPS):
        placed = compiler.shard(stacked([batch(replica, index) for replica in range(REPLICAS)]))
        state, scalars = compiled(state, placed)
        losses.append(np.asarray(scalars["loss"]))
    assert compiled.traces == 1
    one = count_flops(STEP, jax.eval_shape(init, jax.random.key(0)), batch(0, 0))
    assert compiled.flops(placed) == one.times(REPLICAS)
    return compiled.merged(state), np.stack(losses), compiler


@pytest.mark.parametrize(
    ("config", "sequential"),
    [
        (MeshConfig(seeds=1), True),
        (MeshConfig(seeds=1), False),
        (MeshConfig(seeds=4), None),
        (MeshConfig(seeds=2, fsdp=4), True),
        (MeshConfig(seeds=2, fsdp=2), False),
    ],
    ids=["rounds", "vmap", "divided", "divided, rounds, fsdp", "divided, vmap, data and fsdp"],
)
def test_a_replica_is_the_run_it_would_be_alone(config, sequential, one_device):
    state, losses, compiler = trained(config, sequential=sequential)
    replica_of = compiler.replica(members_init)
    for replica in range(REPLICAS):
        expected, expected_losses = alone(replica, one_device=one_device)
        np.testing.assert_allclose(losses[:, replica], expected_losses, rtol=2e-5)
        own = replica_of(state, replica)
        assert int(own.step) == STEPS
        found = jax.device_get((own.params, own.ema, own.opt_state))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)
    assert len(np.unique(losses[0])) == REPLICAS  # they really differ


def test_replicas_live_on_groups_of_devices_and_their_parameters_in_shards():
    state, _, compiler = trained(MeshConfig(seeds=2, fsdp=4), sequential=True)
    dense = state.params["dense"]
    assert dense.sharding.shard_shape(dense.shape) == (2, 4 * 36 // 4, 128)
    own = compiler.replica(members_init)(state, 3)
    assert own.params["dense"].sharding.shard_shape((4 * 36, 128)) == (4 * 36 // 4, 128)


def test_the_same_program_gives_the_same_bits():
    first, _, _ = trained(MeshConfig(seeds=4), sequential=None)
    second, _, _ = trained(MeshConfig(seeds=4), sequential=None)
    for one, other in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("config", [MeshConfig(seeds=1), MeshConfig(seeds=4)])
@pytest.mark.parametrize("sequential", [True, False])
def test_numbers_differ_between_replicas(config, sequential, one_device):
    """Learning rates as an axis: each replica takes the steps that its own rate gives alone."""
    rates = np.asarray([0.01, 0.05, 0.1, 0.3], np.float32)

    def with_rate(rate):
        return averaged(gradient(loss, optax.sgd(rate, momentum=0.9)), {"ema": 0.9})

    swept = lambda state, batch, numbers: with_rate(numbers["rate"])(state, batch)
    state, _, compiler = trained(config, sequential=sequential, step=swept, numbers={"rate": rates})
    for replica in range(REPLICAS):
        expected, _ = alone(replica, step=with_rate(float(rates[replica])), one_device=one_device)
        own = compiler.replica(members_init)(state, replica)
        np.testing.assert_allclose(own.params["dense"], expected[0]["dense"], rtol=1e-4, atol=2e-6)


def test_several_steps_in_one_dispatch_of_all_replicas(one_device):
    mesh = make_mesh(MeshConfig(), replicas=REPLICAS)
    compiler = Compiler(mesh, replicas=REPLICAS)
    step = compiler.step(OverSeeds(repeated(STEP, STEPS), REPLICAS), members_init, dispatch=STEPS)
    batches = [stacked([batch(replica, index) for index in range(STEPS)]) for replica in range(REPLICAS)]
    state, _ = step(
        compiler.init(members_init, key=jax.random.key(0)), compiler.shard(stacked(batches), dispatch=STEPS)
    )
    state = step.merged(state)
    expected, _ = alone(2, one_device=one_device)
    np.testing.assert_allclose(state.params["dense"][2], expected[0]["dense"], rtol=1e-4, atol=2e-6)


def convolutions_over_weights(sequential, step):
    """Whether the program has a convolution of all replicas at once."""
    one = jax.eval_shape(members_init, jax.random.key(0))
    shape = {"x": jax.ShapeDtypeStruct((REPLICAS, SIZE, 6, 6, 2), jnp.float32)}
    text = str(jax.make_jaxpr(OverSeeds(step, REPLICAS, sequential=sequential))(one, shape))
    return f"feature_group_count={REPLICAS}" in text or f"batch_group_count={REPLICAS}" in text


def test_on_cpus_convolutions_go_in_turn_and_dense_layers_together():
    assert not convolutions_over_weights(None, STEP)
    assert convolutions_over_weights(False, STEP)
    one = jax.eval_shape(members_init, jax.random.key(0))
    shape = {"x": jax.ShapeDtypeStruct((REPLICAS, SIZE, 6, 6, 2), jnp.float32)}
    dense = gradient(dense_loss, OPTIMIZER)
    count = lambda sequential: str(jax.make_jaxpr(OverSeeds(dense, REPLICAS, sequential=sequential))(one, shape)).count(
        "dot_general"
    )
    assert count(None) == count(False) < count(True)


def test_has_convolution_looks_into_what_is_called():
    image, kernel = jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1, 1))
    convolve = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    looped = lambda x, k: jax.lax.scan(lambda c, _: (convolve(c, k), None), x, length=2)[0]
    assert has_convolution(convolve, image, kernel)
    assert has_convolution(jax.jit(jax.checkpoint(looped)), image, kernel)
    assert not has_convolution(lambda x, k: x.sum() * k.sum(), image, kernel)


def test_replicas_must_divide_equally():
    with pytest.raises(ValueError, match="3 replicas cannot be divided equally among 4"):
        OverSeeds(STEP, 3, mesh=make_mesh(MeshConfig(seeds=4), replicas=4))
