"""The UNet: its size against published and written-out counts, its gradients, and the equality of its variants."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_conditions import ALL, broken, conditions

from vision.errors import UserError
from vision.models.unet import ResidualBlock, UNet, UNetConfig
from vision.nn.norms import GroupNorm

TINY = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)

SMALLEST = dataclasses.replace(TINY, multipliers=(1,), attention=())
VARIATIONS = {
    "plain": SMALLEST,
    "remat": dataclasses.replace(SMALLEST, remat=True),
    "all": dataclasses.replace(TINY, classes=3, patch=2, heads=2, conditioning="scale_shift"),
    "conditioned": dataclasses.replace(SMALLEST, **ALL),
    "conditioned remat": dataclasses.replace(SMALLEST, **ALL, remat=True),
}


def _inputs(config, side=8):
    """A batch of two with different times and, where the network needs them, conditions."""
    image = jax.random.normal(jax.random.key(0), (2, side, side, config.channels))
    return image, jnp.array([3, 700]), conditions(config, side)


def _shapes(config, side=32):
    """Shapes of the parameters, by path; nothing is computed."""
    arguments = jax.eval_shape(lambda: _inputs(config, side))
    params = jax.eval_shape(lambda *of: UNet(config).init(jax.random.key(0), *of, train=False), *arguments)["params"]
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {"/".join(key.key for key in path): leaf.shape for path, leaf in flat}


@cache
def _random_params(config):
    """Parameters none of which is zero, so that nothing hides behind the zero initialisation."""
    shapes = _shapes(config, side=8)
    generator = np.random.default_rng(0)
    tree = {}
    for path, shape in shapes.items():
        *modules, name = path.split("/")
        at = tree
        for module in modules:
            at = at.setdefault(module, {})
        draw = generator.normal(size=shape) / max(np.sqrt(np.prod(shape[:-1])), 4)
        at[name] = jnp.asarray(draw + (name == "scale"), jnp.float32)
    return tree


def _value(config, params, arguments):
    return jnp.sum(jnp.sin(2 * UNet(config).apply({"params": params}, *arguments, train=False)))


@pytest.fixture(scope="module")
def gradients():
    """(value, gradient) of one scalar of the output for each variation, each compiled once."""

    @cache
    def of(name):
        config = VARIATIONS[name]
        function = jax.jit(jax.value_and_grad(lambda params, arguments: _value(config, params, arguments)))
        return function(_random_params(config), _inputs(config))

    return of


def _count(config, side=32):
    return sum(int(np.prod(shape)) for shape in _shapes(config, side).values())


def test_published_size():
    """35.7 M parameters in Ho et al. 2020, appendix B; to the last one, as the layers add up below."""
    conv = lambda inputs, outputs: 9 * inputs * outputs + outputs
    dense = lambda inputs, outputs: inputs * outputs + outputs

    def block(inputs, outputs):
        skip = dense(inputs, outputs) if inputs != outputs else 0
        return 2 * inputs + conv(inputs, outputs) + dense(512, outputs) + 2 * outputs + conv(outputs, outputs) + skip

    attention = 2 * 256 + 4 * dense(256, 256)
    total = dense(128, 512) + dense(512, 512) + conv(3, 128)
    total += 2 * block(128, 128) + conv(128, 128)
    total += block(128, 256) + block(256, 256) + 2 * attention + conv(256, 256)
    total += 2 * block(256, 256) + conv(256, 256) + 2 * block(256, 256)
    total += 2 * block(256, 256) + attention
    total += 3 * block(512, 256) + conv(256, 256) + 3 * block(512, 256) + conv(256, 256)
    total += 2 * block(512, 256) + block(384, 256) + 3 * attention + conv(256, 256)
    total += block(384, 128) + 2 * block(256, 128) + 2 * 128 + conv(128, 3)
    assert _count(UNetConfig()) == total == 35_746_307


@pytest.mark.parametrize(
    ("config", "side", "extra"),
    [
        (UNetConfig(classes=10), 32, 11 * 512),
        (UNetConfig(patch=2), 64, 9 * 9 * 128 + 9 * (9 * 128 + 1)),
        (UNetConfig(channels=1), 32, -2 * (9 * 128) - 2 * (9 * 128 + 1)),
        (UNetConfig(attention=()), 32, -5 * (2 * 256 + 4 * (256 * 256 + 256))),
        (UNetConfig(embedding=768), 32, 769 * 512),
        # A table, positions, a normalisation, a projection of the mean; keys and values of six layers of attention
        (UNetConfig(vocabulary=50, tokens=12), 32, 62 * 512 + 2 * 512 + 513 * 512 + 6 * 2 * 513 * 256),
        (UNetConfig(condition_channels=3), 32, 3 * 9 * 128),
        (UNetConfig(out_channels=6), 32, 3 * (9 * 128 + 1)),
        # Twice as many outputs of every block's embedding layer
        (UNetConfig(conditioning="scale_shift"), 32, 513 * (5 * (128 + 3 * 256) + 2 * 256)),
        (UNetConfig(remat=True, dtype="bfloat16", heads=4, dropout=0.3), 32, 0),
    ],
    ids=[
        *("classes", "patch", "channels", "no attention", "embedding", "tokens", "image", "out_channels"),
        *("scale_shift", "no parameters"),
    ],
)
def test_size_of_variations(config, side, extra):
    assert _count(config, side) == 35_746_307 + extra


def test_parameters_are_float32_and_attention_is_where_it_belongs():
    names = _shapes(UNetConfig(dtype="bfloat16"))
    attending = {name.split("/")[0] for name in names if "attention" in name}
    assert attending == {
        "mid_attention",
        *(f"down_1_attention_{i}" for i in range(2)),
        *(f"up_1_attention_{i}" for i in range(3)),
    }


@pytest.mark.parametrize("name", VARIATIONS)
def test_every_parameter_has_a_gradient(name, gradients):
    _, grads = gradients(name)
    flat, _ = jax.tree_util.tree_flatten_with_path(grads)
    for path, leaf in flat:
        where = "/".join(key.key for key in path)
        size = float(jnp.abs(leaf).max())
        if where.endswith("key/bias") and not VARIATIONS[name].tokens:
            # q (k + b) = q k + q b adds the same to every logit of a softmax; with tokens, to a part of them
            assert size < 1e-4, where
        else:
            assert size > 1e-4, where


@pytest.mark.parametrize(("one", "two"), [("plain", "remat"), ("conditioned", "conditioned remat")])
def test_remat_changes_the_program_and_not_the_result(gradients, one, two):
    plain, remat = VARIATIONS[one], VARIATIONS[two]
    programs = [
        str(jax.make_jaxpr(lambda p, c=c: _value(c, p, _inputs(c)))(_random_params(plain))) for c in (plain, remat)
    ]
    assert ["checkpoint" in program or "remat" in program for program in programs] == [False, True]
    (value, grads), (other, other_grads) = gradients(one), gradients(two)
    np.testing.assert_allclose(value, other, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, other_grads)


@pytest.fixture(scope="module")
def forward():
    """The network with all conditions, compiled once."""
    config = VARIATIONS["conditioned"]
    return jax.jit(lambda *of: UNet(config).apply({"params": _random_params(config)}, *of, train=False))


def test_output_depends_on_image_time_and_conditions_of_the_same_sample(forward):
    image, time, condition = _inputs(VARIATIONS["conditioned"])
    out = forward(image, time, condition)
    assert out.shape == image.shape
    assert out.dtype == jnp.float32
    for changed in (
        forward(image.at[1, 0, 0, 0].add(1.0), time, condition),
        forward(image, time.at[1].add(50), condition),
        *(forward(image, time, {**condition, name: v.at[1].set(0)}) for name, v in condition.items()),
    ):
        np.testing.assert_array_equal(changed[0], out[0])
        assert float(jnp.abs(changed[1] - out[1]).max()) > 1e-3


def test_bfloat16_is_close_to_float32(forward):
    config = dataclasses.replace(VARIATIONS["conditioned"], dtype="bfloat16")
    arguments = _inputs(config)
    half = jax.jit(lambda *of: UNet(config).apply({"params": _random_params(config)}, *of, train=False))(*arguments)
    full = forward(*arguments)
    assert half.dtype == jnp.float32
    error = float(jnp.sqrt(jnp.mean((half - full) ** 2) / jnp.mean(full**2)))
    assert 0 < error < 0.03


def test_a_new_network_predicts_zero_and_its_branches_are_closed():
    """The last layer of the network, of every residual block and of every attention starts at zero."""

    def last_layers():
        params = UNet(TINY).init(jax.random.key(0), *_inputs(TINY), train=False)["params"]
        blocks = {name: params[name] for name in params if "block" in name or "mid" in name or "attention" in name}
        return params["head"], {name: at.get("conv_out", at.get("out")) for name, at in blocks.items()}

    head, closed = jax.jit(last_layers)()
    assert len(closed) == 2 + 4 + 3 + 3  # blocks down, up and in the middle, attentions
    for leaf in jax.tree.leaves((head, closed)):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


def test_dropout_acts_only_in_training():
    """With the last convolution the identity, the block shows which activations survive, doubled at one half."""
    generator = np.random.default_rng(0)
    block = ResidualBlock(8, dropout=0.5, norm=GroupNorm)
    features, embedding = (jnp.asarray(generator.normal(size=s), jnp.float32) for s in ((4, 4, 4, 8), (4, 16)))
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(1), features, embedding, False))["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), jnp.float32), shapes)
    identity = np.zeros((3, 3, 8, 8), np.float32)
    identity[1, 1] = np.eye(8)
    params["conv_out"] = {"kernel": jnp.asarray(identity), "bias": jnp.zeros(8)}

    @jax.jit
    def branches(key):
        run = lambda train: block.apply({"params": params}, features, embedding, train, rngs={"dropout": key})
        return run(False) - features, run(True) - features

    (still, first), (again, second) = (map(np.asarray, branches(jax.random.key(seed))) for seed in (0, 1))
    np.testing.assert_array_equal(still, again)
    masks = [np.abs(dropped) > 1e-5 for dropped in (first, second)]
    for dropped, kept in zip((first, second), masks, strict=True):
        assert abs(kept.mean() - 0.5) < 5 * 0.5 / np.sqrt(kept.size)
        np.testing.assert_allclose(dropped, np.where(kept, 2 * still, 0), atol=1e-4)
    assert (masks[0] != masks[1]).any()


def test_patch_lowers_the_resolution_inside():
    for patch, side in ((1, 32), (2, 16), (4, 8)):
        config = dataclasses.replace(TINY, patch=patch)

        def run(arguments, config=config):
            return UNet(config).init_with_output(
                jax.random.key(0), *arguments, train=False, capture_intermediates=True, mutable=True
            )

        out, state = jax.eval_shape(run, jax.eval_shape(lambda config=config: _inputs(config, 32)))
        seen = state["intermediates"]
        assert out.shape == (2, 32, 32, 3)
        assert seen["stem"]["__call__"][0].shape == (2, side, side, 8)
        assert seen["mid_b"]["__call__"][0].shape == (2, side // 2, side // 2, 16)
        assert seen["head"]["__call__"][0].shape == (2, side, side, 3 * patch**2)


def test_conditions_that_do_not_belong():
    for config, condition, message in broken(dataclasses.replace(TINY, **ALL)):
        image, time, _ = _inputs(config)
        with pytest.raises(ValueError, match=f"a UNet .*{message}"):
            jax.eval_shape(
                lambda c=config, of=(image, time, condition): UNet(c).init(jax.random.key(0), *of, train=False)
            )
    with pytest.raises(UserError, match="both are above 0"):
        jax.eval_shape(
            lambda: UNet(dataclasses.replace(TINY, tokens=4)).init(jax.random.key(0), *_inputs(TINY), train=False)
        )


def test_output_channels():
    config = dataclasses.replace(TINY, out_channels=5)
    out, _ = jax.eval_shape(lambda: UNet(config).init_with_output(jax.random.key(0), *_inputs(config), train=False))
    assert out.shape == (2, 8, 8, 5)


def test_sides_must_be_multiples_of_the_patch():
    config = dataclasses.replace(TINY, patch=3)
    with pytest.raises(Exception, match="8x8 pixels cannot be cut into 3x3"):
        jax.eval_shape(lambda: UNet(config).init(jax.random.key(0), *_inputs(config), train=False))
