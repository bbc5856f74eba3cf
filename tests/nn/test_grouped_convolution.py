"""Convolutions in groups: their gradients, also on meshes whose devices share the batch, and their other form."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vision.nn.grouped_convolution import GroupedConv, GroupedConv3x3, block_diagonal, grouped_conv
from vision.parallel.mesh import MeshConfig, make_mesh

SHAPES = [(8, 8, 7, 1, (5, 6)), (8, 4, 3, 2, (7, 8)), (8, 2, 3, 2, (5, 4)), (8, 8, 3, 1, (4, 4))]
"""Channels, groups, size, stride, sides."""


def loss(convolve, features, kernel):
    """With other derivatives everywhere."""
    made = convolve(features, kernel)
    return jnp.sum(jnp.sin(made) * jnp.arange(made.size).reshape(made.shape) / made.size)


@pytest.mark.parametrize(("channels", "groups", "size", "stride", "sides"), SHAPES)
def test_first_and_second_derivatives_are_those_of_the_convolution(channels, groups, size, stride, sides):
    features = jax.random.normal(jax.random.key(0), (2, *sides, channels))
    kernel = jax.random.normal(jax.random.key(1), (size, size, channels // groups, 2 * channels))
    plain = partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    own = lambda x, k: grouped_conv(x, k, groups, stride, size // 2)
    np.testing.assert_allclose(own(features, kernel), plain(features, kernel), rtol=1e-5, atol=1e-5)
    first = lambda convolve: jax.grad(partial(loss, convolve), (0, 1))
    second = lambda convolve: jax.grad(
        lambda x, k: sum(jnp.sum(jnp.cos(each)) for each in first(convolve)(x, k)), (0, 1)
    )
    for of in (first, second):
        for one, other in zip(of(own)(features, kernel), of(plain)(features, kernel), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=2, tensor=2), MeshConfig(tensor=4)])
@pytest.mark.parametrize("groups", [2, 8])
def test_gradients_on_a_mesh_whose_devices_share_the_batch(mesh, groups):
    """XLA's own gradient of the kernel is a multiple of the right one there."""
    features = jax.random.normal(jax.random.key(0), (8, 4, 4, 8))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 8 // groups, 8))
    gradient = jax.grad(partial(loss, lambda x, k: grouped_conv(x, k, groups, 1, 1)), (0, 1))
    batch, whole = (NamedSharding(make_mesh(mesh), spec) for spec in (P(("data", "fsdp")), P()))
    shared = jax.jit(gradient, in_shardings=(batch, whole), out_shardings=(batch, whole))
    for one, other in zip(shared(features, kernel), gradient(features, kernel), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_parameters_are_those_of_flax():
    features = jnp.zeros((1, 5, 5, 8))
    own = GroupedConv(16, 3, 4, strides=2, use_bias=True)
    flax = nn.Conv(16, (3, 3), 2, padding=1, feature_group_count=4)
    variables, others = (layer.init(jax.random.key(0), features) for layer in (own, flax))
    jax.tree.map(np.testing.assert_array_equal, variables, others)
    assert own.apply(variables, features).shape == flax.apply(variables, features).shape


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_filled_up_with_zeros_it_is_the_same(groups):
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    plain, filled = (GroupedConv3x3(groups, filled=choice) for choice in (False, True))
    variables = plain.init(jax.random.key(1), x)
    assert variables["params"]["kernel"].shape == (3, 3, 8 // groups, 8)
    gradient = lambda layer: jax.value_and_grad(lambda v: jnp.sum(jnp.sin(layer.apply(v, x))))(variables)
    (one, grads), (other, other_grads) = gradient(plain), gradient(filled)
    np.testing.assert_allclose(one, other, rtol=1e-4)
    np.testing.assert_allclose(*(g["params"]["kernel"] for g in (grads, other_grads)), rtol=1e-3, atol=1e-4)


def test_blocks_lie_on_the_diagonal():
    kernel = jnp.arange(1.0, 9.0).reshape(1, 1, 2, 4)
    expected = [[1, 2, 0, 0], [5, 6, 0, 0], [0, 0, 3, 4], [0, 0, 7, 8]]
    np.testing.assert_array_equal(block_diagonal(kernel, 2)[0, 0], expected)
