"""Convolutions in every direction against float64, in every transformation of JAX, on meshes, and Flax's modules."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from reference_convolution import convolution, features_gradient, kernel_gradient

from vision.nn import convolution as module
from vision.nn.convolution import Conv, PointwiseConv, convolve
from vision.nn.cpu_convolution import block_diagonal, diagonal_blocks, suits_products, suits_winograd
from vision.nn.dense import multiply
from vision.nn.dilated import met
from vision.nn.window import Window, xla_convolution
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.platform import composed
from vision.train.flops import count_flops

AROUND = ((1, 1), (1, 1))
CASES = {
    "winograd": (Window(padding=AROUND, winograd=True), (3, 8, 7, 32), (3, 3, 32, 40)),
    "product": (Window(padding=AROUND, strides=(2, 2)), (1, 4, 3, 256), (3, 3, 256, 256)),
    "few channels": (Window(padding=AROUND), (2, 5, 6, 3), (3, 3, 3, 4)),
    "depthwise in blocks": (Window(padding=((3, 3), (3, 3)), groups=6), (2, 5, 17, 6), (7, 7, 1, 6)),
    "depthwise, strided": (Window(padding=AROUND, strides=(2, 2), groups=6), (2, 6, 5, 6), (3, 3, 1, 6)),
    "groups": (Window(padding=AROUND, groups=4), (2, 4, 4, 16), (3, 3, 4, 8)),
    "far beyond the image": (Window(padding=((6, 6), (5, 7)), dilation=(6, 6)), (2, 7, 9, 32), (3, 3, 32, 33)),
    "meets one pixel": (Window(padding=((9, 9), (9, 9)), dilation=(9, 9)), (3, 5, 8, 32), (3, 3, 32, 32)),
    "interleaved": (Window(padding=((2, 2), (2, 2)), dilation=(2, 2)), (2, 23, 16, 32), (3, 3, 32, 40)),
    "dilated": (Window(padding=((2, 1), (0, 2)), dilation=(2, 2)), (2, 6, 7, 5), (3, 3, 5, 4)),
}
"""One for each form that a convolution has on CPUs: window, features, kernel."""


def operands(how, features, kernel):
    """x, k and y; results have about unit variance."""
    random = np.random.default_rng(0)
    shapes = features, kernel, how.result_shape(features, kernel)
    x, k, y = (random.normal(size=shape) for shape in shapes)
    return x, k / np.sqrt(np.prod(kernel[:3])), y


def check_directions(how, features, kernel, tolerance=3e-5):
    x, k, y = operands(how, features, kernel)
    made, pull = jax.vjp(partial(convolve, how=how), jnp.float32(x), jnp.float32(k))
    expected = convolution(x, k, how), features_gradient(y, k, features, how), kernel_gradient(x, y, kernel, how)
    for found, exact in zip((made, *pull(jnp.float32(y))), expected, strict=True):
        np.testing.assert_allclose(found, exact, atol=tolerance * max(np.abs(exact).max(), 1.0))


@pytest.mark.parametrize("case", CASES)
def test_each_form_equals_sums_in_float64(case):
    check_directions(*CASES[case])


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    each, outputs = draw(st.integers(1, 5)), groups * draw(st.integers(1, 3))
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    sides = draw(st.tuples(st.integers(5, 9), st.integers(5, 9)))
    margins = st.tuples(st.integers(0, 2), st.integers(0, 2))
    how = Window(
        strides=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        padding=(draw(margins), draw(margins)),
        dilation=(1, 1) if max(size) > 3 else draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        groups=groups,
    )
    return how, (draw(st.integers(1, 3)), *sides, groups * each), (*size, each, outputs)


@settings(max_examples=25, deadline=None)
@given(convolutions())
def test_any_window_equals_sums_in_float64(case):
    check_directions(*case, tolerance=1e-5)


def transformed(convolve, x, k, tangents):
    """Values of every transformation that networks here need, and their compositions."""
    loss = lambda x, k: jnp.sum(jnp.sin(convolve(x, k)))
    first = jax.grad(loss, (0, 1))
    second = jax.grad(lambda x, k: sum(jnp.sum(jnp.cos(each)) for each in first(x, k)), (0, 1))
    forward = lambda x, k: jax.jvp(convolve, (x, k), tangents)[1]
    return {
        "jvp": forward(x, k),
        "gradient of gradient": second(x, k),
        "gradient of jvp": jax.grad(lambda x, k: jnp.sum(jnp.sin(forward(x, k))), (0, 1))(x, k),
        "jvp of gradient": jax.jvp(first, (x, k), tangents)[1],
        "vmap over features": jax.vmap(lambda x: first(x, k))(jnp.stack([x, 2 * x], 1).swapaxes(0, 1)),
        "vmap over kernels": jax.vmap(first, (None, 0))(x, jnp.stack([k, 2 * k])),
        "vmap over both": jax.vmap(first)(jnp.stack([x, 2 * x]), jnp.stack([k, -k])),
        "remat": jax.grad(jax.checkpoint(loss), (0, 1))(x, k),
    }


@pytest.mark.parametrize("case", CASES)
def test_every_transformation_equals_that_of_xlas_convolution(case):
    how, features, kernel = CASES[case]
    x, k, _ = (jnp.float32(each) for each in operands(how, features, kernel))
    tangents = jnp.cos(x), jnp.sin(k)
    own = jax.jit(partial(transformed, partial(convolve, how=how)))(x, k, tangents)
    plain = jax.jit(partial(transformed, lambda x, k: xla_convolution(x, k, how)))(x, k, tangents)
    for name in own:
        for one, other in zip(jax.tree.leaves(own[name]), jax.tree.leaves(plain[name]), strict=True):
            error = float(jnp.abs(one - other).max() / jnp.abs(other).max())
            assert error < 5e-4, f"{name}: {error}"  # second derivatives of sines amplify Winograd's 2e-5


@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=2, tensor=2), MeshConfig(tensor=4)])
@pytest.mark.parametrize("groups", [2, 8])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_gradients_in_groups_on_a_mesh_whose_devices_share_the_batch(mesh, groups, platform, monkeypatch):
    """XLA's own gradient of the kernel is a multiple of the right one there."""
    monkeypatch.setattr(module, "platform", lambda: platform)
    how = Window(padding=AROUND, groups=groups)
    features = jax.random.normal(jax.random.key(0), (8, 4, 4, 8))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 8 // groups, 8))
    loss = lambda x, k: jnp.sum(jnp.sin(convolve(x, k, how)))
    gradient = jax.grad(loss, (0, 1))
    batch, whole = (NamedSharding(make_mesh(mesh), spec) for spec in (P(("data", "fsdp")), P()))
    shared = jax.jit(gradient, in_shardings=(batch, whole), out_shardings=(batch, whole))
    for one, other in zip(shared(features, kernel), gradient(features, kernel), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["winograd", "depthwise in blocks"])
def test_one_device_equals_eight(case):
    how, (_, *rest), kernel = CASES[case]
    x, k, _ = (jnp.float32(each) for each in operands(how, (16, *rest), kernel))
    gradient = jax.value_and_grad(lambda x, k: jnp.sum(jnp.sin(convolve(x, k, how))), (0, 1))
    batch, whole = (NamedSharding(make_mesh(MeshConfig()), spec) for spec in (P("data"), P()))
    shared = jax.jit(gradient, in_shardings=(batch, whole))(x, k)
    for one, other in zip(jax.tree.leaves(shared), jax.tree.leaves(jax.jit(gradient)(x, k)), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max())


def test_dilated_kernels_have_the_form_of_their_case():
    """The parts of the image that values meet are counted pixel by pixel."""
    for case, products in {"far beyond the image": True, "meets one pixel": True, "interleaved": False}.items():
        how, features, kernel = CASES[case]
        padded = np.pad(np.ones(features[1:3]), how.padding)
        result = how.result_shape(features, kernel)
        pixels = sum(
            padded[row * how.dilation[0] :, column * how.dilation[1] :][: result[1], : result[2]].sum()
            for row in range(3)
            for column in range(3)
        )
        assert met(features, result, kernel[:2], how) == pytest.approx(pixels / (9 * result[1] * result[2]))
        assert suits_products(features, kernel, result, how) == products


def test_on_accelerators_it_is_xlas(monkeypatch):
    monkeypatch.setattr(module, "platform", lambda: "tpu")
    names = lambda how, x, k: str(jax.make_jaxpr(partial(convolve, how=how))(jnp.zeros(x), jnp.zeros(k)))
    assert "conv_general_dilated" in names(*CASES["winograd"])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_products_have_the_precision_of_the_place_where_they_are_used(platform):
    """Primitives are lowered later, when the context of the precision has been left."""

    def loss(x, k, wide):
        with jax.default_matmul_precision("highest"):
            groups = convolve(x, k, Window(groups=2))
            return jnp.sum(jnp.sin(multiply(groups.astype(jnp.bfloat16), wide)))

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 4, 4, 4), (2, 2, 2, 4), (4, 3))]
    text = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    products = len(re.findall(r"stablehlo\.(?:convolution|dot_general)", text))
    highest = "precision HIGHEST>, #stablehlo<precision HIGHEST>", "precision = [HIGHEST, HIGHEST]"
    assert products == sum(map(text.count, highest))
    assert products >= 6


@pytest.mark.parametrize("case", CASES)
def test_programs_are_exported_for_any_number_of_samples(case):
    how, features, kernel = CASES[case]
    x, k, _ = operands(how, features, kernel)
    (batch,) = jax.export.symbolic_shape("batch")
    function = jax.value_and_grad(lambda x, k: jnp.sum(jnp.sin(convolve(x, k, how))), (0, 1))
    abstract = (jax.ShapeDtypeStruct((batch, *features[1:]), jnp.float32), jax.ShapeDtypeStruct(kernel, jnp.float32))
    exported = jax.export.export(jax.jit(function))(*abstract)
    found, expected = (call(jnp.float32(x), jnp.float32(k)) for call in (exported.call, function))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), found, expected)


@pytest.mark.parametrize("case", ["few channels", "depthwise in blocks", "dense"])
def test_converters_see_jaxs_operations_alone(case):
    if case == "dense":
        function, operands = multiply, [jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4))]
    else:
        how, features, kernel = CASES[case]
        function, operands = partial(convolve, how=how), [jnp.ones(features), jnp.ones(kernel)]
    own = {"convolution", "dense"}
    # a new function each time, since JAX remembers what it has traced
    names = lambda: {each.primitive.name for each in jax.make_jaxpr(lambda *of: function(*of))(*operands).eqns}
    assert names() & own
    with composed():
        assert not names() & own
        found = function(*operands)
    np.testing.assert_allclose(found, function(*operands), rtol=1e-5)


def test_operations_are_those_of_a_convolution_whatever_the_form():
    for how, x, k in CASES.values():
        loss = lambda convolve, x, k: jnp.sum(jnp.sin(convolve(x, k)))
        own, plain = (
            count_flops(jax.grad(partial(loss, each), (0, 1)), jnp.zeros(x), jnp.zeros(k))
            for each in (partial(convolve, how=how), partial(xla_convolution, window=how))
        )
        assert own.matrix == plain.matrix
        assert not own.unknown


def test_winograds_form_is_for_enough_channels_and_tiles():
    suits = lambda x, k, **how: suits_winograd(
        x, k, Window(padding=AROUND, **how).result_shape(x, k), jnp.float32, Window(padding=AROUND, **how)
    )
    assert suits((64, 32, 32, 64), (3, 3, 64, 64))
    assert not suits((64, 32, 32, 3), (3, 3, 3, 64))
    assert not suits((64, 4, 4, 512), (3, 3, 512, 512))  # 64 tiles
    assert not suits((64, 5, 5, 64), (3, 3, 64, 64))  # 25 of 64 pixels
    assert not suits((64, 32, 32, 64), (3, 3, 64, 64), strides=(2, 2))


def test_the_forward_pass_is_a_plain_sum_unless_it_may_be_winograds():
    how, features, kernel = CASES["winograd"]
    x, k, _ = (jnp.float32(each) for each in operands(how, features, kernel))
    plain = jax.jit(partial(convolve, how=Window(padding=AROUND)))(x, k)
    np.testing.assert_array_equal(plain, jax.jit(partial(xla_convolution, window=Window(padding=AROUND)))(x, k))
    assert (plain != jax.jit(partial(convolve, how=how))(x, k)).any()


@pytest.mark.parametrize(
    ("kernel", "how"), [((3, 3, 4, 8), Window()), ((3, 3, 4, 6), Window(groups=4)), ((3, 3, 4, 8), Window(groups=3))]
)
def test_channels_that_do_not_fit_are_refused(kernel, how):
    with pytest.raises(ValueError, match="does not fit"):
        convolve(jnp.zeros((1, 5, 5, 16)), jnp.zeros(kernel), how)


def test_a_kernel_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="larger than"):
        convolve(jnp.zeros((1, 5, 2, 4)), jnp.zeros((3, 3, 4, 8)), Window())


@pytest.mark.parametrize(
    ("own", "flax"),
    [
        (Conv(8), nn.Conv(8, (3, 3), padding=1)),
        (Conv(8, 3, 2, "SAME", use_bias=False), nn.Conv(8, (3, 3), 2, "SAME", use_bias=False)),
        (Conv(8, (1, 4), padding="VALID"), nn.Conv(8, (1, 4), padding="VALID")),
        (Conv(8, 3, dilation=2), nn.Conv(8, (3, 3), padding=2, kernel_dilation=2)),
        (
            Conv(8, 3, groups=4, dtype=jnp.bfloat16),
            nn.Conv(8, (3, 3), padding=1, feature_group_count=4, dtype="bfloat16"),
        ),
    ],
)
def test_the_module_is_that_of_flax(own, flax):
    features = jax.random.normal(jax.random.key(0), (2, 7, 8, 4))
    variables, others = (layer.init(jax.random.key(1), features) for layer in (own, flax))
    jax.tree.map(np.testing.assert_array_equal, variables, others)
    made, expected = own.apply(variables, features), flax.apply(variables, features)
    assert made.dtype == expected.dtype
    np.testing.assert_allclose(np.float32(made), np.float32(expected), atol=0.03 if own.dtype != jnp.float32 else 1e-5)


def test_blocks_lie_on_the_diagonal():
    kernel = jnp.arange(1.0, 9.0).reshape(1, 1, 2, 4)
    expected = [[1, 2, 0, 0], [5, 6, 0, 0], [0, 0, 3, 4], [0, 0, 7, 8]]
    np.testing.assert_array_equal(block_diagonal(kernel, 2)[0, 0], expected)
    np.testing.assert_array_equal(diagonal_blocks(block_diagonal(kernel, 2), 2), kernel)


@pytest.mark.parametrize(("strides", "use_bias"), [(1, False), (2, True), (3, False)])
def test_one_pixel_equals_a_convolution_with_its_gradient(strides, use_bias):
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


@pytest.mark.parametrize("layer", [PointwiseConv(4, use_bias=True, dtype=jnp.bfloat16), Conv(4, dtype=jnp.bfloat16)])
def test_computes_in_the_configured_type(layer):
    variables = jax.eval_shape(lambda key: layer.init(key, jnp.zeros((1, 2, 2, 3))), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert jax.eval_shape(lambda v: layer.apply(v, jnp.zeros((1, 2, 2, 3))), variables).dtype == jnp.bfloat16
