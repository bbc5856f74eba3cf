"""Evaluation of image-text embeddings with encoders that are known: what is compared, numbers, protocols, mistakes."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.data.captions.data import CaptionedConfig, captioned_data, open_captioned, training_texts
from vision.data.shapes.world import ShapesConfig
from vision.data.text.training import trained_tokenizer
from vision.errors import UserError
from vision.evaluation import image_text as module
from vision.evaluation.image_text import (
    ImageTextEncoder,
    RetrievalConfig,
    ZeroShotConfig,
    classifier_of_texts,
    comparison,
    image_text_metrics,
    zero_shot_metrics,
)
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.train.compile import Compiler
from vision.types import TrainState

CONFIG = CaptionedConfig(
    resolution=16,
    shapes_count=64,
    shapes=ShapesConfig(
        shapes=("circle",), colours=("red", "green", "blue"), min_size=0.8, max_size=0.8, backgrounds=("solid",)
    ),
    held_out=("blue circle",),
)
LENGTH = 24


@functools.cache
def tokenizer():
    texts = training_texts(open_captioned(replace(CONFIG, held_out=()), "train"))
    return trained_tokenizer([*texts, "a photo of"], kind="words", vocabulary=64, length=LENGTH)


def colours_of_texts(tokens):
    """Red, green and blue in a text, by the numbers of these words."""
    numbers = tokenizer().encode(["red", "green", "blue"])[:, 1]
    return jnp.stack([(tokens == number).any(1) for number in numbers.tolist()], axis=1).astype(jnp.float32)


def unit(vectors):
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def colours_of_images(values, image):
    """Red, green and blue in the middle of an image."""
    middle = image[:, 6:10, 6:10].astype(jnp.float32).mean((1, 2))
    return unit(values["weight"] * (middle - middle.mean(1, keepdims=True)))


ENCODER = ImageTextEncoder(
    image=colours_of_images,
    text=lambda values, tokens: unit(colours_of_texts(tokens) - colours_of_texts(tokens).mean(1, keepdims=True)),
    tokenizer=tokenizer,
    name="the colour",
)
BLIND = replace(ENCODER, image=lambda values, image: jnp.tile(jnp.array([[1.0, 0.0, 0.0]]), (len(image), 1)))


def state_on(compiler):
    """A state whose only parameter is a weight of one."""
    params = compiler.replicate({"weight": np.float32(1)})
    return TrainState(step=0, params=params, model_state={}, opt_state=(), ema={}, key=None)


def evaluated(encoder, config, data_config=CONFIG, devices=8):
    data = captioned_data(data_config, tokenizer=tokenizer, length=LENGTH)
    compiler = Compiler(make_mesh(MeshConfig(), jax.devices()[:devices]))
    made = image_text_metrics(encoder, data, lambda state: state.params, config, batch_size=24, description="")(
        compiler
    )
    return made(state_on(compiler))


@pytest.fixture(scope="module")
def found():
    return evaluated(ENCODER, RetrievalConfig(images=50, compared=3, captions="first"))


def test_colours_are_told_apart(found):
    assert found.scalars["zero_shot/colour"] == 1.0
    assert found.scalars["zero_shot/colour_unseen"] == 1.0
    assert "zero_shot/shape" not in found.scalars  # of which there is one
    assert "50 images where the colour of which 4 sentences" in found.protocol["zero_shot/colour"]
    assert "with a combination that was held out" in found.protocol["zero_shot/colour_unseen"]
    assert found.scalars["clip_score/the colour"] > 90
    assert "by the colour" in found.protocol["clip_score/the colour"]
    assert found.scalars.keys() == found.protocol.keys()
    assert found.images["captions"].dtype == np.uint8


def test_blind_encoders_find_nothing():
    blind = evaluated(BLIND, RetrievalConfig(images=50, compared=3, captions="first"), devices=1)
    share = blind.scalars["zero_shot/colour"]
    assert 0.1 < share < 0.6
    assert blind.scalars["text_to_image_r1"] == 0.0  # all images are alike
    assert blind.scalars["text_to_image_r5"] == 1.0  # of three


def test_one_device_is_eight(found):
    one = evaluated(ENCODER, RetrievalConfig(images=50, compared=3, captions="first"), devices=1)
    assert one.scalars == pytest.approx(found.scalars, abs=1e-5)


def test_what_is_compared():
    captions = [("a", "b"), ("a", "c"), ("d", "b"), ("e",)]
    first = comparison(captions, RetrievalConfig(captions="first"))
    assert first.images.tolist() == [0, 2, 3]
    assert (first.texts, [own.tolist() for own in first.own]) == (("a", "d", "e"), [[0], [1], [2]])
    every = comparison(captions, RetrievalConfig(captions="all", compared=3))
    assert every.images.tolist() == [0, 1, 2]
    assert every.texts == ("a", "b", "c", "d")
    assert [own.tolist() for own in every.own] == [[0, 1], [0, 2], [1, 3]]
    assert [each.tolist() for each in every.shown] == [[0, 1], [0, 2], [1], [2]]


def test_retrieval_against_brute_force():
    """With all captions, several an image and some of several images."""
    config = RetrievalConfig(images=20, compared=20, captions="all")
    scalars = evaluated(ENCODER, config).scalars
    data = captioned_data(CONFIG, tokenizer=tokenizer, length=LENGTH)
    captions = data.captioned("test").first(20)
    images = np.asarray(ENCODER.image({"weight": jnp.float32(1)}, jnp.asarray(data.source("test").first(20)["image"])))
    texts = sorted({text for of in captions for text in of})
    vectors = np.asarray(ENCODER.text({}, jnp.asarray(tokenizer().encode(texts))))
    for depth in (1, 5, 10):
        hits = {"image_to_text": [], "text_to_image": []}
        for index, of in enumerate(captions):
            similar = np.round(vectors @ images[index], 5)
            own = [texts.index(text) for text in of]
            best = similar[own].max()
            hits["image_to_text"].append(sum(similar[k] >= best for k in range(len(texts)) if k not in own) < depth)
        for number, text in enumerate(texts):
            similar = np.round(images @ vectors[number], 5)
            own = [index for index, of in enumerate(captions) if text in of]
            best = similar[own].max()
            hits["text_to_image"].append(sum(similar[k] >= best for k in range(20) if k not in own) < depth)
        for way, of in hits.items():
            assert scalars[f"{way}_r{depth}"] == pytest.approx(np.mean(of), abs=0.06), (way, depth)


def test_a_labelled_data_set(monkeypatch):
    """The classes of another data set by their names, in templates."""
    compiler = Compiler(make_mesh(MeshConfig()))
    of = {"resolution": 16, "batch_size": 24, "description": "EMA 0"}
    world = open_captioned(replace(CONFIG, held_out=()), "test")

    class Labelled:
        class_names = ("red", "green", "blue")

        def __len__(self):
            return 50

        def __getitem__(self, index):
            return {**world.images[index], "label": np.int32(world.facts()["colour"].values[index])}

    monkeypatch.setattr(module, "open_dataset", lambda config, split: Labelled())
    config = ZeroShotConfig(name="toys", templates=("a photo of {}", "a {}"))
    made = zero_shot_metrics(ENCODER, lambda state: state.params, config, **of)(compiler)
    found = made(state_on(compiler))
    assert found.scalars == {"zero_shot/toys": 1.0}
    assert "50 images of toys (test), 16x16, whose class is the most similar of 3" in found.protocol["zero_shot/toys"]
    nothing = zero_shot_metrics(ENCODER, lambda state: state.params, ZeroShotConfig(), **of)(compiler)
    assert nothing(state_on(compiler)).scalars == {}
    monkeypatch.setattr(Labelled, "class_names", ())
    with pytest.raises(UserError, match="has no classes to tell apart"):
        zero_shot_metrics(ENCODER, lambda state: state.params, config, **of)(compiler)


def test_logits_of_classes_by_texts():
    values = {"model": {"weight": jnp.float32(1), "scale": jnp.float32(7)}, "classes": jnp.eye(3)}
    images = jnp.asarray(open_captioned(CONFIG, "test").images.first(4)["image"])
    logits = classifier_of_texts(ENCODER, lambda model: model["scale"])(values, images)
    np.testing.assert_allclose(logits, 7 * ENCODER.image(values["model"], images), rtol=1e-5)
