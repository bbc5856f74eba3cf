"""Conditioning: which fields of a batch, their nulls, and how often they are dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vision.diffusion.conditions import Conditioning, label_conditioning
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
