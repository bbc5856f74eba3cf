"""Tensor parallelism of the layers that conditions add."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from tiny_conditions import ALL, conditions

from vision.models import dit, unet
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name, shardings

NETWORKS = {
    "unet": (unet.UNet(unet.UNetConfig(width=8, multipliers=(1,), blocks=1, attention=(8,), **ALL)), unet),
    "dit": (dit.DiT(dit.DiTConfig(width=16, depth=1, heads=2, **ALL)), dit),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_of_the_new_kernels_are_split(name):
    model, module = NETWORKS[name]
    inputs = jnp.zeros((2, 8, 8, 3)), jnp.zeros(2), conditions(model.config)
    params = jax.eval_shape(lambda key: model.init(key, *inputs, train=False)["params"], jax.random.key(0))
    placed = shardings(params, mesh=make_mesh(MeshConfig(tensor=2)), rules=module.SHARDING_RULES)
    specs = {path_name(path): leaf.spec for path, leaf in jax.tree_util.tree_leaves_with_path(placed)}
    new = {path: spec for path, spec in specs.items() if "context_" in path or "_projection" in path}
    kernels = {path: spec for path, spec in new.items() if path.endswith("kernel")}
    assert {path.split("/")[-2] for path in kernels} == {
        *("context_key", "context_value", "embedding_projection", "token_projection")
    }
    assert set(kernels.values()) == {P(None, "tensor")}
