"""Group normalisation against its definition in float64 and against Flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.nn.norms import GroupNorm


@jax.jit
def _group_norm(x, scale, bias):
    return GroupNorm(dtype=x.dtype).apply({"params": {"scale": scale, "bias": bias}}, x)


def _normalised(x, groups):
    """(x - mean) / sqrt(var + 1e-6) over each sample's group of channels, one after another."""
    out = np.empty(x.shape, np.float64)
    size = x.shape[-1] // groups
    for b in range(len(x)):
        for g in range(groups):
            part = x[b, :, :, g * size : (g + 1) * size].astype(np.float64)
            out[b, :, :, g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + 1e-6)
    return out


@pytest.mark.parametrize(
    ("channels", "groups"), [(128, 32), (256, 32), (64, 16), (96, 8), (8, 2), (9, 1), (18, 2), (3, 1)]
)
def test_definition(channels, groups):
    generator = np.random.default_rng(channels)
    x = (generator.normal(size=(2, 3, 5, channels)) * generator.uniform(0.1, 3, channels) + 2).astype(np.float32)
    scale, bias = generator.normal(size=(2, channels)).astype(np.float32)
    found = _group_norm(x, scale, bias)
    np.testing.assert_allclose(found, _normalised(x, groups) * scale + bias, atol=3e-5)


def test_equals_flax():
    generator = np.random.default_rng(0)
    x, scale, bias = (jnp.asarray(generator.normal(size=s), jnp.float32) for s in ((2, 4, 4, 128), 128, 128))
    params = {"params": {"scale": scale, "bias": bias}}

    def value_and_gradient(module):
        def value(x):
            out = module.apply(params, 3 * x + 1)
            return jnp.sum(jnp.sin(out)), out

        return jax.jit(jax.grad(value, has_aux=True))(x)

    theirs = value_and_gradient(nn.GroupNorm(num_groups=32, epsilon=1e-6))
    for found, expected in zip(value_and_gradient(GroupNorm()), theirs, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_smaller_groups():
    """Six channels in three groups of two, where four are the least by default."""
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 6)).astype(np.float32)
    params = {"params": {"scale": jnp.ones(6), "bias": jnp.zeros(6)}}
    found = GroupNorm(groups=3, least=1).apply(params, jnp.asarray(x))
    np.testing.assert_allclose(found, _normalised(x, 3), atol=3e-5)


def test_any_number_of_channels_has_groups():
    for channels in (*range(1, 24), 48, 66, 100, 192, 384):
        features = jax.ShapeDtypeStruct((1, 2, 2, channels), jnp.float32)
        out, _ = jax.eval_shape(lambda x: GroupNorm().init_with_output(jax.random.key(0), x), features)
        assert out.shape == features.shape


def test_large_means_and_constant_images():
    x = np.random.default_rng(3).normal(size=(1, 8, 8, 16)).astype(np.float32) + 30
    ones, zeros = np.ones(16, np.float32), np.zeros(16, np.float32)
    np.testing.assert_allclose(_group_norm(x, ones, zeros), _normalised(x, 4), atol=5e-3)
    assert np.abs(_group_norm(np.full_like(x, 1000), ones, zeros)).max() < 0.1


def test_bfloat16_has_float32_statistics():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 8)) + 4, jnp.bfloat16)
    found = _group_norm(x, np.ones(8, np.float32), np.zeros(8, np.float32))
    assert found.dtype == jnp.bfloat16
    # Only the result is rounded, to 8 bits.
    expected = _normalised(np.asarray(x, np.float32), 2)
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=5e-3, atol=1e-4)
