import jax
import jax.numpy as jnp
import numpy as np

from vision.nn.batch_norm import batch_norm
from vision.nn.conditional_batch_norm import ConditionalBatchNorm


def test_without_labels_it_is_batch_norm():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2))
    layer = ConditionalBatchNorm()
    variables = layer.init(jax.random.key(1), x, None, train=True)
    found, _ = layer.apply(variables, x, None, train=True, mutable=["batch_stats"])
    plain = {name: tree["norm"] for name, tree in variables.items()}
    expected, _ = batch_norm(train=True).apply(plain, x, mutable=["batch_stats"])
    np.testing.assert_array_equal(found, expected)


def test_each_class_has_its_scale_and_shift_and_all_share_the_statistics():
    x = 3.0 + jax.random.normal(jax.random.key(0), (5, 3, 3, 2))
    label = jnp.array([0, 2, 2, 1, 0])
    layer = ConditionalBatchNorm(classes=3)
    variables = layer.init(jax.random.key(1), x, label, train=True)
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(3, 2)).astype(np.float32) for name in ("scale", "bias")}
    assert jax.tree.map(jnp.shape, variables["params"]) == {"scale": (3, 2), "bias": (3, 2)}
    found, moved = layer.apply({**variables, "params": params}, x, label, train=True, mutable=["batch_stats"])
    standard = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    for row, of_class in enumerate(label):
        expected = standard[row] * params["scale"][of_class] + params["bias"][of_class]
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moved["batch_stats"]["norm"]["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
