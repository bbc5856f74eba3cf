"""The magnitude-preserving UNet on one device, on eight, in microbatches and as replicas: the same trained network.

The step is the published one: normalised weights after each step, a weight of the loss learned for each noise level,
averages by power functions. The optimizer is gradient descent, whose rounding errors stay small.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.models.edm2 import SHARDING_RULES, EDM2Config, EDM2UNet, log_variance
from vision.nn.magnitude_preserving import normalised_weights
from vision.nn.noise_uncertainty import uncertainty_weighted
from vision.parallel import sharding
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name
from vision.train.compile import Compiler
from vision.train.snapshots import SnapshotConfig
from vision.train.state import create_state
from vision.train.step import OverSeeds, accumulate, averaged, gradient, projected

STEPS, SIZE, SIDE = 3, 16, 8
MODEL = EDM2UNet(
    EDM2Config(width=16, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=16, classes=3, uncertainty=True)
)
OPTIMIZER = optax.sgd(3.0)
DECAYS = SnapshotConfig(interval=1).decays()
MESHES = {"2 data x 4 fsdp": MeshConfig(fsdp=4), "2 data x 2 fsdp x 2 tensor": MeshConfig(fsdp=2, tensor=2)}


@pytest.fixture(autouse=True)
def tiny_arrays_are_sharded_too(monkeypatch):
    monkeypatch.setattr(sharding, "FSDP_MIN_ELEMENTS", 64)


def loss(params, model_state, batch, *, key, step):
    del key, step
    out = MODEL.apply({"params": params}, batch["image"], batch["time"], {"label": batch["label"]}, train=True)
    error = jnp.mean(jnp.square(out - batch["target"]), axis=(1, 2, 3))
    weighted = uncertainty_weighted(error, log_variance(params, batch["time"]))
    return jnp.mean(weighted), (model_state, {"error": jnp.mean(error)})


def batch(index):
    rng = np.random.default_rng(index)
    images = lambda: rng.normal(size=(SIZE, SIDE, SIDE, 3)).astype(np.float32)
    time, label = rng.normal(size=SIZE).astype(np.float32) / 3, rng.integers(0, 4, SIZE).astype(np.int32)
    return {"image": images(), "target": images(), "time": time, "label": label}


def init(key):
    variables = MODEL.init(
        key, jnp.zeros((1, SIDE, SIDE, 3)), jnp.zeros(1), {"label": jnp.zeros(1, jnp.int32)}, train=False
    )
    # open gains let every layer take part from the first step on
    opened = lambda path, leaf: leaf + 0.5 if path[-1].key == "gain" else leaf
    params = jax.tree_util.tree_map_with_path(opened, variables["params"])
    return create_state(params=normalised_weights(params), optimizer=OPTIMIZER, key=key, ema=DECAYS)


def stepped(microbatches=1):
    return averaged(projected(gradient(accumulate(loss, microbatches), OPTIMIZER), normalised_weights), DECAYS)


@functools.cache
def trained(mesh_name, microbatches=1):
    mesh = make_mesh(MESHES[mesh_name]) if mesh_name in MESHES else make_mesh(MeshConfig(), jax.devices()[:1])
    compiler = Compiler(mesh, SHARDING_RULES)
    step, state = compiler.step(stepped(microbatches), init), compiler.init(init, key=jax.random.key(0))
    for index in range(STEPS):
        state, _ = step(state, compiler.shard(batch(index)))
    return state


def assert_equal_up_to_rounding(found, expected):
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5 * scale + 1e-7, err_msg=path_name(path))


@pytest.mark.parametrize(
    ("mesh", "microbatches"), [("2 data x 4 fsdp", 1), ("2 data x 2 fsdp x 2 tensor", 2), ("one device", 2)]
)
def test_the_trained_network_is_the_same(mesh, microbatches):
    state, one = jax.device_get(
        [(each.params, each.ema) for each in (trained(mesh, microbatches), trained("one device"))]
    )
    assert_equal_up_to_rounding(state, one)
    start = jax.device_get(jax.jit(lambda: init(jax.random.key(0)).params)())
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(start), strict=True)]
    assert min(moved) > 5e-4  # the comparison means something


@pytest.mark.parametrize("mesh", ["one device", "2 data x 2 fsdp x 2 tensor"])
def test_weights_have_the_magnitude_1_after_every_step(mesh):
    state = trained(mesh)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(state.params)):
        if path[-1].key == "weight":
            size = np.sqrt(np.mean(np.square(leaf), axis=tuple(range(leaf.ndim - 1))))
            np.testing.assert_allclose(size, 1.0, atol=1e-3, err_msg=path_name(path))
    # averages are of normalised weights, and shorter than those
    average = np.asarray(state.ema["power_0.1"]["stem"]["weight"])
    assert np.sqrt(np.mean(np.square(average), axis=(0, 1, 2))).max() < 1.0
    if mesh != "one device":
        weight = state.params["up_1_block_0"]["conv_in"]["weight"]
        assert weight.sharding.shard_shape(weight.shape) == (3, 3, weight.shape[2] // 2, weight.shape[3] // 2)


def test_replicas_are_normalised_each_by_itself():
    def members(key):
        del key
        return jax.vmap(init)(jax.vmap(jax.random.key)(jnp.array([0, 5])))

    compiler = Compiler(make_mesh(MeshConfig(), jax.devices()[:1]), SHARDING_RULES, replicas=2)
    step = compiler.step(OverSeeds(stepped(), 2), members)
    state = compiler.init(members, key=jax.random.key(0))
    for index in range(STEPS):
        state, _ = step(state, compiler.shard({name: np.stack([x, x]) for name, x in batch(index).items()}))
    first = jax.tree.map(lambda leaf: np.asarray(leaf)[0], step.merged(state).params)
    assert_equal_up_to_rounding(first, jax.device_get(trained("one device").params))
