import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.nn.batch_norm import BatchNorm, batch_norm


def test_definition_and_defaults_of_pytorch():
    """Ioffe & Szegedy 2015, algorithm 1: momentum 0.9, epsilon 1e-5, statistics over all but the channels."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4, 3, 3, 2)) * [1e-3, 2.0] + [0.0, 1.0]
    values = {name: generator.uniform(0.5, 2, 2).astype(np.float32) for name in ("scale", "bias", "mean", "var")}
    variables = {
        "params": {name: values[name] for name in ("scale", "bias")},
        "batch_stats": {name: values[name] for name in ("mean", "var")},
    }
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    features = jnp.asarray(x, jnp.float32)
    out, moved = batch_norm(train=True).apply(variables, features, mutable=["batch_stats"])
    expected = (x - mean) / np.sqrt(var + 1e-5) * values["scale"] + values["bias"]
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.9 * values["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["var"], 0.9 * values["var"] + 0.1 * var, rtol=1e-5)
    out = batch_norm(train=False).apply(variables, features)
    expected = (x - values["mean"]) / np.sqrt(values["var"] + 1e-5) * values["scale"] + values["bias"]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
def test_values_gradients_and_variables_are_those_of_flax(train):
    features = jax.random.normal(jax.random.key(0), (4, 5, 6, 3)) * jnp.array([0.5, 1.0, 2.0]) + 1.0
    own, flax = BatchNorm(not train), nn.BatchNorm(not train, momentum=0.9)
    variables = own.init(jax.random.key(0), features)
    jax.tree.map(np.testing.assert_array_equal, variables, flax.init(jax.random.key(0), features))
    params = {"scale": jnp.array([0.5, 1.0, 2.0]), "bias": jnp.array([1.0, 0.0, -1.0])}

    def loss(layer, params, features):
        made, moved = layer.apply({**variables, "params": params}, features, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(made)), (made, moved)

    found, expected = (
        jax.jit(jax.value_and_grad(lambda *of, layer=layer: loss(layer, *of), (0, 1), has_aux=True))(params, features)
        for layer in (own, flax)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, expected)


def test_global_statistics_without_an_axis_name():
    """Under a jit over a batch that is divided among eight devices, the statistics are those of the complete batch."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    features = jax.random.normal(jax.random.key(0), (16, 2, 2, 3)) + jnp.arange(16.0).reshape(16, 1, 1, 1)
    module = batch_norm(train=True, dtype=jnp.float32)
    variables = jax.jit(module.init)(jax.random.key(0), features)
    run = jax.jit(lambda x: module.apply(variables, x, mutable=["batch_stats"]))
    divided = jax.device_put(features, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    for one, eight in zip(jax.tree.leaves(run(features)), jax.tree.leaves(run(divided)), strict=True):
        np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-5)
