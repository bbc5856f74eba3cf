"""The least that a step must exchange, by hand and against a program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vision.parallel.collectives import collectives, summary
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.minimum import least_exchange
from vision.train.compile import Compiler
from vision.train.state import create_state
from vision.train.step import gradient

LARGE, SMALL = 256 * 128 * 4, 128 * 4  # bytes of the kernel, which is divided, and of the bias, which is not


def init(key):
    params = {"kernel": jnp.zeros((256, 128)), "bias": jnp.zeros(128), "count": jnp.zeros((), jnp.int32)}
    return create_state(params=params, optimizer=optax.identity(), key=key)


def least(config, **more):
    compiler = Compiler(make_mesh(config))
    state, placed = compiler.state_shardings(init)
    return least_exchange(state.params, placed.params, compiler.mesh, **more)


def test_data_parallelism_sums_every_gradient():
    assert least(MeshConfig()) == {"all-reduce": pytest.approx(2 * 7 / 8 * (LARGE + SMALL))}


def test_fully_sharded_parallelism_gathers_scatters_and_sums_shares():
    assert least(MeshConfig(fsdp=4)) == {
        "all-gather": pytest.approx(3 / 4 * LARGE),
        "reduce-scatter": pytest.approx(3 / 4 * LARGE),
        "all-reduce": pytest.approx(2 * 1 / 2 * LARGE / 4 + 2 * 7 / 8 * SMALL),
    }
    assert least(MeshConfig(fsdp=8))["all-reduce"] == pytest.approx(2 * 7 / 8 * SMALL)
    assert least(MeshConfig(fsdp=4), itemsize=2)["all-gather"] == pytest.approx(3 / 8 * LARGE)


def test_frozen_networks_are_gathered_and_have_no_gradients():
    compiler = Compiler(make_mesh(MeshConfig(fsdp=4)))
    frozen = compiler.place({"kernel": jax.ShapeDtypeStruct((256, 128), jnp.float32)})
    found, without = least(MeshConfig(fsdp=4), frozen=frozen), least(MeshConfig(fsdp=4))
    assert found.pop("all-gather") == 2 * without.pop("all-gather")
    assert found == without


def test_one_device_exchanges_nothing():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    state, placed = Compiler(mesh).state_shardings(init)
    assert least_exchange(state.params, placed.params, mesh) == {}


def test_a_program_of_data_parallelism_exchanges_no_more():
    def loss(params, model_state, batch, *, key, step):
        return jnp.square(batch["x"] @ params["kernel"] + params["bias"]).mean(), (model_state, {})

    def init(key):
        params = {"kernel": jnp.zeros((256, 128)), "bias": jnp.zeros(128)}
        return create_state(params=params, optimizer=optax.sgd(0.1), key=key)

    compiler = Compiler(make_mesh(MeshConfig()))
    state, placed = compiler.state_shardings(init)
    batch = {"x": jax.ShapeDtypeStruct((16, 256), np.float32)}
    program = compiler.step(gradient(loss, optax.sgd(0.1)), init).program(state, batch)
    moved = summary(collectives(program.compiled.as_text()))["all-reduce"].moved_per_device
    theory = least_exchange(state.params, placed.params, compiler.mesh)["all-reduce"]
    assert theory <= moved <= theory + 2 * 7 / 8 * 2 * 4  # and the loss
