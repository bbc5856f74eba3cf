import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.nn.grouped_convolution import GroupedConv3x3, block_diagonal


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
