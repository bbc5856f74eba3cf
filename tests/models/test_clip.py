"""CLIP's towers: published sizes, gradients, recomputation, what a text's embedding depends on, and the scale."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.errors import UserError
from vision.models.clip.clip import (
    CLIPS,
    Clip,
    ResNetClipConfig,
    TransformerClipConfig,
    limited_scale,
    normalised,
)
from vision.models.clip.resnet import ImageResNetConfig
from vision.models.clip.text import TextConfig
from vision.models.clip.vit import ImageTransformerConfig
from vision.parallel.sharding import path_name

PUBLISHED = {
    "vit_b32": 151_277_313,
    "vit_b16": 149_620_737,
    "vit_l14": 427_616_513,
    "rn50": 102_007_137,
    "rn101": 119_688_033,
    "rn50x4": 178_300_601,
}
TEXT = TextConfig(vocabulary=12, length=6, end=1, width=8, depth=2, heads=2)
SMALL = {
    "vit": TransformerClipConfig(
        image=ImageTransformerConfig(patch=8, width=8, depth=2, heads=2), text=TEXT, embedding=6, activation="gelu"
    ),
    "resnet": ResNetClipConfig(
        image=ImageResNetConfig(depths=(1, 2, 1, 1), width=4, heads=4), text=TEXT, embedding=6, logits="sigmoid"
    ),
}
IMAGE = jax.random.normal(jax.random.key(0), (3, 32, 32, 3))
TOKENS = jnp.array([[2, 5, 6, 1, 0, 0], [2, 7, 1, 0, 0, 0], [2, 1, 1, 1, 1, 1]])


def variables(config):
    """Parameters none of which is zero."""
    made = jax.jit(lambda: Clip(config).init(jax.random.key(0), IMAGE, TOKENS, train=False))()
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + generator.normal(size=leaf.shape, scale=0.3).astype(np.float32), made)


def apply(config, values, tokens=TOKENS, **of):
    return jax.jit(lambda values: Clip(config).apply(values, IMAGE, tokens, **{"train": False, **of}))(values)


@pytest.mark.parametrize("name", CLIPS)
def test_published_sizes(name):
    side = 288 if name == "rn50x4" else 224
    made = jax.eval_shape(
        lambda: Clip(CLIPS[name]).init(
            jax.random.key(0), jnp.zeros((1, side, side, 3)), jnp.zeros((1, 77), jnp.int32), train=False
        )
    )
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(made["params"])) == PUBLISHED[name]


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_has_a_gradient_and_remat_changes_nothing(name):
    def gradient(config, values):
        def value(params):
            pairs, _ = Clip(config).apply(
                {**values, "params": params}, IMAGE, TOKENS, train=True, mutable=["batch_stats"]
            )
            weights = jax.random.normal(jax.random.key(1), (3, 3))
            return jnp.sum(weights * jnp.sin(pairs.scale * pairs.image @ pairs.text.T + pairs.bias))

        return jax.jit(jax.grad(value))(values["params"])

    values = variables(SMALL[name])
    plain = gradient(SMALL[name], values)
    for path, leaf in jax.tree_util.tree_leaves_with_path(plain):
        assert np.abs(leaf).max() > 1e-9, path_name(path)
    again = gradient(dataclasses.replace(SMALL[name], remat=True), values)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(again), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(
            one, other, rtol=1e-3, atol=1e-5 * np.abs(other).max() + 1e-7, err_msg=path_name(path)
        )


def test_embeddings_have_length_one():
    pairs = apply(SMALL["vit"], variables(SMALL["vit"]))
    for vectors in (pairs.image, pairs.text):
        assert vectors.shape == (3, 6)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert pairs.bias == 0


def test_what_follows_the_first_end_token_has_no_effect():
    values = variables(SMALL["vit"])
    other = TOKENS.at[0, 4:].set(jnp.array([9, 1])).at[1, 3:].set(1)
    one, another = (apply(SMALL["vit"], values, tokens).text for tokens in (TOKENS, other))
    np.testing.assert_allclose(one, another, atol=1e-6)
    changed = apply(SMALL["vit"], values, TOKENS.at[0, 1].set(9)).text
    assert np.abs(changed[0] - one[0]).max() > 1e-4
    np.testing.assert_allclose(changed[1:], one[1:], atol=1e-6)


def test_a_token_sees_those_before_it():
    values = variables(SMALL["vit"])
    encode = jax.jit(
        lambda tokens: Clip(SMALL["vit"]).apply(values, tokens, train=False, method="encode_text")["tokens"]
    )
    before, after = encode(TOKENS), encode(TOKENS.at[0, 3].set(8))
    np.testing.assert_allclose(before[0, :3], after[0, :3], atol=1e-6)
    assert np.abs(before[0, 3:] - after[0, 3:]).max(-1).min() > 1e-4


def test_initial_scales():
    for logits, scale, bias in (("softmax", 1 / 0.07, 0.0), ("sigmoid", 10.0, -10.0)):
        config = dataclasses.replace(SMALL["vit"], logits=logits)
        pairs = Clip(config).apply(
            Clip(config).init(jax.random.key(0), IMAGE, TOKENS, train=False), IMAGE, TOKENS, train=False
        )
        np.testing.assert_allclose([pairs.scale, pairs.bias], [scale, bias], rtol=1e-5)


def test_the_scale_is_limited():
    params = {"logit_scale": jnp.array(5.0), "other": jnp.array(9.0)}
    limited = limited_scale(params)
    np.testing.assert_allclose(jnp.exp(limited["logit_scale"]), 100.0, rtol=1e-5)
    assert limited["other"] == 9.0
    assert limited_scale({"logit_scale": jnp.array(1.0)})["logit_scale"] == 1.0


def test_a_vector_of_zeros_stays_one():
    assert np.isfinite(jax.grad(lambda x: normalised(x).sum())(jnp.zeros(3))).all()
    np.testing.assert_array_equal(normalised(jnp.zeros((1, 3))), np.zeros((1, 3)))


def test_bfloat16_is_near():
    config = SMALL["vit"]
    values = jax.jit(lambda: Clip(config).init(jax.random.key(0), IMAGE, TOKENS, train=False))()
    wide, narrow = apply(config, values), apply(dataclasses.replace(config, dtype="bfloat16"), values)
    assert narrow.image.dtype == jnp.float32
    np.testing.assert_allclose(wide.image, narrow.image, atol=0.05)
    np.testing.assert_allclose(wide.text, narrow.text, atol=0.05)


@pytest.mark.parametrize(
    ("change", "image", "tokens", "words"),
    [
        ({"text": dataclasses.replace(TEXT, end=12)}, IMAGE, TOKENS, "end token 12 is none of a vocabulary of 12"),
        ({"text": dataclasses.replace(TEXT, heads=3)}, IMAGE, TOKENS, "width of 8 is no multiple of 3 heads"),
        ({}, IMAGE[:, :30], TOKENS, "30 x 32 pixels cannot be cut into patches of 8"),
        ({}, IMAGE, TOKENS[:, :4], "texts of 4 tokens are given to a text tower for 6"),
    ],
)
def test_what_contradicts_itself(change, image, tokens, words):
    config = dataclasses.replace(SMALL["vit"], **change)
    with pytest.raises(UserError, match=words):
        jax.eval_shape(lambda: Clip(config).init(jax.random.key(0), image, tokens, train=False))


@pytest.mark.parametrize(
    ("image", "side", "words"),
    [
        (ImageResNetConfig(width=4, heads=4), 40, "40 x 40 pixels cannot be reduced 32 times"),
        (ImageResNetConfig(width=5, heads=4), 32, "half its width, and 5 is odd"),
        (ImageResNetConfig(width=4, heads=3), 32, "3 heads of the attention pooling cannot share 128"),
    ],
)
def test_what_contradicts_itself_in_resnets(image, side, words):
    config = dataclasses.replace(SMALL["resnet"], image=image)
    with pytest.raises(UserError, match=words):
        jax.eval_shape(
            lambda: Clip(config).init(jax.random.key(0), jnp.zeros((1, side, side, 3)), TOKENS[:1], train=False)
        )
