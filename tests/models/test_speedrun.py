"""The speed-run network: its published size, the whitening against its definition, its gradients and its parts."""

import dataclasses
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.speedrun import (
    SHARDING_RULES,
    SpeedrunBlock,
    SpeedrunConfig,
    SpeedrunNet,
    dirac_init,
    whitening_kernel,
)
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import shardings

TINY = SpeedrunConfig(widths=(8, 16), classes=3, channels=1)


def _shapes(config, side):
    image = jax.ShapeDtypeStruct((2, side, side, config.channels), jnp.float32)
    return jax.eval_shape(lambda x: SpeedrunNet(config).init(jax.random.key(0), x, train=False), image)


@cache
def _random_variables():
    """Variables of TINY none of which is zero."""
    generator = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(
        np.abs(generator.normal(size=leaf.shape)) / np.sqrt(max(np.prod(leaf.shape[:-1]), 4))
        if len(leaf.shape) == 1
        else generator.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1])),
        jnp.float32,
    )
    return jax.tree.map(draw, _shapes(TINY, 8))


def _image(side=8):
    return jax.random.normal(jax.random.key(0), (2, side, side, 1))


def _photographs(channels, seed=0):
    """Smooth random images, whose neighbouring pixels and channels are alike."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(40, 12, 12, channels))
    smooth = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2) + noise.mean(-1, keepdims=True) + 0.5
    return smooth.astype(np.float32)


def test_published_size():
    """1.97 M parameters in Jordan 2024, section 3; to the last one, as the layers add up."""
    convolutions = 24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256
    total = 24 + 9 * convolutions + 2 * (64 + 256 + 256) + 256 * 10
    shapes = _shapes(SpeedrunConfig(), 32)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"])) == total == 1_971_352
    assert set(shapes) == {"params", "batch_stats", "constants"}
    assert jax.tree.map(lambda leaf: leaf.shape, shapes["constants"]) == {"whitening": (2, 2, 3, 24)}


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_are_white(channels):
    """The first half of the outputs has the identity as its covariance, the second half is its negative."""
    images = _photographs(channels)
    kernel = np.asarray(jax.jit(partial(whitening_kernel, eps=0.0))(images), np.float64)
    assert kernel.shape == (2, 2, channels, 8 * channels)
    patches = np.stack([images[:, i : i + 11, j : j + 11] for i in (0, 1) for j in (0, 1)], axis=3)
    out = np.einsum("nhwpc,pco->nhwo", patches.astype(np.float64), kernel.reshape(4, channels, -1))
    half = 4 * channels
    np.testing.assert_allclose(out[..., half:], -out[..., :half], atol=1e-6)
    found = np.cov(out[..., :half].reshape(-1, half).T, bias=True)
    np.testing.assert_allclose(found, np.eye(half), atol=2e-3)
    # the largest variance first, which has the smallest filter
    norms = np.linalg.norm(kernel.reshape(half, -1)[:, :half], axis=0)
    assert (np.diff(norms) > 0).all()


def test_whitening_of_images_without_variance_is_bounded():
    kernel = whitening_kernel(jnp.full((4, 6, 6, 1), 3.0), eps=0.25)
    np.testing.assert_allclose(jnp.linalg.norm(kernel.reshape(4, 8), axis=0), 2.0, rtol=1e-5)


def test_a_new_network_takes_images_as_white_and_the_kernel_is_used():
    images = jnp.asarray(_photographs(1)[:2])
    variables = _random_variables()
    levels = lambda kernel: SpeedrunNet(TINY, act=lambda x: x).apply(
        {**variables, "constants": {"whitening": kernel}}, images, train=False, method="features"
    )["c1"]
    levels = jax.jit(levels)

    @jax.jit
    def chosen():
        new = SpeedrunNet(TINY).init(jax.random.key(0), images, train=False)
        return new["constants"]["whitening"], [new["params"]["block_0"][f"conv_{at}"]["kernel"] for at in ("in", "out")]

    identity, convolutions = chosen()
    for kernel in convolutions:
        np.testing.assert_array_equal(kernel[1, 1], np.eye(8))
    bias = variables["params"]["whitening_bias"]
    corners = np.concatenate([images[:, i : i + 11, j : j + 11] for i in (0, 1) for j in (0, 1)], -1)
    np.testing.assert_allclose(levels(identity), np.concatenate([corners, -corners], -1) + bias, atol=1e-6)
    kernel = whitening_kernel(images)
    expected = corners @ kernel.reshape(4, 8) + bias
    np.testing.assert_allclose(levels(kernel), expected, rtol=1e-4, atol=1e-4)


def test_every_parameter_has_a_gradient_and_training_updates_only_the_statistics():
    variables = _random_variables()
    rest = {name: variables[name] for name in ("batch_stats", "constants")}

    def loss(params):
        of = SpeedrunNet(TINY).apply({"params": params, **rest}, _image(), train=True, mutable=list(rest))
        return jnp.sum(jnp.sin(20 * of[0] * jnp.arange(1, 7).reshape(2, 3))), of[1]

    grads, moved = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 1e-5, path
    np.testing.assert_array_equal(moved["constants"]["whitening"], rest["constants"]["whitening"])
    for old, new in zip(jax.tree.leaves(rest["batch_stats"]), jax.tree.leaves(moved["batch_stats"]), strict=True):
        assert (np.asarray(old) != np.asarray(new)).all()


@pytest.fixture(scope="module")
def forward():
    """(logits, levels) of TINY."""
    apply = lambda v, **of: SpeedrunNet(TINY).apply(v, _image(), train=False, **of)
    return jax.jit(lambda v: (apply(v), apply(v, method="features")))(_random_variables())


def test_logits_are_small_multiples_of_the_maxima(forward):
    logits, levels = forward
    np.testing.assert_array_equal(levels["pooled"], levels["c3"].max((1, 2)))
    np.testing.assert_allclose(
        logits, levels["pooled"] @ _random_variables()["params"]["head"]["kernel"] / 9, rtol=1e-4, atol=1e-6
    )
    headless = dataclasses.replace(TINY, classes=0)
    assert "head" not in _shapes(headless, 8)["params"]
    out = jax.eval_shape(lambda v: SpeedrunNet(headless).apply(v, _image(), train=False), _shapes(headless, 8))
    assert out.shape == (2, 16)


def test_bfloat16_is_close_to_float32(forward):
    config = dataclasses.replace(TINY, dtype="bfloat16")
    half = jax.jit(lambda v: SpeedrunNet(config).apply(v, _image(), train=False))(_random_variables())
    assert half.dtype == jnp.float32
    error = float(np.sqrt(np.mean((half - forward[0]) ** 2) / np.mean(forward[0] ** 2)))
    assert 0 < error < 0.03
    assert {leaf.dtype for leaf in jax.tree.leaves(_shapes(config, 8))} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("side", "channels", "sides"), [(32, 3, (31, 15, 7, 3)), (28, 1, (27, 13, 6, 3))])
def test_levels_of_features(side, channels, sides):
    config = SpeedrunConfig(channels=channels)
    image = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    levels = jax.eval_shape(
        lambda v, x: SpeedrunNet(config).apply(v, x, train=False, method="features"), _shapes(config, side), image
    )
    widths = (8 * channels, 64, 256, 256)
    expected = {f"c{i + 1}": (2, s, s, c) for i, (s, c) in enumerate(zip(sides, widths, strict=True))}
    assert {name: level.shape for name, level in levels.items()} == {**expected, "pooled": (2, 256)}


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (5, 5), (8, 3)])
def test_dirac_init_hands_the_input_on(inputs, outputs):
    features = np.random.default_rng(0).normal(size=(2, 4, 4, inputs)).astype(np.float32)
    conv = nn.Conv(outputs, (3, 3), use_bias=False, kernel_init=dirac_init)
    out, variables = jax.jit(lambda x: conv.init_with_output(jax.random.key(0), x))(features)
    kernel = variables["params"]["kernel"]
    passed = min(inputs, outputs)
    np.testing.assert_allclose(out[..., :passed], features[..., :passed], atol=1e-6)
    others = np.asarray(kernel)[..., passed:]
    assert (others != 0).all()
    assert np.abs(others).max(initial=0) <= 1 / np.sqrt(9 * inputs)


def test_variants_are_composed():
    norm = lambda *, train, **of: nn.GroupNorm(2, **of)
    model = SpeedrunNet(TINY, norm=norm, act=jnp.tanh)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=True), _image())
    assert set(shapes) == {"params", "constants"}
    assert set(shapes["params"]["block_0"]["norm_in"]) == {"scale", "bias"}
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes["params"]["block_0"])
    block = SpeedrunBlock(8, norm=norm, act=jnp.tanh)
    out = jax.jit(lambda x: block.apply({"params": params}, x, False))(_photographs(8)[:2])
    assert out.shape == (2, 6, 6, 8)
    assert np.abs(out).max() <= 1


@pytest.mark.parametrize("tensor", [2, 4])
def test_sharding_rules_hold(tensor):
    placed = shardings(_shapes(SpeedrunConfig(), 32), mesh=make_mesh(MeshConfig(tensor=tensor)), rules=SHARDING_RULES)
    block = placed["params"]["block_1"]
    assert tuple(block["conv_in"]["kernel"].spec) == (None, None, None, "tensor")
    assert tuple(block["conv_out"]["kernel"].spec) == (None, None, "tensor")
    assert tuple(placed["params"]["head"]["kernel"].spec) == ("tensor",)
