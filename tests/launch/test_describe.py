import os
import re
import subprocess
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from vision.errors import UserError
from vision.launch.describe import describe, simulate_devices
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.train.compile import Compiler
from vision.train.experiment import Experiment
from vision.train.state import create_state
from vision.train.step import gradient, repeated


@dataclass(frozen=True)
class Config:
    """A recipe."""

    rate: float = 0.1
    """Rate."""
    seed: int = 0
    """Seed."""


def experiment(dispatch):
    optimizer = optax.adam(0.1)
    init = lambda key: create_state(
        params={"dense": {"kernel": jnp.zeros((256, 128)), "bias": jnp.zeros(128)}}, optimizer=optimizer, key=key
    )

    def loss(params, model_state, batch, *, key, step):
        out = batch["x"] @ params["dense"]["kernel"] + params["dense"]["bias"]
        return jnp.square(out).mean(), (model_state, {})

    step = gradient(loss, optimizer)

    def never(*_, **__):
        raise AssertionError("describing needs neither data nor an evaluation")

    return Experiment(
        init=init,
        step=step if dispatch == 1 else repeated(step, dispatch),
        batches=never,
        batch={"x": jax.ShapeDtypeStruct((16, 256), jnp.float32)},
        images=1600,
        seed=0,
        evaluation=never,
        dispatch=dispatch,
        rules=((r"kernel$", P(None, "tensor")),),
    )


@pytest.mark.parametrize("dispatch", [1, 3])
def test_the_table(dispatch):
    made = experiment(dispatch)
    compiler = Compiler(make_mesh(MeshConfig(fsdp=2, tensor=2)), made.rules)
    said = describe(made, compiler, config=Config(rate=0.2), default=Config())
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.startswith("dense/")}
    assert rows["dense/kernel"][1:] == ["256x128", "float32", "fsdp,", "tensor", "32,768"]
    assert rows["dense/bias"][1:] == ["128", "float32", "replicated", "512"]
    assert "* rate = 0.2" in said
    assert "  seed = 0" in said
    assert "Parameters: 32,896" in said
    assert "Mesh: data 2 x fsdp 2 x tensor 2 = 8 devices" in said
    assert f"Budget: {made.total_steps} steps to 1,600 images" in said
    assert "all-reduce" in said
    (held,) = re.findall(r"parameters +([\d.]+) MiB", said)
    assert float(held) == pytest.approx((32768 + 512) / 2**20, abs=0.06)
    # forward and weight gradient: 2 products of 16 x 256 x 128, 2 FLOPs each; the tensor axis shares them
    (flops,) = re.findall(r"([\d.]+) GFLOP per step", said)
    assert float(flops) == pytest.approx(2 * 2 * 16 * 256 * 128 / 1e9, abs=0.006)


def test_beyond_the_limit_the_step_is_not_compiled_and_the_page_says_so():
    made = experiment(1)
    compiler = Compiler(make_mesh(MeshConfig(fsdp=8)), made.rules)
    said = describe(made, compiler, config=Config(), default=Config(), compile_limit=4)
    assert "Activations and exchange are not known: for more than 4 devices" in said
    assert "all-gather" not in said
    assert "Exchange per step" in describe(made, compiler, config=Config(), default=Config())


def test_a_mesh_larger_than_the_machine():
    """In a process of its own: devices cannot be simulated once JAX is in use."""
    code = (
        "from vision.launch.describe import simulate_devices\n"
        "import jax\nsimulate_devices(20)\nprint(len(jax.devices()), jax.devices()[0].platform)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["20", "cpu"]


def test_devices_are_not_simulated_in_a_process_that_uses_others():
    jax.devices()
    simulate_devices(8)
    with pytest.raises(UserError, match="9 devices cannot be simulated: JAX is in use with 8"):
        simulate_devices(9)
