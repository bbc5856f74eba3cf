import jax
import jax.numpy as jnp
import numpy as np

from vision.nn.fractional_stride import FractionallyStridedConv, doubled


def transposed(features, kernel):
    return jax.lax.conv_transpose(
        features, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )


def test_it_is_the_transposed_convolution_and_so_are_its_gradients():
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(2, 3, 5, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(4, 4, 4, 3)), jnp.float32)
    np.testing.assert_allclose(doubled(features, kernel), transposed(features, kernel), rtol=1e-4, atol=1e-4)
    value = lambda function: jax.grad(lambda *of: jnp.sum(jnp.sin(function(*of))), (0, 1))(features, kernel)
    for found, expected in zip(value(doubled), value(transposed), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_layer_adds_a_bias():
    features = jnp.zeros((1, 2, 2, 3))
    layer = FractionallyStridedConv(2)
    variables = layer.init(jax.random.key(0), features)
    found = layer.apply({"params": {**variables["params"], "bias": jnp.array([1.0, 2.0])}}, features)
    np.testing.assert_array_equal(found, np.broadcast_to([1.0, 2.0], (1, 4, 4, 2)))
    assert "bias" not in FractionallyStridedConv(2, use_bias=False).init(jax.random.key(0), features)["params"]
