import jax
import jax.numpy as jnp
import numpy as np

from vision.nn.squeeze_excite import SqueezeExcite


def test_definition():
    """Hu et al. 2018, eq. 2 to 4, in float64."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 3, 5, 8)) + 1
    weights = {"reduce": (8, 2), "expand": (2, 8)}
    params = {
        name: {"kernel": generator.normal(size=shape), "bias": generator.normal(size=shape[1:])}
        for name, shape in weights.items()
    }
    dense = lambda name, x: x @ params[name]["kernel"] + params[name]["bias"]
    gate = 1 / (1 + np.exp(-dense("expand", np.maximum(dense("reduce", x.mean((1, 2))), 0))))
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    found = SqueezeExcite(2).apply({"params": single}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, x * gate[:, None, None, :], rtol=1e-5)
    half = SqueezeExcite(2, dtype=jnp.bfloat16).apply({"params": single}, jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), found, rtol=0.05, atol=0.01)


def test_the_activation_is_given():
    shapes = jax.eval_shape(lambda x: SqueezeExcite(3).init(jax.random.key(0), x), jnp.zeros((1, 2, 2, 8)))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    x = jnp.ones((1, 2, 2, 8))
    silent = SqueezeExcite(3, act=lambda x: 0 * x).apply(params, x)
    np.testing.assert_allclose(silent, jax.nn.sigmoid(1.0) * x, rtol=1e-6)
