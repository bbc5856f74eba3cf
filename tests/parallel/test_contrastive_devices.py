"""The loss of pairs is of the global batch on every mesh: one device equals eight, and so do two processes.

By gradient descent with momentum, for the reason that test_one_equals_eight.py gives.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from run_small_clip import CONFIGS, trained

from vision.parallel import sharding
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name

HERE = Path(__file__).resolve().parent
MESHES = {"8 data": MeshConfig(), "2 data x 2 fsdp x 2 tensor": MeshConfig(fsdp=2, tensor=2)}


@pytest.fixture(autouse=True)
def tiny_arrays_are_sharded_too(monkeypatch):
    monkeypatch.setattr(sharding, "FSDP_MIN_ELEMENTS", 64)


@pytest.mark.parametrize(
    ("name", "mesh"), [("softmax", "8 data"), ("softmax", "2 data x 2 fsdp x 2 tensor"), ("sigmoid", "8 data")]
)
def test_eight_devices_are_one(name, mesh):
    state, losses = trained(CONFIGS[name], make_mesh(MESHES[mesh]))
    one_state, one_losses = trained(CONFIGS[name], make_mesh(MeshConfig(), jax.devices()[:1]))
    for found, expected in ((losses, one_losses), (state.params, one_state.params), (state.ema, one_state.ema)):
        pairs = zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True)
        for (path, leaf), other in pairs:
            scale = np.abs(other).max()
            np.testing.assert_allclose(leaf, other, rtol=2e-4, atol=2e-5 * scale + 1e-7, err_msg=path_name(path))
    # the loss is of all pairs: of the share of a device alone, of two images, it would be less than this
    assert losses[0]["loss"] > np.log(4)
    if "tensor" in mesh:
        assert any("tensor" in leaf.sharding.spec for leaf in jax.tree.leaves(state.params))


def test_two_processes_are_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4"),
        "PYTHONPATH": str(HERE.parents[1]),
        # from the cache, a program on CPUs has lost the order of its collectives, and the processes wait for each other
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    command = [sys.executable, str(HERE / "run_small_clip.py"), address, "2"]
    processes = [
        subprocess.Popen(
            [*command, str(index), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    _, losses = trained(CONFIGS["softmax"], make_mesh(MeshConfig(), jax.devices()[:1]))
    for index in range(2):
        found = json.loads((tmp_path / f"{index}.json").read_text())
        for one, other in zip(found, losses, strict=True):
            assert one == pytest.approx({name: float(value) for name, value in other.items()}, rel=2e-4)
