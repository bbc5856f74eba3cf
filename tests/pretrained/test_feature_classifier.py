"""Classifiers of this project for evaluating generated images: their files, outputs and accuracy."""

from functools import partial
from hashlib import sha256

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.data.dataset import DataConfig, load_dataset
from vision.errors import UserError
from vision.metrics.generation.feature_extractor import ClassNamingExtractor, FeatureExtractor
from vision.pretrained.feature_classifier import (
    KNOWN,
    FeatureClassifier,
    FeatureNetwork,
    FeatureNetworkConfig,
    load_feature_classifier,
    save_feature_classifier,
    weights_file,
)
from vision.pretrained.shape_classifier import load_shape_classifier

IMAGE = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
# Whoever writes other weights gives them another version, and both here.
WEIGHTS = {"mnist": ("1", "a05a81c47ec5ae88"), "cifar10": ("1", "f48f56328c19b974")}
TINY = FeatureNetworkConfig(widths=(5, 6, 6), strides=(2, 1, 1), classes=3, channels=2)


@pytest.fixture(scope="module")
def tiny():
    """A classifier with random weights and statistics."""
    shapes = jax.eval_shape(lambda: FeatureNetwork(TINY).init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)), train=False))
    generator = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(generator.uniform(0.1, 1, leaf.shape) - 0.3 * (leaf.ndim > 1), jnp.float32)
    variables = jax.tree.map(draw, shapes)
    words = {"data": "dots", "version": "7", "side": 8, "class_names": ("a", "b", "c"), "training": "by chance"}
    return FeatureClassifier(variables, config=TINY, **words)


@pytest.fixture(scope="module")
def say():
    """The classifier is an argument, so that its weights are not compiled in."""
    return jax.jit(lambda extractor, images: extractor.features_and_probabilities(images))


def _images(shape, count=4):
    return np.random.default_rng(1).uniform(-1, 1, (count, *shape)).astype(np.float32)


def test_by_definition(tiny, say):
    """Convolution, running statistics, ReLU, what went in; the mean; the head: in float64 by loops."""
    images = _images((8, 8, 2), 2)
    features, probabilities = say(tiny, images)
    exact = jax.tree.map(partial(np.asarray, dtype=np.float64), tiny.variables)
    params, statistics = exact["params"], exact["batch_stats"]
    hidden = images.astype(np.float64)
    for index, stride in enumerate(TINY.strides):
        kernel = params[f"conv_{index}"]["kernel"]
        out_side, side = hidden.shape[1] // stride, kernel.shape[0]
        # "SAME": as much as is missing, the odd pixel behind
        missing = (out_side - 1) * stride + side - hidden.shape[1]
        before = missing // 2
        padded = np.pad(hidden, ((0, 0), (before, missing - before), (before, missing - before), (0, 0)))
        out = np.zeros((2, out_side, out_side, kernel.shape[-1]))
        for i, j in np.ndindex(out_side, out_side):
            window = padded[:, i * stride : i * stride + side, j * stride : j * stride + side]
            out[:, i, j] = np.einsum("bhwc,hwcd->bd", window, kernel)
        norm, seen = params[f"norm_{index}"], statistics[f"norm_{index}"]
        out = (out - seen["mean"]) / np.sqrt(seen["var"] + 1e-5) * norm["scale"] + norm["bias"]
        out = np.maximum(out, 0)
        hidden = out + hidden if out.shape == hidden.shape else out
    expected = hidden.mean((1, 2))
    np.testing.assert_allclose(features, expected, rtol=1e-5)
    logits = expected @ params["head"]["kernel"] + params["head"]["bias"]
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(1, keepdims=True), rtol=1e-4)


def test_file_keeps_everything(tiny, tmp_path):
    save_feature_classifier(tmp_path / "tiny.npz", tiny)
    again = load_feature_classifier(tmp_path / "tiny.npz")
    assert again.name == tiny.name == "dots_v7"
    assert jax.tree.structure(again) == jax.tree.structure(tiny)  # all that is not an array
    rounded = lambda leaf: np.asarray(leaf, np.float16).astype(np.float32)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, rounded(b)), again.variables, tiny.variables)
    assert "6 mean-pooled features and 3 class probabilities of the classifier dots_v7 at 8x8 (by chance)" in (
        again.protocol()
    )


def test_other_sizes_and_channels(tiny, say):
    """A flat image of any size is the same image."""
    here, there = (say(tiny, np.full((2, side, side, 2), 0.25, np.float32))[0] for side in (8, 12))
    np.testing.assert_allclose(here, there, rtol=1e-5)
    with pytest.raises(UserError, match="dots_v7 takes images of 2 channels, but these have 3"):
        tiny.features_and_probabilities(jnp.zeros((1, 8, 8, 3)))


def test_refuses(tiny, tmp_path):
    with pytest.raises(UserError, match="no classifier of svhn in this package, only of mnist and cifar10"):
        load_feature_classifier("svhn")
    with pytest.raises(UserError, match="no weights at"):
        load_feature_classifier(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(UserError, match="not a feature classifier"):
        load_feature_classifier(tmp_path / "other.npz")
    huge = tiny.replace(variables=jax.tree.map(lambda leaf: leaf * 1e6, tiny.variables))
    with np.errstate(over="ignore"), pytest.raises(UserError, match="beyond the range of float16"):
        save_feature_classifier(tmp_path / "huge.npz", huge)


def test_every_extractor_satisfies_the_protocol():
    """The shape classifier too: a tree of arrays with a name, whose classes are those of the shapes world."""
    extractor = load_shape_classifier()
    assert isinstance(extractor, FeatureExtractor)
    assert isinstance(extractor, ClassNamingExtractor)
    assert len(jax.tree.leaves(extractor)) == 12
    assert extractor.name == "shapes_v1"
    assert "128 pooled features / 16 and 64 class probabilities of shape classifier 1" in extractor.protocol()
    images = _images((32, 32, 3))
    said = jax.jit(lambda extractor, images: (extractor(images), extractor.features_and_probabilities(images)))(
        extractor, images
    )
    (shape, colour), (features, probabilities) = jax.tree.map(np.asarray, said)
    assert features.shape == (4, 128)
    np.testing.assert_allclose(probabilities.sum(1), np.ones(4), rtol=1e-5)
    best = probabilities.argmax(1)
    np.testing.assert_array_equal(best, shape.argmax(1) * 8 + colour.argmax(1))
    names = [
        f"{extractor.colours[c]} {extractor.shapes[s]}" for s, c in zip(shape.argmax(1), colour.argmax(1), strict=True)
    ]
    assert [extractor.class_names[i] for i in best] == names


@pytest.mark.parametrize("data", KNOWN)
def test_weights_of_this_package(data, say):
    """Size, version, shapes, and that the same images give the same numbers, alone or among others."""
    path = weights_file(data)
    assert path.stat().st_size <= 250_000
    extractor = load_feature_classifier(data)
    assert isinstance(extractor, ClassNamingExtractor)
    leaves = b"".join(np.asarray(leaf, np.float16).tobytes() for leaf in jax.tree.leaves(extractor.variables))
    assert (extractor.version, sha256(leaves).hexdigest()[:16]) == WEIGHTS[data]
    assert extractor.name == f"{data}_v1"
    assert len(extractor.class_names) == 10
    images = _images(IMAGE[data])
    features, probabilities = say(extractor, images)
    assert features.shape == (4, 64)
    assert features.dtype == probabilities.dtype == jnp.float32
    np.testing.assert_allclose(probabilities.sum(1), np.ones(4), rtol=1e-5)
    assert float(features.std(0).max()) > 0
    jax.tree.map(np.testing.assert_array_equal, say(extractor, images), (features, probabilities))
    backwards = say(extractor, images[::-1])[0][::-1]
    np.testing.assert_allclose(backwards, features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("data", "least"), [("mnist", 0.985), ("cifar10", 0.74)])
def test_recognises_held_out_images(data, least, say, real_data):
    """On 1,000 of them; each classifier's protocol has the figure of all."""
    config = DataConfig(name=data, dir=real_data / "tfds", resolution=IMAGE[data][0], test_split="test[:1000]")
    test = load_dataset(config, "test", fields=("image", "label"))
    extractor = load_feature_classifier(data)
    assert extractor.class_names == test.class_names
    images = test.arrays["image"].astype(np.float32) / 127.5 - 1
    probabilities = np.concatenate([say(extractor, part)[1] for part in np.split(images, 4)])
    assert np.mean(probabilities.argmax(1) == test.arrays["label"]) >= least
