"""Convolutions of one pixel against Flax's convolution, with their gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.nn.convolution import PointwiseConv


@pytest.mark.parametrize(("strides", "use_bias"), [(1, False), (2, True), (3, False)])
def test_equals_a_convolution_with_its_gradient(strides, use_bias):
    features = jax.random.normal(jax.random.key(0), (2, 7, 10, 5))
    bias = nn.initializers.normal(1.0)
    ours = PointwiseConv(4, strides, use_bias, bias_init=bias)
    plain = nn.Conv(4, (1, 1), strides, padding=0, use_bias=use_bias, bias_init=bias)
    variables = ours.init(jax.random.key(1), features)
    shapes = jax.eval_shape(lambda key: plain.init(key, features), jax.random.key(1))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)

    def loss(module, variables, features):
        out = module.apply(variables, features)
        return jnp.sum(jnp.sin(out)), out

    grad = lambda module: jax.grad(lambda *of: loss(module, *of), argnums=(0, 1), has_aux=True)(variables, features)
    (found, out), (expected, out_expected) = jax.jit(lambda: (grad(ours), grad(plain)))()
    np.testing.assert_allclose(out, out_expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_computes_in_the_configured_type():
    module = PointwiseConv(4, use_bias=True, dtype=jnp.bfloat16)
    variables = jax.eval_shape(lambda key: module.init(key, jnp.zeros((1, 2, 2, 3))), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert jax.eval_shape(lambda v: module.apply(v, jnp.zeros((1, 2, 2, 3))), variables).dtype == jnp.bfloat16
