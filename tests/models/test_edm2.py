"""The magnitude-preserving UNet: published sizes, magnitudes at initialisation, gradients, conditions, variants."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_conditions import conditions

from vision.errors import UserError
from vision.models import edm2
from vision.models.edm2 import EDM2Config, EDM2UNet, log_variance
from vision.nn.magnitude_preserving import normalised_weights

TINY = EDM2Config(width=16, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8)
FULL = dataclasses.replace(TINY, classes=3, embedding=5, condition_channels=2, uncertainty=True, out_channels=4)
VARIATIONS = {
    "plain": TINY,
    "full": FULL,
    "full remat": dataclasses.replace(FULL, remat=True),
}


def inputs(config, side=8, count=2):
    image = jax.random.normal(jax.random.key(0), (count, side, side, config.channels))
    return image, jnp.linspace(-0.5, 0.6, count), conditions(config, side, count)


def initial(config, side=8):
    return jax.jit(lambda: EDM2UNet(config).init(jax.random.key(1), *inputs(config, side), train=False)["params"])()


@cache
def opened(config):
    """Parameters whose gains are not zero, so that nothing hides behind them."""
    is_gain = lambda path: path[-1].key in ("gain", "kernel")
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 0.7 if is_gain(path) else leaf, initial(dataclasses.replace(config, remat=False))
    )


def value(config, params, arguments):
    out = jnp.sum(jnp.sin(2 * EDM2UNet(config).apply({"params": params}, *arguments, train=False)))
    return out + jnp.sum(jnp.sin(log_variance(params, arguments[1]))) if config.uncertainty else out


@pytest.fixture(scope="module")
def gradients():
    """(value, gradient) of one scalar of the output for each variation, each compiled once."""

    @cache
    def of(name):
        config = VARIATIONS[name]
        function = jax.jit(jax.value_and_grad(lambda params, arguments: value(config, params, arguments)))
        return function(opened(dataclasses.replace(config, remat=False)), inputs(config))

    return of


@pytest.mark.parametrize(
    ("name", "millions"),
    [("XS", "124.7"), ("S", "280.2"), ("M", "497.8"), ("L", "777.5"), ("XL", "1119.3"), ("XXL", "1523.2")],
)
def test_published_sizes(name, millions):
    """Karras et al. 2024, table 6."""
    config = getattr(edm2, f"EDM2_{name}")
    arguments = jax.eval_shape(lambda: inputs(config, side=64, count=1))
    shapes = jax.eval_shape(lambda *of: EDM2UNet(config).init(jax.random.key(0), *of, train=False), *arguments)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"]))
    assert f"{count / 1e6:.1f}" == millions
    assert count == {"XS": 124_713_125, "S": 280_212_709}.get(name, count)


def test_magnitudes_at_initialisation_are_one_through_every_block():
    config = EDM2Config(width=64, multipliers=(1, 2), blocks=2, attention=(8,), head_channels=32, classes=3)
    arguments = (*inputs(config, side=16, count=4)[:2], {"label": jnp.array([0, 1, 2, 3])})
    params = initial(config, side=16)
    # a gain of 1 at the end, which starts at 0, shows what the network predicts
    params["head"]["gain"] = jnp.float32(1.0)
    out, kept = EDM2UNet(config).apply(
        {"params": params}, *arguments, train=False, capture_intermediates=True, mutable=["intermediates"]
    )
    seen = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(kept["intermediates"]):
        name = "/".join(key.key for key in path if hasattr(key, "key")).removesuffix("/__call__")
        seen[name] = float(jnp.sqrt(jnp.mean(jnp.square(leaf))))
    blocks = {name: seen[name] for name in seen if name.startswith(("down", "mid", "up")) and "/" not in name}
    assert len(blocks) == 2 * 2 + 1 + 2 + 2 * 3 + 1
    for name, size in blocks.items():
        # zeros beyond the border, and the mean that attention is, take some
        assert 0.8 < size < 1.1, (name, size)
    branches = {name: size for name, size in seen.items() if name.endswith(("conv_in", "conv_out", "skip", "stem"))}
    for name, size in branches.items():
        # features behind a SiLU have a mean, which random weights keep in expectation alone
        assert 0.65 < size < 1.3, (name, size)
    assert 0.75 < float(jnp.sqrt(jnp.mean(jnp.square(out)))) < 1.15
    assert all(size == 0 for name, size in seen.items() if name.endswith("modulation"))
    assert 0.8 < seen["label"] < 1.2
    assert 0.8 < seen["time"] < 1.2


def test_a_new_network_predicts_zero():
    assert not np.any(EDM2UNet(TINY).apply({"params": initial(TINY)}, *inputs(TINY), train=False))


@pytest.mark.parametrize("name", VARIATIONS)
def test_every_parameter_has_a_gradient(name, gradients):
    _, grads = gradients(name)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        assert float(jnp.abs(leaf).max()) > 1e-5, path


def test_remat_changes_the_program_and_not_the_result(gradients):
    plain, remat = VARIATIONS["full"], VARIATIONS["full remat"]
    programs = [str(jax.make_jaxpr(lambda p, c=c: value(c, p, inputs(c)))(opened(plain))) for c in (plain, remat)]
    assert ["checkpoint" in program or "remat" in program for program in programs] == [False, True]
    (one, grads), (other, other_grads) = gradients("full"), gradients("full remat")
    np.testing.assert_allclose(one, other, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, other_grads)


@pytest.fixture(scope="module")
def forward():
    """The network with all conditions, compiled once."""
    return jax.jit(lambda params, *of: EDM2UNet(FULL).apply({"params": params}, *of, train=False))


def test_the_scale_of_weights_changes_nothing(forward):
    params = opened(FULL)
    scaled = jax.tree_util.tree_map_with_path(lambda path, x: 9.0 * x if path[-1].key == "weight" else x, params)
    expected = forward(params, *inputs(FULL))
    assert float(jnp.abs(expected).max()) > 0.5
    np.testing.assert_allclose(forward(scaled, *inputs(FULL)), expected, atol=5e-3)
    np.testing.assert_allclose(forward(normalised_weights(scaled), *inputs(FULL)), expected, atol=5e-3)


def test_output_depends_on_image_time_and_conditions_of_the_same_sample(forward):
    image, time, condition = inputs(FULL)
    out = forward(opened(FULL), image, time, condition)
    assert out.shape == (2, 8, 8, 4)
    assert out.dtype == jnp.float32
    for changed in (
        (image.at[1, 0, 0, 0].add(1.0), time, condition),
        (image, time.at[1].add(0.3), condition),
        *((image, time, {**condition, name: v.at[1].set(0)}) for name, v in condition.items()),
    ):
        found = forward(opened(FULL), *changed)
        np.testing.assert_allclose(found[0], out[0], atol=1e-5)
        assert float(jnp.abs(found[1] - out[1]).max()) > 1e-3


def test_without_a_class_the_network_is_the_one_that_knows_none(forward):
    """No label and no vector leave the embedding of the time, as in a network without conditions."""
    config = dataclasses.replace(FULL, classes=0, embedding=0)
    image, time, condition = inputs(FULL)
    nothing = {**condition, "label": jnp.full(2, 3), "embedding": jnp.zeros((2, 5))}
    out = forward(opened(FULL), image, time, nothing)
    params = {name: tree for name, tree in opened(FULL).items() if name not in ("label", "embedding")}
    alone = EDM2UNet(config).apply({"params": params}, image, time, {"image": condition["image"]}, train=False)
    np.testing.assert_allclose(out, alone, atol=1e-5)


def test_bfloat16_is_close_to_float32(forward):
    config = dataclasses.replace(FULL, dtype="bfloat16")
    half = EDM2UNet(config).apply({"params": opened(FULL)}, *inputs(FULL), train=False)
    full = forward(opened(FULL), *inputs(FULL))
    assert half.dtype == jnp.float32
    error = float(jnp.sqrt(jnp.mean((half - full) ** 2) / jnp.mean(full**2)))
    assert 0 < error < 0.05


def test_dropout_acts_in_training_alone():
    config = dataclasses.replace(TINY, dropout=0.5)
    model, params = EDM2UNet(config), opened(TINY)
    of = lambda key, train: model.apply({"params": params}, *inputs(TINY), train=train, rngs={"dropout": key})
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(of(keys[0], False), of(keys[1], False))
    assert float(jnp.abs(of(keys[0], True) - of(keys[1], True)).max()) > 0.01


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="cannot be halved 1 times"):
        EDM2UNet(TINY).init(jax.random.key(0), *inputs(TINY, side=7), train=False)
    odd = dataclasses.replace(TINY, head_channels=12)
    with pytest.raises(UserError, match=r"no multiple of model\.head_channels 12"):
        EDM2UNet(odd).init(jax.random.key(0), *inputs(odd), train=False)
    with pytest.raises(ValueError, match="was not given the condition 'label'"):
        EDM2UNet(FULL).init(jax.random.key(0), *inputs(TINY), train=False)
