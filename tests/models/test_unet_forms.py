"""The UNet as ADM, DDPM++ and their like: published sizes, gradients, and what each of their options does."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from tiny_conditions import conditions

from vision.errors import UserError
from vision.models.unet import (
    ADM_64,
    ADM_128,
    ADM_256,
    ADM_512,
    DDPM_256,
    DDPM_PLUS_PLUS,
    SHARDING_RULES,
    ResidualBlock,
    UNet,
    UNetConfig,
)
from vision.nn.norms import GroupNorm
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.sharding import path_name, shardings

_SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "dropout": 0.0}
ADM = dataclasses.replace(ADM_64, **_SMALL, attention=(8, 4), head_channels=4, groups=4, classes=3)
PLUS = dataclasses.replace(DDPM_PLUS_PLUS, **_SMALL, attention=(8,))
FORMS = {
    "adm": ADM,
    "adm remat": dataclasses.replace(ADM, remat=True),
    "ddpm++": PLUS,
    "ddpm++ remat": dataclasses.replace(PLUS, remat=True),
    "fourier": UNetConfig(
        **_SMALL,
        attention=(),
        mid_attention="plain",
        mid_scale=0.5,
        resampling="strided_after",
        time_embedding="fourier",
        time_width=12,
        centred=True,
    ),
}


def inputs(config):
    image = jax.random.normal(jax.random.key(0), (2, 8, 8, config.channels))
    return image, jnp.array([0.5, 7.0]), conditions(config)


def shapes(config, arguments):
    arguments = jax.eval_shape(lambda: arguments)
    return jax.eval_shape(lambda *of: UNet(config).init(jax.random.key(0), *of, train=False), *arguments)["params"]


@cache
def params(config):
    """Parameters none of which is zero."""
    generator = np.random.default_rng(0)
    draw = lambda leaf: generator.normal(size=leaf.shape) / max(np.sqrt(np.prod(leaf.shape[:-1])), 2)
    return jax.tree.map(lambda leaf: jnp.asarray(draw(leaf), jnp.float32), shapes(config, inputs(config)))


def count(config, side):
    label = {"label": jnp.zeros(1, jnp.int32)} if config.classes else {}
    arguments = jnp.zeros((1, side, side, config.channels)), jnp.ones(1), label
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(config, arguments)))


@pytest.mark.parametrize(
    ("config", "side", "published", "exact"),
    [
        (DDPM_256, 256, 114, 113_673_219),  # Ho et al. 2020, appendix B
        # Dhariwal & Nichol 2021, appendix I, with the variance
        (dataclasses.replace(ADM_64, out_channels=6), 64, 296, 295_904_454),
        (dataclasses.replace(ADM_128, out_channels=6), 128, 422, 421_529_606),
        (dataclasses.replace(ADM_256, out_channels=6), 256, 554, 553_838_086),
        (dataclasses.replace(ADM_256, out_channels=6, classes=0), 256, 553, 552_814_086),
        (dataclasses.replace(ADM_512, out_channels=6), 512, 559, 558_997_638),
        # Karras et al. 2022, table 7, and what they start from
        (ADM_64, 64, 295.9, 295_899_267),
        (DDPM_PLUS_PLUS, 32, 55.7, 55_732_739),
        (dataclasses.replace(DDPM_PLUS_PLUS, multipliers=(1, 2, 2, 2)), 32, 61.8, 61_804_419),
    ],
    ids=[
        "ddpm 256",
        "adm 64",
        "adm 128",
        "adm 256",
        "adm 256 unlabelled",
        "adm 512",
        "adm of edm",
        "ddpm++",
        "ddpm++ of song",
    ],
)
def test_published_sizes(config, side, published, exact):
    assert count(config, side) == exact
    assert round(exact / 1e6, 1 if isinstance(published, float) else None) == published


@pytest.fixture(scope="module")
def gradients():
    """(value, gradient) of one scalar of the output, each compiled once."""

    @cache
    def of(name):
        config = FORMS[name]
        value = lambda p, arguments: jnp.sum(jnp.sin(2 * UNet(config).apply({"params": p}, *arguments, train=False)))
        return jax.jit(jax.value_and_grad(value))(params(config), inputs(config))

    return of


@pytest.mark.parametrize("name", [name for name in FORMS if "remat" not in name])
def test_every_parameter_has_a_gradient(name, gradients):
    flat, _ = jax.tree_util.tree_flatten_with_path(gradients(name)[1])
    for path, leaf in flat:
        where, size = path_name(path), float(jnp.abs(leaf).max())
        if where.endswith("time_frequencies"):
            assert size == 0.0  # fixed
        elif where.endswith("key/bias"):
            assert size < 1e-4, where  # adds the same to every logit of a softmax
        else:
            assert size > 1e-4, where


@pytest.mark.parametrize("name", ["adm", "ddpm++"])
def test_remat_equals_plain(name, gradients):
    (value, grads), (other, other_grads) = gradients(name), gradients(f"{name} remat")
    np.testing.assert_allclose(value, other, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, other_grads)


def test_where_layers_are():
    adm, plus = (set(params(config)) for config in (ADM, PLUS))
    assert {name for name in adm if "up" in name and "attention" in name} == {
        f"up_{level}_attention_{index}" for level in (0, 1) for index in (0, 1)
    }
    assert {name for name in plus if "attention" in name} == {
        *("down_0_attention_0", "mid_attention", "up_0_attention_1")
    }
    assert "skip" not in params(ADM)["down_0_halve"]
    assert "skip" in params(PLUS)["down_0_halve"]
    assert "norm" not in params(FORMS["fourier"])["mid_attention"]
    assert "mid_attention" not in shapes(dataclasses.replace(ADM, mid_attention="none"), inputs(ADM))


def test_a_residual_block_changes_resolution_inside_and_on_the_way_past():
    """A new block is the identity but for that: its last convolution is zero."""
    features, embedding = jax.random.normal(jax.random.key(1), (2, 4, 6, 8)), jnp.ones((2, 5))
    run = lambda **of: ResidualBlock(8, dropout=0.0, norm=GroupNorm, **of).init_with_output(
        jax.random.key(0), features, embedding, False
    )[0]
    down, up, scaled = jax.jit(lambda: (run(resample="down"), run(resample="up"), run(scale=0.5)))()
    means = features.reshape(2, 2, 2, 3, 2, 8).mean((2, 4))
    np.testing.assert_allclose(down, means, atol=1e-6)
    np.testing.assert_array_equal(up, jnp.repeat(jnp.repeat(features, 2, axis=1), 2, axis=2))
    np.testing.assert_array_equal(scaled, 0.5 * features)


def test_a_network_trained_with_labels_only_has_no_null_label():
    """What is no label adds nothing, as a label does whose row is zero."""
    assert params(ADM)["label_embedding"]["embedding"].shape == (3, 32)
    image, time, _ = inputs(ADM)
    table = params(ADM)["label_embedding"]["embedding"].at[1].set(0.0)
    chosen = {**params(ADM), "label_embedding": {"embedding": table}}
    run = jax.jit(lambda label: UNet(ADM).apply({"params": chosen}, image, time, {"label": label}, train=False))
    null, zero, other = (run(jnp.full(2, label)) for label in (3, 1, 0))
    np.testing.assert_array_equal(null, zero)
    assert float(jnp.abs(null - other).max()) > 1e-3


def test_heads_that_do_not_divide_the_channels():
    config = dataclasses.replace(ADM, head_channels=5)
    with pytest.raises(UserError, match="8 channels cannot be divided into attention heads of 5"):
        shapes(config, inputs(config))


def test_kernels_of_blocks_between_levels_are_split():
    placed = shardings(shapes(ADM, inputs(ADM)), mesh=make_mesh(MeshConfig(tensor=2)), rules=SHARDING_RULES)
    specs = {path_name(path): leaf.spec for path, leaf in jax.tree_util.tree_leaves_with_path(placed)}
    for block in ("down_0_halve", "up_1_double", "down_1_block_0"):
        assert specs[f"{block}/conv_in/kernel"] == P(None, None, None, "tensor")
        assert specs[f"{block}/conv_out/kernel"] == P(None, None, "tensor")
