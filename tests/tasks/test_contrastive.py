"""Losses of pairs against their formulas by loops, and what they log."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.models.clip.clip import Clip, ClipOutput, TransformerClipConfig
from vision.models.clip.text import TextConfig
from vision.models.clip.vit import ImageTransformerConfig
from vision.ops.spherical import normalised
from vision.tasks.contrastive import contrastive_loss, sigmoid_loss, similarities, softmax_loss

LOGITS = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32) * 3


def test_softmax_is_the_mean_of_two_cross_entropies():
    wide = LOGITS.astype(np.float64)
    found = 0.0
    for i in range(5):
        of_image = -np.log(np.exp(wide[i, i]) / np.exp(wide[i]).sum())
        of_text = -np.log(np.exp(wide[i, i]) / np.exp(wide[:, i]).sum())
        found += (of_image + of_text) / 2 / 5
    np.testing.assert_allclose(softmax_loss(jnp.asarray(LOGITS)), found, rtol=1e-6)


def test_sigmoid_is_a_sum_over_pairs():
    wide, found = LOGITS.astype(np.float64), 0.0
    for i in range(5):
        for j in range(5):
            found -= np.log(1 / (1 + np.exp(-(1 if i == j else -1) * wide[i, j]))) / 5
    np.testing.assert_allclose(sigmoid_loss(jnp.asarray(LOGITS)), found, rtol=1e-6)


def test_losses_of_all_alike_and_of_all_told_apart():
    alike, apart = jnp.zeros((8, 8)), 200 * jnp.eye(8) - 100
    np.testing.assert_allclose(softmax_loss(alike), np.log(8), rtol=1e-6)
    np.testing.assert_allclose(sigmoid_loss(alike), 8 * np.log(2), rtol=1e-6)
    for loss in (softmax_loss, sigmoid_loss):
        assert float(loss(apart)) < 1e-6
        assert np.isfinite(jax.grad(loss)(1e4 * jnp.asarray(LOGITS)[:4, :4])).all()


def test_similarities():
    image, text = (normalised(jax.random.normal(jax.random.key(k), (4, 3))) for k in (0, 1))
    found = similarities(ClipOutput(image, text, jnp.array(7.0), jnp.array(-2.0)))
    for i in range(4):
        for j in range(4):
            np.testing.assert_allclose(found[i, j], 7 * np.dot(image[i], text[j]) - 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("logits", ["softmax", "sigmoid"])
def test_the_loss_of_a_model(logits):
    config = TransformerClipConfig(
        image=ImageTransformerConfig(patch=8, width=8, depth=1, heads=2),
        text=TextConfig(vocabulary=12, length=6, end=1, width=8, depth=1, heads=2),
        embedding=6,
        logits=logits,
    )
    model = Clip(config)
    image = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    tokens = jnp.array([[2, k + 3, 1, 0, 0, 0] for k in range(3)] + [[2, 3, 1, 0, 0, 0]])  # the last is the first
    variables = model.init(jax.random.key(1), image, tokens, train=False)
    batch = {"image": image, "tokens": tokens}

    @jax.jit
    def value(params, batch):
        return contrastive_loss(model)(params, {}, batch, key=jax.random.key(0), step=jnp.zeros((), jnp.int32))

    found, (state, scalars) = value(variables["params"], batch)
    pairs = model.apply(variables, image, tokens, train=False)
    expected = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}[logits](similarities(pairs))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert state == {}
    np.testing.assert_allclose(scalars["scale"], pairs.scale)
    # of equal texts none is the most similar
    alike = {"image": image, "tokens": jnp.tile(tokens[:1], (4, 1))}
    assert float(value(variables["params"], alike)[1][1]["batch_recall"]) == 0.0
