"""The loss of pairs is of the global batch on every mesh: one device equals eight, and so do two processes.

By gradient descent with momentum, for the reason that test_one_equals_eight.py gives.
"""

import json

import jax
import numpy as np
import pytest
from run_small_clip import CONFIGS, trained
from several_processes import two_processes

from vision.parallel import sharding
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name

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
    codes, said = two_processes(
        "run_small_clip.py", lambda address, index: [address, "2", str(index), str(tmp_path)], seconds=300
    )
    assert codes == [0, 0], "\n".join(said)
    _, losses = trained(CONFIGS["softmax"], make_mesh(MeshConfig(), jax.devices()[:1]))
    for index in range(2):
        found = json.loads((tmp_path / f"{index}.json").read_text())
        for one, other in zip(found, losses, strict=True):
            assert one == pytest.approx({name: float(value) for name, value in other.items()}, rel=2e-4)
