import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from vision.launch.describe import describe, stacked_batch
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
    assert "Mesh: {'data': 2, 'fsdp': 2, 'tensor': 2}" in said
    assert f"Step: 16 images, {made.total_steps} steps to 1,600 images" in said
    # forward and weight gradient: 2 products of 16 x 256 x 128, 2 FLOPs each; the tensor axis shares them
    (flops,) = re.findall(r"([\d.]+) GFLOP per step", said)
    assert float(flops) == pytest.approx(2 * 2 * 16 * 256 * 128 / 1e9, abs=0.006)


def test_the_batch_of_one_dispatch():
    assert stacked_batch(experiment(1))["x"].shape == (16, 256)
    assert stacked_batch(experiment(3))["x"].shape == (3, 16, 256)
