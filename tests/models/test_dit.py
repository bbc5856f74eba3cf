"""The diffusion transformer: its published sizes, its gradients, and what its blocks begin as."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_conditions import ALL, broken, conditions

from vision.errors import UserError
from vision.models.dit import DIT_B, DIT_L, DIT_S, DIT_XL, FREQUENCIES, DiT, DiTConfig, position_embedding
from vision.models.unet import UNet, UNetConfig

TINY = DiTConfig(patch=2, width=16, depth=2, heads=2, classes=3)
CONDITIONED = dataclasses.replace(TINY, **ALL)


def inputs(config, side=8):
    image = jax.random.normal(jax.random.key(0), (2, side, side, config.channels))
    return image, jnp.array([3, 700]), conditions(config, side)


def shapes(config):
    return jax.eval_shape(lambda key: DiT(config).init(key, *inputs(config), train=False), jax.random.key(0))["params"]


def random_params(config, seed=0):
    """Parameters none of which is zero, so that nothing hides behind closed gates."""
    generator = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray(generator.normal(size=leaf.shape) / max(np.sqrt(leaf.shape[0]), 2), jnp.float32)
    return jax.tree.map(draw, shapes(config))


def added_up(config):
    """The number of parameters, layer by layer."""
    dense = lambda inputs, outputs: inputs * outputs + outputs
    width, pixels = config.width, config.channels * config.patch**2
    block = dense(width, 6 * width) + 4 * dense(width, width)
    block += dense(width, config.expansion * width) + dense(config.expansion * width, width)
    labels = (config.classes + 1) * width if config.classes else 0
    embeddings = dense(FREQUENCIES, width) + dense(width, width) + labels
    return config.depth * block + embeddings + dense(pixels, width) + dense(width, 2 * width) + dense(width, pixels)


@pytest.mark.parametrize(
    ("config", "published"), [(DIT_S, 33), (DIT_B, 130), (DIT_L, 458), (DIT_XL, 675)], ids=["S", "B", "L", "XL"]
)
def test_published_sizes(config, published):
    """Peebles & Xie 2023, table 1, in millions: latents of four channels, 1,000 classes, the variance predicted too."""
    config = dataclasses.replace(config, channels=4, classes=1000)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes(config)))
    assert count == added_up(config)
    with_variance = count + (config.width + 1) * config.channels * config.patch**2
    assert round(with_variance / 1e6) == published
    if config == dataclasses.replace(DIT_XL, channels=4, classes=1000):
        positions = 256 * config.width  # published code counts the fixed table among its parameters
        assert with_variance + positions == 675_129_632


@pytest.mark.parametrize(
    "plain",
    [TINY, CONDITIONED, dataclasses.replace(CONDITIONED, embeddings="each")],
    ids=["label", "all conditions", "embeddings of each block"],
)
def test_every_parameter_has_a_gradient_and_remat_changes_nothing(plain):
    params, arguments = random_params(plain), inputs(plain)

    def value(config, params):
        return jnp.sum(jnp.sin(2 * DiT(config).apply({"params": params}, *arguments, train=True)))

    remat = dataclasses.replace(plain, remat=True)
    assert "remat" in str(jax.make_jaxpr(partial(value, remat))(params))
    found, again = (jax.jit(jax.value_and_grad(partial(value, config)))(params) for config in (plain, remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, again)
    for path, leaf in jax.tree_util.tree_leaves_with_path(found[1]):
        where, size = "/".join(key.key for key in path), float(jnp.abs(leaf).max())
        if where.endswith("key/bias") and not plain.tokens:  # adds the same to every logit of a softmax
            assert size < 1e-4, where
        else:
            assert size > 1e-4, where


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({"embedding": 768}, 769 * 384),
        # A table, positions, a normalisation, a projection of the mean; keys and values in each of twelve blocks
        ({"vocabulary": 50, "tokens": 12}, 62 * 384 + 2 * 384 + 385 * 384 + 12 * 2 * 385 * 384),
        ({"condition_channels": 3}, 3 * 4 * 384),
        ({"out_channels": 6}, 3 * 4 * 385),
    ],
    ids=["embedding", "tokens", "image", "out_channels"],
)
def test_sizes_with_conditions(options, extra):
    config = dataclasses.replace(DIT_S, **options)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(config))) == added_up(DIT_S) + extra


def test_a_new_network_predicts_zero_and_its_blocks_are_the_identity():
    params = jax.jit(partial(DiT(TINY).init, train=False))(jax.random.key(0), *inputs(TINY))["params"]
    closed = [params["head"]["kernel"], params["modulation"]["kernel"]]
    closed += [params[f"block_{index}"]["modulation"]["kernel"] for index in range(TINY.depth)]
    for leaf in closed:
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


def test_output_depends_on_image_time_and_conditions_of_the_same_sample():
    params, (image, time, condition) = random_params(CONDITIONED), inputs(CONDITIONED)
    forward = jax.jit(lambda *of: DiT(CONDITIONED).apply({"params": params}, *of, train=False))
    out = forward(image, time, condition)
    assert (out.shape, out.dtype) == (image.shape, jnp.float32)
    for changed in (
        forward(image.at[1, 0, 0, 0].add(1.0), time, condition),
        forward(image, time.at[1].add(50), condition),
        *(forward(image, time, {**condition, name: v.at[1].set(0)}) for name, v in condition.items()),
    ):
        np.testing.assert_array_equal(changed[0], out[0])
        assert float(jnp.abs(changed[1] - out[1]).max()) > 1e-3


def test_tokens_know_where_they_are():
    """Every position has a different encoding; the similarity of two depends only on their offset."""
    code = position_embedding(4, 6, 32).reshape(4, 6, 32)
    assert len(np.unique(code.reshape(24, 32).round(5), axis=0)) == 24
    likeness = np.einsum("ijc,klc->ijkl", code, code)
    np.testing.assert_allclose(likeness[0, 0, 1, 2], likeness[2, 3, 3, 5], rtol=1e-5)
    np.testing.assert_allclose(likeness[1, 1, 1, 4], likeness[3, 2, 3, 5], rtol=1e-5)
    assert likeness[0, 0, 0, 0] > likeness[0, 0, 0, 1] > likeness[0, 0, 1, 1]


def test_bfloat16_is_close_to_float32():
    params, arguments = random_params(CONDITIONED), inputs(CONDITIONED)
    full, half = (
        jax.jit(lambda *of, c=config: DiT(c).apply({"params": params}, *of, train=False))(*arguments)
        for config in (CONDITIONED, dataclasses.replace(CONDITIONED, dtype="bfloat16"))
    )
    assert half.dtype == jnp.float32
    assert 0 < float(jnp.sqrt(jnp.mean((half - full) ** 2) / jnp.mean(full**2))) < 0.05


def test_it_takes_what_the_unet_takes():
    image, time, condition = inputs(CONDITIONED)
    config = UNetConfig(width=8, multipliers=(1,), blocks=1, attention=(), **ALL)
    for model in (DiT(CONDITIONED), UNet(config)):
        out = jax.eval_shape(
            lambda model=model: model.init_with_output(jax.random.key(0), image, time, condition, train=False)
        )
        assert out[0].shape == image.shape


def test_conditions_that_do_not_belong():
    for config, condition, message in broken(dataclasses.replace(TINY, **ALL)):
        image, time, _ = inputs(config)
        with pytest.raises(ValueError, match=f"a DiT .*{message}"):
            jax.eval_shape(
                lambda c=config, of=(image, time, condition): DiT(c).init(jax.random.key(0), *of, train=False)
            )
    with pytest.raises(UserError, match="both are above 0"):
        jax.eval_shape(
            lambda: DiT(dataclasses.replace(TINY, tokens=4)).init(jax.random.key(0), *inputs(TINY), train=False)
        )


def test_output_channels():
    config = dataclasses.replace(TINY, out_channels=5)
    out, _ = jax.eval_shape(lambda: DiT(config).init_with_output(jax.random.key(0), *inputs(config), train=False))
    assert out.shape == (2, 8, 8, 5)
