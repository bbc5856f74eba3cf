"""The autoencoder of Stable Diffusion: its published size, gradients, and the equality of its variants."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.autoencoder_kl import LOG_VARIANCES, AutoencoderKl, AutoencoderKlConfig

TINY = AutoencoderKlConfig(channels=1, latent=2, widths=(4, 8), blocks=1, groups=2)
IMAGE = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1), minval=-1.0)
KEY = jax.random.key(4)


def shapes(config):
    model = AutoencoderKl(config)
    image = jnp.zeros((1, 2 * config.factor, 2 * config.factor, config.channels))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), image, key=KEY))["params"]


def variables():
    keys = iter(jax.random.split(jax.random.key(3), 500))
    made = AutoencoderKl(TINY).init(jax.random.key(1), IMAGE, key=KEY)
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), made)


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 83_653_863),
        ({"latent": 16, "encoded_projection": False, "decoded_projection": False}, 83_819_683),
        ({"attention": False}, 83_653_863 - 2 * (2 * 512 + 4 * 513 * 512)),
        ({"remat": True, "dtype": "bfloat16"}, 83_653_863),
    ],
    ids=["stable diffusion", "without projections", "without attention", "no parameters"],
)
def test_published_size(changes, count):
    """As counted in diffusers."""
    config = AutoencoderKlConfig(**changes)
    leaves = jax.tree.leaves(shapes(config))
    assert sum(int(np.prod(leaf.shape)) for leaf in leaves) == count
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert config.factor == 8


@pytest.fixture(scope="module")
def gradients():
    def of(config):
        def loss(values):
            return jnp.sum(jnp.sin(3 * AutoencoderKl(config).apply(values, IMAGE, key=KEY)))

        return jax.jit(jax.value_and_grad(loss))(variables())

    return {remat: of(dataclasses.replace(TINY, remat=remat)) for remat in (False, True)}


def test_every_parameter_receives_a_gradient(gradients):
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients[False][1]):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # q (k + b) = q k + q b adds the same to every logit of a softmax
        assert name.endswith("key/bias") or jnp.abs(leaf).max() > 1e-5, name


def test_remat_changes_the_program_and_not_the_result(gradients):
    program = str(
        jax.make_jaxpr(lambda v: AutoencoderKl(dataclasses.replace(TINY, remat=True)).apply(v, IMAGE, key=KEY))(
            variables()
        )
    )
    assert "checkpoint" in program or "remat" in program
    (value, grads), (other, other_grads) = gradients[False], gradients[True]
    np.testing.assert_allclose(value, other, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, other_grads)


def test_bfloat16_is_close_to_float32():
    """Moments and images are float32 whatever the type inside."""
    half = AutoencoderKl(dataclasses.replace(TINY, dtype="bfloat16"))
    for method, given in (("encode", IMAGE), ("decode", jax.random.normal(KEY, (2, 4, 4, 2)))):
        want, found = (jnp.asarray(m.apply(variables(), given, method=method)) for m in (AutoencoderKl(TINY), half))
        assert found.dtype == jnp.float32
        assert 0 < float(jnp.sqrt(jnp.mean((found - want) ** 2) / jnp.mean(want**2))) < 0.05


def test_log_variances_are_clipped():
    values = variables()
    values["params"]["to_moments"]["bias"] = jnp.array([0.0, 0.0, 1e3, -1e3])
    _, log_variance = AutoencoderKl(TINY).apply(values, IMAGE, method="encode")
    assert (float(log_variance[..., 1].max()), float(log_variance[..., 0].min())) == LOG_VARIANCES


def test_groups_must_divide_the_channels():
    with pytest.raises(UserError, match="4 channels cannot be divided into 3 groups"):
        shapes(dataclasses.replace(TINY, groups=3))
