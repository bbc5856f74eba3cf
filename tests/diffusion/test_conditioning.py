"""Conditioning: which fields of a batch, their nulls, and how often they are dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vision.diffusion.conditions import TEXT, Conditioning, label_conditioning
from vision.errors import UserError

STYLE = np.array([0.5, -0.5, 0.25])
CONDITIONING = Conditioning({"label": 7, "tokens": 0, "embedding": STYLE, "image": 0.0})


def batch(count):
    generator = np.random.default_rng(0)
    return {
        "label": jnp.asarray(generator.integers(0, 7, count), jnp.int32),
        "tokens": jnp.asarray(generator.integers(1, 9, (count, 5)), jnp.int32),
        "embedding": jnp.asarray(generator.normal(size=(count, 3)), jnp.float32),
        "image": jnp.asarray(generator.normal(size=(count, 2, 2, 3)), jnp.bfloat16),
    }


def test_the_conditions_of_a_batch():
    full = {**batch(2), "condition_image": jnp.ones((2, 4, 4, 1)), "condition_mask": jnp.zeros((2, 4, 4, 1))}
    found = CONDITIONING.of(full)
    assert set(found) == {"label", "tokens", "embedding", "image"}
    assert all(found[name] is full[name] for name in ("label", "tokens", "embedding"))
    # the batch's own image is what is generated
    assert found["image"] is full["condition_image"]
    assert Conditioning({"mask": 0.0}).of(full)["mask"] is full["condition_mask"]
    assert Conditioning({}).of(full) == {}
    del full["tokens"]
    with pytest.raises(
        UserError,
        match="conditioned on 'tokens', but the batch has no field 'tokens': its fields are condition_image, ",
    ):
        CONDITIONING.of(full)


def test_nulls_have_the_shapes_and_types_of_the_condition():
    condition = batch(2)
    null = CONDITIONING.null(condition)
    assert {name: (v.shape, v.dtype) for name, v in null.items()} == {
        name: (v.shape, v.dtype) for name, v in condition.items()
    }
    np.testing.assert_array_equal(null["label"], [7, 7])
    np.testing.assert_array_equal(null["tokens"], np.zeros((2, 5)))
    np.testing.assert_array_equal(null["embedding"], [STYLE, STYLE])
    np.testing.assert_array_equal(null["image"].astype(jnp.float32), np.zeros((2, 2, 2, 3)))
    with pytest.raises(ValueError, match="not label: embedding, image, tokens in only one of the two"):
        CONDITIONING.null({"label": condition["label"]})


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_a_sample_loses_all_its_conditions_or_none(probability):
    condition = batch(5000)
    null = CONDITIONING.null(condition)
    dropped = CONDITIONING.dropped(condition, probability=probability, key=jax.random.key(0))
    rows = lambda tree: np.concatenate([np.asarray(v, np.float32).reshape(5000, -1) for v in tree.values()], axis=1)
    without = (rows(dropped) == rows(null)).all(1)
    np.testing.assert_array_equal(rows(dropped), np.where(without[:, None], rows(null), rows(condition)))
    assert stats.binomtest(int(without.sum()), 5000, probability).pvalue > 1e-6
    again, other = (CONDITIONING.dropped(condition, probability=0.3, key=jax.random.key(seed)) for seed in (0, 1))
    assert (rows(again) != rows(other)).any()


def test_labels_and_nothing():
    assert label_conditioning(3).nulls == {"label": 3}
    assert label_conditioning(3)
    for nothing in (label_conditioning(0), Conditioning({})):
        assert not nothing
        assert nothing.null({}) == nothing.dropped({}, probability=0.5, key=jax.random.key(0)) == {}


def test_groups_are_dropped_with_their_own_probabilities():
    """Ramesh et al. 2022: 10 % of the embeddings and 50 % of the texts, each independently of the other."""
    count = 20_000
    conditioning = Conditioning(
        {"embedding": 0.0, "text": 0.0, "text_embedding": 0.0, "image": 0.0}, frozenset({"image"})
    )
    condition = {name: jnp.ones((count, 2)) for name in conditioning.nulls}
    probabilities = {("embedding",): 0.1, TEXT: 0.5}
    found = conditioning.dropped_apart(condition, probabilities=probabilities, key=jax.random.key(0))
    gone = {name: np.asarray(value[:, 0] == 0) for name, value in found.items()}
    assert gone["embedding"].mean() == pytest.approx(0.1, abs=0.01)
    assert gone["text"].mean() == pytest.approx(0.5, abs=0.015)
    np.testing.assert_array_equal(gone["text"], gone["text_embedding"])
    assert (gone["text"] & gone["embedding"]).mean() == pytest.approx(0.05, abs=0.01)
    assert not gone["image"].any()
    for value in found.values():
        assert set(np.unique(value)) <= {0.0, 1.0}


def test_what_every_sample_has_is_never_null():
    conditioning = Conditioning({"text": 0.0, "level": 0.0}, frozenset({"level"}))
    assert conditioning
    assert not Conditioning({"level": 0.0}, frozenset({"level"}))
    condition = {"text": jnp.ones((3, 2)), "level": jnp.full(3, 0.4)}
    null = conditioning.null(condition)
    np.testing.assert_array_equal(null["text"], 0.0)
    np.testing.assert_array_equal(null["level"], condition["level"])
    some = conditioning.replaced(condition, jnp.array([True, False, True]))
    np.testing.assert_array_equal(some["text"][:, 0], [0, 1, 0])
    np.testing.assert_array_equal(some["level"], condition["level"])
    only = Conditioning({"a": 0.0, "b": 0.0}).null({"a": jnp.ones(2), "b": jnp.ones(2)}, ["a"])
    np.testing.assert_array_equal(only["a"], 0.0)
    np.testing.assert_array_equal(only["b"], 1.0)
