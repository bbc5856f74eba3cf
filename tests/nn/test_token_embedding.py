"""Embeddings of tokens by hand, and what they depend on."""

import jax
import jax.numpy as jnp
import numpy as np

from vision.nn.token_embedding import TokenEmbedding

TOKENS = jnp.array([[3, 0, 1], [3, 3, 3]])


def test_by_hand():
    module = TokenEmbedding(vocabulary=5, width=8)
    generator = np.random.default_rng(0)
    table, position = generator.normal(size=(5, 8)), generator.normal(size=(3, 8))
    scale, bias = generator.normal(size=(2, 8))
    params = {"token": {"embedding": table}, "position": position, "norm": {"scale": scale, "bias": bias}}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    total = table[np.asarray(TOKENS)] + position
    expected = (total - total.mean(-1, keepdims=True)) / total.std(-1, keepdims=True) * scale + bias
    np.testing.assert_allclose(module.apply({"params": params}, TOKENS), expected, atol=1e-4)


def test_parameters_and_types():
    module = TokenEmbedding(vocabulary=5, width=8, dtype=jnp.bfloat16)
    out, variables = jax.jit(module.init_with_output)(jax.random.key(0), TOKENS)
    assert (out.shape, out.dtype) == ((2, 3, 8), jnp.bfloat16)
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {"token": {"embedding": (5, 8)}, "position": (3, 8), "norm": {"scale": (8,), "bias": (8,)}}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    # the same token at other places is another vector, and all are normalised
    assert len(np.unique(np.asarray(out[1], np.float32), axis=0)) == 3
    np.testing.assert_allclose(np.asarray(out, np.float32).std(-1), 1, rtol=0.02)
