import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vision.errors import UserError
from vision.models.convnext import CONVNEXT_TINY, ConvNeXt
from vision.models.convnext import SHARDING_RULES as CONVNEXT_RULES
from vision.models.dit import DIT_B, DiT
from vision.models.dit import SHARDING_RULES as DIT_RULES
from vision.models.mobilenet import MOBILENET_V2, MobileNetV2
from vision.models.mobilenet import SHARDING_RULES as MOBILENET_RULES
from vision.models.resnet import RESNET50, ResNet
from vision.models.resnet import SHARDING_RULES as RESNET_RULES
from vision.models.unet import SHARDING_RULES as UNET_RULES
from vision.models.unet import UNet
from vision.models.vgg import SHARDING_RULES as VGG_RULES
from vision.models.vgg import VGG16, Vgg
from vision.models.vit import SHARDING_RULES as VIT_RULES
from vision.models.vit import VIT_S16, ViT
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import FSDP_MIN_ELEMENTS, bytes_per_device, partition_spec, path_name, shardings
from vision.train.state import create_state

GOLDEN = Path(__file__).parents[1] / "golden"
MESHES = {"8 data": MeshConfig(), "2 data x 4 fsdp": MeshConfig(fsdp=4), "2 x 2 x 2": MeshConfig(fsdp=2, tensor=2)}

sides = st.sampled_from([1, 2, 3, 4, 6, 8, 16, 64, 128, 256])
shapes = st.lists(sides, max_size=4).map(tuple)
meshes = st.sampled_from([MeshConfig(), MeshConfig(fsdp=8), *MESHES.values(), MeshConfig(tensor=8)]).map(make_mesh)
axes = st.sampled_from([None, None, "tensor", "fsdp", "data"])
specs = st.lists(axes, max_size=4).filter(lambda names: len(set(names) - {None}) == sum(n is not None for n in names))
rules = st.lists(st.tuples(st.sampled_from(["a", "b/", "kernel$", "^c"]), specs.map(lambda s: P(*s))), max_size=4)
names = st.sampled_from(["a/kernel", "b/kernel", "b/bias", "c/scale", "a/b/c", "d"])


@given(name=names, shape=shapes, rules=rules, mesh=meshes)
def test_a_spec_is_valid_or_the_error_names_all(name, shape, rules, mesh):
    try:
        spec = partition_spec(name, shape, rules=rules, mesh=mesh, strict=True)
    except UserError as error:
        words = (name, str(shape), str(dict(mesh.shape)))
        assert [word for word in words if word not in str(error)] == []  # noqa: PT017 - not every example raises
        loose = partition_spec(name, shape, rules=rules, mesh=mesh, strict=False)
        assert loose == partition_spec(name, shape, rules=(), mesh=mesh, strict=False)
        spec = loose
    # shard_shape raises for a spec that repeats an axis, is too long, or does not divide
    shard = NamedSharding(mesh, spec).shard_shape(shape)
    assert np.prod(shape) % max(np.prod(shard), 1) == 0
    assert not spec or spec[-1] is not None


def test_the_first_rule_that_matches_wins():
    mesh = make_mesh(MeshConfig(data=4, tensor=2))
    rules = (("query/kernel$", P(None, "tensor")), ("kernel$", P("tensor")), (".", P()))
    of = lambda name: partition_spec(name, (8, 8), rules=rules, mesh=mesh, strict=True)
    assert of("params/query/kernel") == P(None, "tensor")
    assert of("params/key/kernel") == P("tensor")
    assert of("params/query/bias") == P()


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((128, 256), P(None, "fsdp")),
        ((256, 128), P("fsdp")),
        ((128, 128), P(None, "fsdp")),  # of equals the last, which is contiguous
        ((3, 3, 64, 66), P(None, None, "fsdp")),  # 66 is larger and does not divide
        ((129, 131), P()),
        ((FSDP_MIN_ELEMENTS,), P("fsdp")),
        ((FSDP_MIN_ELEMENTS - 4,), P()),  # too small to be worth it
        ((), P()),
    ],
)
def test_fsdp_takes_the_largest_axis_that_divides(shape, spec):
    assert partition_spec("w", shape, rules=(), mesh=make_mesh(MeshConfig(fsdp=4)), strict=True) == spec


@given(shape=shapes, mesh=meshes)
def test_fsdp_divides_whatever_is_large_and_divisible(shape, mesh):
    spec = partition_spec("w", shape, rules=(), mesh=mesh, strict=True)
    fsdp = mesh.shape["fsdp"]
    can = fsdp > 1 and np.prod(shape) >= FSDP_MIN_ELEMENTS and any(side % fsdp == 0 for side in shape)
    assert ("fsdp" in spec) == can
    if can:
        assert shape[list(spec).index("fsdp")] == max(side for side in shape if side % fsdp == 0)


def test_fsdp_keeps_the_axis_of_a_rule():
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    of = lambda spec: partition_spec("w", (256, 512), rules=(("w", spec),), mesh=mesh, strict=True)
    assert of(P(None, "tensor")) == P("fsdp", "tensor")
    assert of(P("fsdp")) == P("fsdp")


def test_an_axis_of_one_device_is_not_named():
    mesh = make_mesh(MeshConfig())
    assert partition_spec("w", (7, 8), rules=(("w", P("tensor")),), mesh=mesh, strict=True) == P()


@pytest.mark.parametrize(
    ("shape", "spec", "problem"),
    [
        ((6, 8), P("tensor"), "axis 0 of length 6 is not a multiple of tensor=4"),
        ((8,), P(None, "tensor"), "names 2 axes and the array has 1"),
        ((8, 8), P("tensors"), "the mesh has no axis 'tensors'"),
        ((8, 8), P("tensor", "tensor"), "it names 'tensor' twice"),
    ],
)
def test_a_rule_that_are_invalid(shape, spec, problem):
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    with pytest.raises(UserError, match=problem) as error:
        partition_spec("params/dense/kernel", shape, rules=(("kernel", spec),), mesh=mesh, strict=True)
    assert all(word in str(error.value) for word in ("params/dense/kernel", str(shape), "'tensor': 4", "'kernel'"))


@pytest.mark.parametrize("optimizer", [optax.adam(1e-3), optax.adafactor(1e-3, min_dim_size_to_factor=16)])
def test_optimizer_states_follow_their_parameters_or_fall_back(optimizer):
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    rules = ((r"/kernel$", P(None, "tensor")),)
    init = lambda key: create_state(
        params={"dense": {"kernel": jnp.zeros((256, 128)), "bias": jnp.zeros(128)}},
        optimizer=optimizer,
        key=key,
        ema={"ema": None},
    )
    abstract = jax.eval_shape(init, jax.random.key(0))
    placed = shardings(abstract, mesh=mesh, rules=rules)
    assert placed.params["dense"]["kernel"].spec == P("fsdp", "tensor")
    assert placed.ema["ema"]["dense"]["kernel"].spec == P("fsdp", "tensor")
    assert placed.key.spec == placed.step.spec == P()
    leaves = jax.tree.leaves(abstract.opt_state)
    for leaf, where in zip(leaves, jax.tree.leaves(placed.opt_state), strict=True):
        where.shard_shape(leaf.shape)
        assert (where.spec == P("fsdp", "tensor")) == (leaf.shape == (256, 128))
    factored = any(leaf.shape == (256,) for leaf in leaves)
    assert factored == any(
        "FactoredState" in type(part).__name__
        for part in jax.tree.leaves(abstract.opt_state, is_leaf=lambda x: "FactoredState" in type(x).__name__)
    )
    state = jax.jit(init, out_shardings=placed)(jax.random.key(0))
    assert state.params["dense"]["kernel"].addressable_shards[0].data.shape == (128, 64)


def test_parameters_must_obey_where_other_leaves_may_fall_back():
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    leaf, rules = jax.ShapeDtypeStruct((6,), jnp.float32), ((r"/w$", P("tensor")),)
    assert shardings({"opt_state": {"w": leaf}}, mesh=mesh, rules=rules)["opt_state"]["w"].spec == P()
    for part in ("params", "ema"):
        with pytest.raises(UserError, match=f"{part}/w"):
            shardings({part: {"w": leaf}}, mesh=mesh, rules=rules)


def test_bytes_of_a_share():
    mesh = make_mesh(MeshConfig(fsdp=4))
    leaf = jax.ShapeDtypeStruct((8, 6), jnp.bfloat16)
    assert bytes_per_device(leaf, NamedSharding(mesh, P("fsdp"))) == 8 * 6 * 2 // 4
    key = jax.eval_shape(lambda: jax.random.key(0))
    assert bytes_per_device(key, NamedSharding(mesh, P())) == 8


NETWORKS = {
    "unet": (UNet(), UNET_RULES, (jnp.zeros((1, 32, 32, 3)), jnp.zeros((1,), jnp.int32))),
    "dit": (DiT(DIT_B), DIT_RULES, (jnp.zeros((1, 32, 32, 3)), jnp.zeros((1,), jnp.int32))),
    "resnet": (ResNet(RESNET50), RESNET_RULES, (jnp.zeros((1, 64, 64, 3)),)),
    "convnext": (ConvNeXt(CONVNEXT_TINY), CONVNEXT_RULES, (jnp.zeros((1, 64, 64, 3)),)),
    "mobilenet": (MobileNetV2(MOBILENET_V2), MOBILENET_RULES, (jnp.zeros((1, 64, 64, 3)),)),
    "vgg": (Vgg(VGG16), VGG_RULES, (jnp.zeros((1, 32, 32, 3)),)),
    "vit": (ViT(VIT_S16), VIT_RULES, (jnp.zeros((1, 64, 64, 3)),)),
}


def published_table(network):
    """The spec of every parameter of a published network on three meshes, where it is not replicated."""
    model, rules, inputs = NETWORKS[network]
    params = {"params": jax.eval_shape(lambda key: model.init(key, *inputs, train=False), jax.random.key(0))["params"]}
    table = {}
    for title, config in MESHES.items():
        placed = shardings(params, mesh=make_mesh(config), rules=rules)
        leaves = jax.tree_util.tree_leaves_with_path(placed)
        table[title] = {path_name(path): list(leaf.spec) for path, leaf in leaves if tuple(leaf.spec)}
    return table


@pytest.mark.parametrize("network", NETWORKS)
def test_the_published_networks_are_sharded_as_ever(network):
    """Against files of golden tables.

    They are unet_sharding.json, dit_sharding.json, resnet_sharding.json, convnext_sharding.json,
    mobilenet_sharding.json, vgg_sharding.json and vit_sharding.json.
    """
    assert published_table(network) == json.loads((GOLDEN / f"{network}_sharding.json").read_text()), (
        f"if this is meant, write the tables anew: python {Path(__file__).name} --write, and look at the difference"
    )


if __name__ == "__main__" and "--write" in sys.argv:
    # with JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8 in the environment
    for name in NETWORKS:
        (GOLDEN / f"{name}_sharding.json").write_text(json.dumps(published_table(name), indent=1) + "\n")
