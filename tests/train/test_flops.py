"""Our count of operations against closed forms, XLA's own count and loops written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.train.flops import count_flops

X, W = jnp.zeros((8, 16)), jnp.zeros((16, 32))


def dense(x, w):
    return jnp.square(x @ w).sum()


def convolve(x, k, **options):
    return jax.lax.conv_general_dilated(
        x, k, **{"window_strides": (1, 1), "padding": "VALID", **options}, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_a_dense_layer_and_its_gradients():
    forward = 2 * 8 * 16 * 32
    assert count_flops(dense, X, W).matrix == forward
    assert count_flops(jax.grad(dense, argnums=(0, 1)), X, W).matrix == 3 * forward
    assert count_flops(jax.grad(dense, argnums=1), X, W).matrix == 2 * forward  # no gradient of the input is asked for


def test_loops_count_as_often_as_they_run():
    looped = lambda x: jax.lax.scan(lambda c, _: (c @ jnp.ones((16, 16)), None), x, length=7)[0]
    assert count_flops(looped, X).matrix == 7 * 2 * 8 * 16 * 16
    assert count_flops(jax.jit(jax.vmap(looped)), X[None].repeat(3, 0)).matrix == 3 * 7 * 2 * 8 * 16 * 16
    assert not count_flops(looped, X).unknown


def test_rematerialisation_computes_the_forward_pass_again():
    layer = lambda w: jnp.sin(jnp.sin(X @ w) @ jnp.ones((32, 4))).sum()
    plain, again = (count_flops(jax.grad(f), W).matrix for f in (layer, jax.checkpoint(layer)))
    assert plain < again <= plain + count_flops(layer, W).matrix


def test_the_dearest_branch_counts():
    choose = lambda x: jax.lax.cond(x.sum() > 0, lambda: (x @ W).sum(), lambda: 0.0)
    assert count_flops(choose, X).matrix == 2 * 8 * 16 * 32


def test_a_loop_of_unknown_length_is_named():
    endless = lambda x: jax.lax.while_loop(lambda c: c.sum() < 1, lambda c: c @ jnp.ones((16, 16)), x)
    assert count_flops(endless, X).unknown == {"while"}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_against_its_definition(groups, stride):
    image, kernel = jnp.zeros((2, 9, 9, 4)), jnp.zeros((3, 3, 4 // groups, 6))
    counted = count_flops(
        lambda x, k: convolve(x, k, window_strides=(stride,) * 2, feature_group_count=groups), image, kernel
    )
    side = len(range(0, 9 - 3 + 1, stride))
    assert counted.matrix == 2 * (2 * side * side * 6) * (3 * 3 * 4 // groups)
    assert counted.by_dtype.keys() == {"float32"}


def test_agrees_with_xla_where_there_are_no_loops():
    image, kernel = jnp.zeros((2, 9, 9, 4)), jnp.zeros((3, 3, 4, 6))
    for function, arguments in ((lambda a, b: a @ b, (X, W)), (convolve, (image, kernel))):
        by_xla = jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]
        assert count_flops(function, *arguments).matrix == pytest.approx(by_xla, rel=0.01)


def test_the_type_in_which_most_is_computed():
    half = jnp.zeros((64, 64), jnp.bfloat16)
    counted = count_flops(lambda h, x, w: (h @ h).sum().astype(jnp.float32) + (x @ w).sum(), half, X, W)
    assert counted.by_dtype == {"bfloat16": 2 * 64**3, "float32": 2 * 8 * 16 * 32}
    assert counted.dtype == "bfloat16"
    assert np.isclose(counted.matrix, 2 * 64**3 + 2 * 8 * 16 * 32)
