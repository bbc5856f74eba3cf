"""Self-attention against loops over positions in float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.nn.attention import SelfAttention2d
from vision.nn.norms import GroupNorm


class Doubled(nn.Module):
    """Stands in for a normalisation: easy to do by hand."""

    @nn.compact
    def __call__(self, features):
        """Twice the features."""
        return 2 * features


class Identity(nn.Module):
    """Stands in for a normalisation, and does nothing."""

    @nn.compact
    def __call__(self, features):
        """The features."""
        return features


FEATURES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 8)), jnp.float32)


def _params(module):
    """Random weights, none of them zero."""
    generator = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), FEATURES)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(generator.normal(size=leaf.shape) / 2, jnp.float32), shapes)


def _run(module, params, features):
    return jax.jit(lambda params, features: module.apply({"params": params}, features))(params, features)


def _attend(params, features, heads):
    """softmax(q k^T / sqrt(d)) v, one position of one head of one image at a time."""
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    batch, height, width, channels = features.shape
    tokens = np.asarray(features, np.float64).reshape(batch, height * width, channels)
    apply = lambda name, x: x @ weights[name]["kernel"] + weights[name]["bias"]
    size = channels // heads
    out = np.empty_like(tokens)
    for b in range(batch):
        query, key, value = (apply(name, 2 * tokens[b]) for name in ("query", "key", "value"))
        for position in range(height * width):
            mixed = np.empty(channels)
            for head in range(heads):
                own = slice(head * size, (head + 1) * size)
                scores = np.array([query[position, own] @ k[own] for k in key]) / np.sqrt(size)
                share = np.exp(scores - scores.max())
                share /= share.sum()
                mixed[own] = sum(w * v[own] for w, v in zip(share, value, strict=True))
            out[b, position] = tokens[b, position] + apply("out", mixed)
    return out.reshape(features.shape)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_against_loops(heads):
    module = SelfAttention2d(norm=Doubled, heads=heads)
    params = _params(module)
    np.testing.assert_allclose(_run(module, params, FEATURES), _attend(params, FEATURES, heads), atol=2e-5)


def test_a_context_is_attended_to_with_the_positions():
    """The projections of the context equal to those of the positions: as many positions more, queries left out."""
    module = SelfAttention2d(norm=Identity, heads=2)
    context = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4, 8)), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), FEATURES, context)["params"]
    params = dict(_params(module))
    assert set(shapes) == {*params, "context_key", "context_value"}
    longer = jnp.concatenate([FEATURES, context[:, None]], axis=1)
    expected = _run(module, params, longer)[:, :3]
    params |= {"context_key": params["key"], "context_value": params["value"]}
    found = jax.jit(lambda params: module.apply({"params": params}, FEATURES, context))(params)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert float(jnp.abs(found - _run(module, params, FEATURES)).max()) > 1e-2


def test_positions_are_a_set():
    module = SelfAttention2d(norm=partial(GroupNorm, groups=2), heads=2)
    params = _params(module)
    order = np.random.default_rng(0).permutation(12)
    shuffle = lambda x: np.asarray(x).reshape(2, 12, 8)[:, order].reshape(2, 3, 4, 8)
    plain, shuffled = (_run(module, params, x) for x in (FEATURES, jnp.asarray(shuffle(FEATURES))))
    np.testing.assert_allclose(shuffled, shuffle(plain), atol=1e-5)


def test_without_a_norm_and_with_a_scale():
    plain = SelfAttention2d(norm=Identity, heads=2)
    params = _params(plain)
    found = _run(SelfAttention2d(norm=None, heads=2, scale=0.5), params, FEATURES)
    np.testing.assert_allclose(found, 0.5 * _run(plain, params, FEATURES), atol=1e-6)


def test_a_new_block_is_the_identity():
    module = SelfAttention2d(norm=GroupNorm)
    out = jax.jit(lambda x: module.init_with_output(jax.random.key(0), x)[0])(FEATURES)
    np.testing.assert_array_equal(out, FEATURES)


def test_bfloat16_is_close_to_float32():
    module = SelfAttention2d(norm=Doubled)
    params = _params(module)
    half = _run(SelfAttention2d(norm=Doubled, dtype=jnp.bfloat16), params, FEATURES.astype(jnp.bfloat16))
    full = np.asarray(_run(module, params, FEATURES))
    assert half.dtype == jnp.bfloat16
    assert np.abs(np.asarray(half, np.float32) - full).max() < 0.05 * np.abs(full).max()
