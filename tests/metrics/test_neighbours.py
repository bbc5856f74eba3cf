"""k nearest neighbours against scipy's distances and a sort, over blocks, padding and ties."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from vision.errors import UserError
from vision.metrics.recognition.neighbours import NeighboursConfig, accuracy, normalised, predictions, protocol, vote

CLASSES, N, QUERIES, WIDTH = 5, 37, 11, 6


def _draw(seed):
    """Features that form classes, and their labels."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(CLASSES, WIDTH))
    draw = lambda labels: (centres[labels] + generator.normal(size=(len(labels), WIDTH))).astype(np.float32)
    labels, query_labels = generator.integers(0, CLASSES, N), generator.integers(0, CLASSES, QUERIES)
    return draw(labels), labels, draw(query_labels), query_labels


def _brute(features, labels, queries, k, temperature):
    """Shares of the vote by distances in float64, a sort and loops."""
    similarity = 1 - cdist(queries, features, "cosine")
    votes = np.zeros((len(queries), CLASSES))
    for row, near in enumerate(similarity):
        for i in np.argsort(-near, kind="stable")[:k]:
            votes[row, labels[i]] += 1 if temperature is None else np.exp(near[i] / temperature)
    return votes / votes.sum(1, keepdims=True)


_CONFIGS = {
    "one block": NeighboursConfig(neighbours=7),
    "blocks": NeighboursConfig(neighbours=7, block=10),
    "blocks smaller than k": NeighboursConfig(neighbours=20, block=8),
    "majority": NeighboursConfig(neighbours=7, temperature=None, block=10),
    "all vote": NeighboursConfig(neighbours=N, temperature=0.5, block=19),
}
_votes = {name: jax.jit(partial(vote, classes=CLASSES, config=config)) for name, config in _CONFIGS.items()}


@pytest.mark.parametrize("name", _CONFIGS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_votes_are_those_of_a_sort(name, seed):
    features, labels, queries, _ = _draw(seed)
    config = _CONFIGS[name]
    found = _votes[name](features, labels, queries)
    expected = _brute(features, labels, queries, config.neighbours, config.temperature)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_padding_of_the_training_images_changes_nothing():
    features, labels, queries, _ = _draw(0)
    mask = np.random.default_rng(1).random(N) < 0.5
    spoilt = np.where(mask[:, None], features, np.repeat(queries, 4, axis=0)[:N])
    config = NeighboursConfig(neighbours=7, block=10)
    padded = jax.jit(lambda *of: vote(*of[:3], classes=CLASSES, config=config, mask=of[3]))
    expected = _brute(features[mask], labels[mask], queries, 7, config.temperature)
    np.testing.assert_allclose(padded(spoilt, labels, queries, mask), expected, atol=2e-5)
    # Fewer than k are left: only they vote
    few = np.zeros(N, bool)
    few[np.flatnonzero(mask)[[0, 5, -1]]] = True
    expected = _brute(features[few], labels[few], queries, 3, config.temperature)
    np.testing.assert_allclose(padded(spoilt, labels, queries, few), expected, atol=2e-5)


def test_of_equals_the_first_are_nearer_also_across_blocks():
    features = jnp.ones((6, 2))
    labels = jnp.array([3, 1, 1, 0, 0, 0])
    for block in (6, 2, 1):
        config = NeighboursConfig(neighbours=3, block=block)
        np.testing.assert_allclose(
            vote(features, labels, features[:1], classes=4, config=config), [[0, 2 / 3, 0, 1 / 3]], rtol=1e-6
        )


def test_by_hand():
    """Cosines 1, 0 and -1 at T = 1/2: weights 1, exp(-2), exp(-4) of the sum."""
    features, labels = jnp.array([[2.0, 0], [0, 5], [-0.1, 0]]), jnp.array([0, 1, 1])
    config = NeighboursConfig(neighbours=3, temperature=0.5)
    found = vote(features, labels, jnp.array([[7.0, 0]]), classes=2, config=config)
    rest = np.exp(-2) + np.exp(-4)
    np.testing.assert_allclose(found, [[1 / (1 + rest), rest / (1 + rest)]], rtol=1e-5)
    equal = NeighboursConfig(neighbours=3, temperature=None)
    np.testing.assert_allclose(
        vote(features, labels, jnp.array([[7.0, 0]]), classes=2, config=equal), [[1 / 3, 2 / 3]], rtol=1e-6
    )
    # A temperature at which exp(s / T) itself is beyond float32
    cold = NeighboursConfig(neighbours=3, temperature=1e-3)
    np.testing.assert_array_equal(vote(features, labels, features[:1], classes=2, config=cold), [[1, 0]])


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_lengths_do_not_matter(size):
    features, labels, queries, _ = _draw(3)
    np.testing.assert_allclose(
        _votes["blocks"](features * np.float32(size), labels, queries),
        _votes["blocks"](features, labels, queries),
        atol=1e-5,
    )
    np.testing.assert_array_equal(normalised(jnp.zeros((1, 3))), np.zeros((1, 3)))


@pytest.mark.parametrize("batch_size", [3, QUERIES, 256])
def test_predictions_in_batches(batch_size):
    features, labels, queries, query_labels = _draw(5)
    config = NeighboursConfig(neighbours=7, batch_size=batch_size, block=16)
    expected = _brute(features, labels, queries, 7, config.temperature).argmax(1)
    found = predictions(features, labels, queries, classes=CLASSES, config=config)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
    marks = accuracy(features, labels, queries, query_labels, classes=CLASSES, config=config)
    assert marks == np.mean(expected == query_labels)
    assert 0 < marks < 1
    assert len(predictions(features, labels, queries[:0], classes=CLASSES, config=config)) == 0


def test_what_cannot_hold_is_refused():
    features, labels, queries, _ = _draw(0)
    with pytest.raises(UserError, match="200 neighbours were requested, but there are only 37 training images"):
        predictions(features, labels, queries, classes=CLASSES)
    few = NeighboursConfig(neighbours=2)
    with pytest.raises(UserError, match=r"outside \[0, 3\)"):
        predictions(features, labels, queries, classes=3, config=few)
    queries[[2, 5], 1] = np.nan
    with pytest.raises(UserError, match="2 query images have features that are not finite"):
        predictions(features, labels, queries, classes=CLASSES, config=few)
    with pytest.raises(UserError, match="no images to classify"):
        accuracy(features, labels, queries[:0], labels[:0], classes=CLASSES, config=few)
    with pytest.raises(UserError, match="temperature must be more than 0"):
        NeighboursConfig(temperature=0.0)
    with pytest.raises(UserError, match="at least 1"):
        NeighboursConfig(neighbours=0)
    assert protocol(NeighboursConfig(), 50_000).startswith("200 nearest of 50,000 training images by cosine, weights")
    assert "equal votes" in protocol(NeighboursConfig(temperature=None), 9)
