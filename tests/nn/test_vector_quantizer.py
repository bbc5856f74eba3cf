"""The codebook: nearest codes by brute force, averages written out, dead codes that are restarted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.nn.vector_quantizer import VectorQuantizer, nearest, perplexity

KEY = jax.random.key(0)


def quantizer(**changes):
    model = VectorQuantizer(**{"codes": 8, "dimensions": 3, **changes})
    return model, model.init({"params": KEY}, jnp.zeros((1, 2, 2, 3)), train=False)


def test_nearest_by_brute_force():
    generator = np.random.default_rng(0)
    vectors, codes = generator.normal(size=(200, 3)), generator.normal(size=(17, 3))
    want = np.square(vectors[:, None] - codes).sum(-1).argmin(1)
    np.testing.assert_array_equal(nearest(jnp.float32(vectors), jnp.float32(codes)), want)


def test_perplexity():
    assert perplexity(jnp.array([1.0, 0.0, 0.0])) == pytest.approx(1.0)
    assert perplexity(jnp.full(16, 1 / 16)) == pytest.approx(16.0, rel=1e-5)


def test_codes_are_the_nearest_and_gradients_pass():
    model, state = quantizer()
    vectors = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    found = model.apply(state, vectors, train=False)
    codes = state["codebook"]["codes"]
    np.testing.assert_allclose(found.vectors, codes[found.indices], atol=1e-6)
    np.testing.assert_allclose(model.apply(state, found.indices, method="lookup"), codes[found.indices])
    np.testing.assert_allclose(found.commitment, np.square(vectors - codes[found.indices]).mean(), rtol=1e-5)
    weights = jax.random.normal(jax.random.key(2), vectors.shape)
    through = jax.grad(lambda v: jnp.sum(weights * model.apply(state, v, train=False).vectors))(vectors)
    np.testing.assert_allclose(through, weights)
    pull = jax.grad(lambda v: model.apply(state, v, train=False).commitment)(vectors)
    np.testing.assert_allclose(pull, 2 * (vectors - codes[found.indices]) / vectors.size, atol=1e-6)


def test_the_codebook_follows_as_written_out():
    """Van den Oord et al. 2017, appendix A.1: ten batches, in numpy."""
    model, state = quantizer(decay=0.9, dead_below=0.0)
    state = {"codebook": {**state["codebook"], "counts": jnp.ones(8), "sums": state["codebook"]["codes"]}}
    counts, sums = np.ones(8), np.array(state["codebook"]["codes"], np.float64)
    codes = sums.copy()
    for turn in range(10):
        vectors = jax.random.normal(jax.random.key(turn), (4, 4, 4, 3))
        _, state = model.apply(state, vectors, key=KEY, train=True, mutable=["codebook"])
        flat = np.asarray(vectors, np.float64).reshape(-1, 3)
        chosen = np.square(flat[:, None] - codes).sum(-1).argmin(1)
        counts = 0.9 * counts + 0.1 * np.bincount(chosen, minlength=8)
        sums = 0.9 * sums + 0.1 * np.stack([flat[chosen == code].sum(0) for code in range(8)])
        codes = sums / counts[:, None]
    np.testing.assert_allclose(state["codebook"]["codes"], codes, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["codebook"]["counts"], counts, rtol=1e-4)


def test_dead_codes_start_again_and_all_come_to_use():
    """Vectors in eight tight clusters far from the first codes: after some batches every cluster has a code."""
    model, state = quantizer(codes=32, decay=0.8, dead_below=0.5)
    centres = 10.0 + 5.0 * np.random.default_rng(0).normal(size=(8, 3))
    untouched = state["codebook"]["codes"]
    for turn in range(40):
        generator = np.random.default_rng(turn)
        vectors = centres[generator.integers(0, 8, (16, 4, 4))] + 0.01 * generator.normal(size=(16, 4, 4, 3))
        key = jax.random.key(turn)
        found, state = model.apply(state, jnp.float32(vectors), key=key, train=True, mutable=["codebook"])
        if turn == 0:  # all counts are initially 0: the first batch replaces all codes
            codes = np.asarray(state["codebook"]["codes"])
            assert (codes >= vectors.min((0, 1, 2)) - 1e-4).all()
            assert (codes <= vectors.max((0, 1, 2)) + 1e-4).all()
    assert found.commitment < 0.01
    assert found.perplexity > 7.0
    assert 0.2 < found.usage <= 1.0
    assert not np.array_equal(untouched, state["codebook"]["codes"])


def test_codes_that_may_not_start_again_stay_where_they_are():
    model, state = quantizer(codes=32, dead_below=0.0)
    before = np.asarray(state["codebook"]["codes"])
    centres = 10.0 + 5.0 * np.random.default_rng(0).normal(size=(8, 3))
    used = np.zeros(32, bool)
    for turn in range(5):
        vectors = jnp.float32(centres[np.random.default_rng(turn).integers(0, 8, (16, 4, 4))])
        found, state = model.apply(state, vectors, key=KEY, train=True, mutable=["codebook"])
        used[np.unique(found.indices)] = True
    assert 0 < used.sum() < 8  # few win everything
    assert found.perplexity < 7.0
    np.testing.assert_allclose(state["codebook"]["codes"][~used], before[~used], rtol=1e-5)
    assert np.abs(state["codebook"]["codes"][used] - before[used]).max() > 0.1


def test_usage_is_of_the_codes_before_others_start_again():
    model, state = quantizer(codes=32, decay=0.9, dead_below=0.5)
    vectors = jnp.broadcast_to(jnp.float32([10.0, 10.0, 10.0]), (1, 4, 4, 3))  # all nearest to one code
    found, after = model.apply(state, vectors, key=KEY, train=True, mutable=["codebook"])
    assert found.usage == pytest.approx(1 / 32)
    np.testing.assert_allclose(np.sort(after["codebook"]["counts"]), [1.0] * 31 + [1.6], rtol=1e-6)


def test_without_training_nothing_changes():
    model, state = quantizer()
    found, after = model.apply(state, jnp.ones((1, 2, 2, 3)), train=False, mutable=["codebook"])
    jax.tree.map(np.testing.assert_array_equal, dict(after), dict(state))
    assert found.usage == 0.0
