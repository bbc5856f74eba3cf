"""Products of bfloat16 whose gradients of kernels are float32: dense layers and convolutions, against float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from reference_convolution import convolution, features_gradient, kernel_gradient

from vision.nn.convolution import convolve
from vision.nn.dense import Dense, add_bias, multiply
from vision.nn.window import Window, gpu_to_kernel, to_kernel
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.train.flops import count_flops

CASES = {
    "plain": (Window(padding=((1, 1), (1, 1))), (8, 5, 6, 8), (3, 3, 8, 5)),
    "strided": (Window(padding=((1, 0), (2, 1)), strides=(2, 3)), (8, 7, 8, 6), (3, 2, 6, 4)),
    "dilated": (Window(padding=((2, 1), (0, 2)), dilation=(2, 2)), (8, 6, 7, 5), (3, 3, 5, 4)),
    "groups": (Window(padding=((1, 1), (1, 1)), groups=4), (8, 4, 4, 16), (3, 3, 4, 8)),
}
HALF = 2**-8
"""Rounding of bfloat16, relative."""


def exact(how, features, kernel):
    """x, k and y of which x and y are numbers of bfloat16, in float64."""
    random = np.random.default_rng(0)
    halved = lambda shape: np.float64(jnp.asarray(random.normal(size=shape), jnp.bfloat16))
    return halved(features), halved(kernel), halved(how.result_shape(features, kernel))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("operation", [to_kernel, gpu_to_kernel])
def test_the_kernels_gradient_is_accumulated_and_given_in_float32(case, operation):
    how, features, kernel = CASES[case]
    x, _, y = exact(how, features, kernel)
    half = jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16)
    made = operation(*half, shape=kernel, dtype=jnp.float32, how=how)
    expected = kernel_gradient(x, y, kernel, how)
    rounding = HALF if operation is gpu_to_kernel and how.groups == 1 else 1e-5
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, expected, atol=rounding * np.abs(expected).max())


def test_devices_round_their_own_sums_and_add_them_in_float32():
    how, features, kernel = CASES["plain"]
    x, _, y = exact(how, features, kernel)
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    shares = NamedSharding(mesh, P(("data", "fsdp")))
    operation = jax.jit(
        partial(gpu_to_kernel, shape=kernel, dtype=jnp.float32, how=Window(padding=how.padding, mesh=mesh))
    )
    half = [jax.device_put(jnp.asarray(each, jnp.bfloat16), shares) for each in (x, y)]
    rounded = [
        np.float32(jnp.asarray(kernel_gradient(x[i : i + 1], y[i : i + 1], kernel, how), jnp.bfloat16))
        for i in range(8)
    ]
    # a sum that were rounded to bfloat16 again would be a hundred times as far away
    np.testing.assert_allclose(operation(*half), np.sum(rounded, 0), rtol=1e-5, atol=HALF)


@pytest.mark.parametrize("case", CASES)
def test_a_convolution_of_a_float32_parameter(case):
    how, features, kernel = CASES[case]
    x, k, y = exact(how, features, kernel)
    made, pull = jax.vjp(partial(convolve, how=how), jnp.asarray(x, jnp.bfloat16), jnp.float32(k))
    found = made, *pull(jnp.asarray(y, jnp.bfloat16))
    expected = convolution(x, k, how), features_gradient(y, k, features, how), kernel_gradient(x, y, kernel, how)
    assert [each.dtype for each in found] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.float64(one), other, atol=2 * HALF * np.abs(other).max())


def test_dense_layers_in_every_transformation():
    x, k = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(4, 3, 6), (6, 2, 5)]))
    plain = lambda x, k: jnp.einsum("bnc,chd->bnhd", x, k)

    def transformed(product, x, k):
        loss = lambda x, k: jnp.sum(jnp.sin(product(x, k).astype(jnp.float32)))
        first = jax.grad(loss, (0, 1))
        second = lambda x, k: sum(jnp.sum(jnp.cos(each.astype(jnp.float32))) for each in first(x, k))
        forward = lambda k: jax.jvp(lambda k: product(x, k), (k,), (jnp.cos(k),))[1].astype(jnp.float32)
        return {
            "gradient": first(x, k),
            "gradient of gradient": jax.grad(second, (0, 1))(x, k),
            "gradient of jvp": jax.grad(lambda k: jnp.sum(forward(k)))(k),
            "vmap over features": jax.vmap(lambda x: product(x, k))(jnp.stack([x, 2 * x])),
            "vmap over both": jax.vmap(first)(jnp.stack([x, -x]), jnp.stack([k, 2 * k])),
            "remat": jax.grad(jax.checkpoint(loss), 1)(x, k),
        }

    x = x.astype(jnp.bfloat16)
    own, expected = transformed(multiply, x, k), transformed(plain, x.astype(jnp.float32), k)
    for name in own:
        for one, other in zip(jax.tree.leaves(own[name]), jax.tree.leaves(expected[name]), strict=True):
            error = np.abs(np.float32(one) - np.float32(other)).max() / np.abs(other).max()
            assert error < 0.05, f"{name}: {error}"


def test_their_operations_are_counted_in_the_type_of_the_features():
    loss = lambda x, k: jnp.sum(multiply(x, k).astype(jnp.float32))
    counted = count_flops(jax.grad(loss, (0, 1)), jnp.zeros((4, 3, 6), jnp.bfloat16), jnp.zeros((6, 2, 5)))
    assert counted.by_dtype == {"bfloat16": 3 * 2 * 12 * 6 * 10}


@pytest.mark.parametrize("inputs", [(6,), (4, 6), (4, 3, 6)])
def test_the_module_is_that_of_flax(inputs):
    x = jax.random.normal(jax.random.key(0), inputs)
    for own, flax in [(Dense(5), nn.Dense(5)), (Dense((3, 5)), nn.DenseGeneral((3, 5)))]:
        ours, theirs = own.init(jax.random.key(1), x), flax.init(jax.random.key(1), x)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        np.testing.assert_array_equal(own.apply(ours, x), flax.apply(theirs, x))


def test_a_bias_is_added_in_its_own_type():
    features, bias = jnp.full((2, 3), 256.0, jnp.bfloat16), jnp.full(3, 1.5)
    assert add_bias(features, bias).dtype == jnp.bfloat16
    np.testing.assert_array_equal(add_bias(features, bias), 258.0)
    grad = jax.grad(lambda bias: jnp.sum(add_bias(jnp.zeros((513, 3), jnp.bfloat16), bias).astype(jnp.float32)))(bias)
    np.testing.assert_array_equal(grad, 513.0)  # bfloat16 would have 512
