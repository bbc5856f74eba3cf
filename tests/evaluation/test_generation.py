"""From a generator to numbers: real images as drawn ones are at the floor, noise is far, padding changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.data.pipeline import permutation
from vision.data.source import ArraySource
from vision.errors import UserError
from vision.evaluation.generation import GenerationConfig, RealFeatures, RealImages, evaluator
from vision.evaluation.generator import Generator
from vision.metrics.generation.frechet import frechet_distance
from vision.metrics.generation.kernel_distance import kernel_distance
from vision.metrics.generation.moments import moments
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.pretrained.feature_classifier import (
    FeatureClassifier,
    FeatureNetwork,
    FeatureNetworkConfig,
    load_feature_classifier,
)
from vision.train.compile import Compiler

NAMES = ("dark", "light", "slope")
CONFIG = GenerationConfig(
    samples=120, reference=150, batch=50, neighbours=3, subsets=5, subset_size=40, splits=4, seed=1
)
NUMBERS = ("frechet", "kernel", "kernel_deviation", "precision", "recall", "density", "coverage", "score")


def _pictures(labels, seed):
    """uint8 [n 8 8 1]: a dark grey, a light one, or a slope between the two, with noise."""
    slope = np.linspace(60, 190, 8)[:, None, None] * np.ones((8, 8, 1))
    kinds = np.stack([np.full((8, 8, 1), 60.0), np.full((8, 8, 1), 190.0), slope])
    noise = np.random.default_rng(seed).normal(scale=12, size=(len(labels), 8, 8, 1))
    return np.clip(kinds[labels] + noise, 0, 255).astype(np.uint8)


def _source(count, seed):
    """Sorted by class, as folders come, and one class twice as often."""
    labels = np.sort(np.random.default_rng(seed).choice(3, size=count, p=(0.25, 0.25, 0.5))).astype(np.int32)
    return ArraySource({"image": _pictures(labels, seed), "label": labels}, NAMES)


REAL = RealImages(_source(300, 1), _source(130, 2), "greys (train)", "greys (test)")


@pytest.fixture(scope="module")
def judge():
    """A tiny classifier with random convolutions, whose head finds the nearest of the three mean images."""
    network = FeatureNetworkConfig(widths=(6, 5), strides=(2, 2), classes=3, channels=1)
    order = [2, 0, 1]  # named in another order than the data's
    pictures = jnp.asarray(_pictures(np.repeat(order, 50), 0) / 127.5 - 1, jnp.float32)

    @jax.jit
    def made():
        variables = FeatureNetwork(network).init(jax.random.key(3), pictures, train=False)
        features = FeatureNetwork(network).apply(variables, pictures, train=False, method="features")
        centres = features.reshape(3, 50, 5).mean(1)
        head = {"kernel": 4e4 * centres.T, "bias": -2e4 * jnp.square(centres).sum(1)}
        return {**variables, "params": {**variables["params"], "head": head}}

    words = {"data": "greys", "version": "0", "side": 8, "training": "by hand"}
    names = tuple(NAMES[i] for i in order)
    return FeatureClassifier(made(), config=network, class_names=names, **words)


def sample(variables, condition, index, key):
    """A generator that looks real images up, those of each class, and adds noise."""
    labels = condition.get("label", jnp.zeros_like(index))
    look_key, noise_key = jax.random.split(key)
    place = jax.random.randint(look_key, labels.shape, 0, variables["images"].shape[1])
    images = variables["images"][labels, place].astype(jnp.float32)
    images = images + variables["noise"] * jax.random.normal(noise_key, images.shape)
    return jnp.clip(images, 0, 255).astype(jnp.uint8)


GENERATOR = Generator(sample=sample, variables=lambda state: state, description="", classes=3)


def _variables(noise=0.0, order=(0, 1, 2)):
    """Pictures that are neither of the training set nor of the test set."""
    images = np.stack([_pictures(np.full(200, kind), 30 + kind) for kind in order])
    return {"images": images, "noise": np.float32(noise)}


@pytest.fixture(scope="module")
def evaluate(judge, one_device):
    compiler = Compiler(one_device)
    run = evaluator(GENERATOR, RealFeatures(compiler, judge, CONFIG, REAL))
    return lambda **variables: run(compiler.replicate(_variables(**variables)))


@pytest.fixture(scope="module")
def good(evaluate):
    return evaluate()


def test_real_images_are_near_the_floor_and_noise_is_not(good, evaluate):
    noise = evaluate(noise=80.0).scalars
    of = lambda scalars, name, end="": scalars[f"greys_v0_{name}{end}"]
    floor = of(good.scalars, "frechet", "_floor")
    assert 0 < floor < of(noise, "frechet") / 20
    assert of(good.scalars, "frechet") < 3 * floor
    assert abs(of(good.scalars, "kernel")) < 3 * of(good.scalars, "kernel_deviation", "_floor") + 1e-9
    assert of(noise, "kernel") > 10 * abs(of(good.scalars, "kernel"))
    for name in ("precision", "recall", "density", "coverage"):
        assert of(good.scalars, name, "_floor") > 0.75
        assert of(good.scalars, name) > 0.75
    for name in ("precision", "density", "coverage"):
        assert of(noise, name) < 0.5
    assert 2.5 < of(good.scalars, "score") <= 3.0
    # what does not depend on the state is the same
    floors = [{name: value for name, value in each.items() if "_floor" in name} for each in (good.scalars, noise)]
    assert floors[0] == floors[1]


def test_numbers_are_those_of_the_metrics(good, judge):
    """Computed again, all images at once, without the evaluation's batches."""
    rows, others = permutation(300, seed=1, epoch=0)[:150], permutation(130, seed=1, epoch=0)[:120]
    images = np.concatenate([REAL.train.arrays["image"][rows], REAL.test.arrays["image"][others]])
    said = jax.jit(judge.features_and_probabilities)(jnp.asarray(images / 127.5 - 1, jnp.float32))
    (reference, features), (_, probabilities) = (np.split(np.asarray(each), [150]) for each in said)
    found = good.scalars
    distance = frechet_distance(moments(reference), moments(features))
    np.testing.assert_allclose(found["greys_v0_frechet_floor"], distance, rtol=1e-3)
    kernel = kernel_distance(reference, features, subsets=5, subset_size=40, seed=1)
    np.testing.assert_allclose(found["greys_v0_kernel_deviation_floor"], kernel.deviation, rtol=1e-3)
    names = np.array(judge.class_names)[np.asarray(probabilities).argmax(1)]
    right = np.mean(names == np.array(NAMES)[REAL.test.arrays["label"][others]])
    assert found["greys_v0_generated_class_accuracy_floor"] == pytest.approx(right)


def test_generated_class_accuracy_is_of_the_class_asked_for(good, evaluate):
    """Classes are matched by name, and a generator that mixes two of them up is right of the third alone."""
    assert good.scalars["greys_v0_generated_class_accuracy"] > 0.95
    assert good.scalars["greys_v0_generated_class_accuracy_floor"] > 0.95
    mixed = evaluate(order=(1, 0, 2)).scalars["greys_v0_generated_class_accuracy"]
    assert 0.35 < mixed < 0.65  # as often as the third, half of the images, is asked for


def test_every_number_has_its_protocol(good):
    names = [*NUMBERS, "generated_class_accuracy"]
    assert set(good.scalars) == {f"greys_v0_{name}{end}" for name in names for end in ("", "_floor")}
    assert set(good.protocol) == set(good.scalars)
    for name, text in good.protocol.items():
        assert "the classifier greys_v0 at 8x8 (by hand); not Inception's" in text
        assert "120 generated images" in text
        assert ("120 images of greys (test) in place of those generated" in text) == name.endswith("_floor")
    assert "against 150 images of greys (train)" in good.protocol["greys_v0_frechet"]
    assert "5 subsets of 40 of" in good.protocol["greys_v0_kernel"]
    assert "neighbour 3" in good.protocol["greys_v0_coverage"]


@pytest.mark.parametrize(("devices", "batch"), [(1, 37), (8, 50)])
def test_batches_and_devices_change_nothing(judge, good, devices, batch):
    """Real images are judged the same in parts that do not divide; eight devices draw the same images as one."""
    compiler = Compiler(make_mesh(MeshConfig(), jax.devices()[:devices]))
    config = dataclasses.replace(CONFIG, batch=batch)
    found = evaluator(GENERATOR, RealFeatures(compiler, judge, config, REAL))(compiler.replicate(_variables()))
    for name, value in good.scalars.items():
        if name.endswith("_floor") or batch == CONFIG.batch:
            np.testing.assert_allclose(found.scalars[name], value, rtol=1e-3, atol=1e-6, err_msg=name)
    assert found.scalars["greys_v0_frechet"] < 3 * found.scalars["greys_v0_frechet_floor"]


def test_without_classes_and_with_few_test_images(judge, one_device):
    """No accuracy of a generator that is not asked for classes; a smaller test set is said."""
    compiler = Compiler(one_device)
    plain = lambda source: ArraySource({"image": source.arrays["image"]})
    few = dataclasses.replace(REAL, train=plain(REAL.train), test=plain(_source(60, 3)))
    found = evaluator(dataclasses.replace(GENERATOR, classes=0), RealFeatures(compiler, judge, CONFIG, few))(
        compiler.replicate(_variables())
    )
    assert set(found.scalars) == {f"greys_v0_{name}{end}" for name in NUMBERS for end in ("", "_floor")}
    assert (
        "60 images of greys (test) in place of those generated, fewer than the 120"
        in (found.protocol["greys_v0_frechet_floor"])
    )
    assert found.scalars["greys_v0_score"] < 1.5  # class 0 alone was asked for


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"samples": 5, "subset_size": 4},
            "by greys_v0, a covariance of 5 features needs 6 images at least, and there are 5 generated",
        ),
        (
            {"subset_size": 121},
            r"kernel distances on subsets of 121 \(subset_size\) need 121 images at least, and there are 120 generated "
            r"images \(samples\)$",
        ),
        (
            {"reference": 140, "samples": 140, "subset_size": 131},
            r"131 images at least, and there are 130 images of greys \(test\)",
        ),
        (
            {"samples": 3, "subset_size": 4, "neighbours": 7, "splits": 9, "reference": 301},
            "covariance .* subsets of 4 .* neighbour 7 .* 9 parts .*; 301 training images are the reference",
        ),
        ({"reference": 301}, "301 training images are the reference, and greys .train. has only 300"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
    ],
)
def test_refuses_too_few_images(judge, one_device, changed, message):
    with pytest.raises(UserError, match=message):
        evaluator(GENERATOR, RealFeatures(Compiler(one_device), judge, dataclasses.replace(CONFIG, **changed), REAL))


def test_refuses_images_that_the_extractor_does_not_take(one_device):
    grey = dataclasses.replace(REAL, train=ArraySource({"image": np.zeros((300, 8, 8, 1), np.uint8)}))
    with pytest.raises(UserError, match=r"cifar10.* does not take images of 8x8x1: choose another feature extractor"):
        evaluator(GENERATOR, RealFeatures(Compiler(one_device), load_feature_classifier("cifar10"), CONFIG, grey))


def test_refuses_classes_that_the_judge_does_not_know(judge, one_device):
    other = dataclasses.replace(REAL, train=ArraySource(REAL.train.arrays, ("dark", "light", "spiral")))
    with pytest.raises(UserError, match="greys_v0 knows no class 'spiral', only slope, dark, light"):
        evaluator(GENERATOR, RealFeatures(Compiler(one_device), judge, CONFIG, other))
