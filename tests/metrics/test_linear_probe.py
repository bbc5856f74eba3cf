"""Logistic regression: its optimality, cases with a solution by hand, and the choice of the penalty."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from vision.errors import UserError
from vision.metrics.recognition.linear_probe import LinearProbeConfig, fit, held_out_part, linear_probe

CLASSES = 3


@pytest.fixture(scope="module")
def clouds():
    """Three overlapping clouds in four dimensions of very different size: features and labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, 300)
    centres = 1.5 * generator.normal(size=(CLASSES, 4))
    features = (centres[labels] + generator.normal(size=(300, 4))) * [1e-3, 1, 1e3, 1] + [0, 5, 1e4, -7]
    return features.astype(np.float32), labels


def _gradient(classifier, features, labels):
    """The gradient of the objective by weights and bias, in float64 and written out."""
    x = (features.astype(np.float64) - classifier.mean) / classifier.scale
    errors = scipy.special.softmax(classifier.logits(features), axis=1) - np.eye(CLASSES)[labels]
    return x.T @ errors / len(x) + classifier.penalty * classifier.weights, errors.mean(0)


def test_the_gradient_at_the_solution_is_zero(clouds):
    for penalty, classifier in fit(*clouds, classes=CLASSES, penalties=(1e-4, 1e-2, 1.0)).items():
        assert classifier.penalty == penalty
        assert classifier.gradient <= 1e-6
        by_weights, by_bias = _gradient(classifier, *clouds)
        assert max(np.abs(by_weights).max(), np.abs(by_bias).max()) < 1.01e-6
        # The columns of the weights are shifts of each other that the penalty decides: they sum to 0
        np.testing.assert_allclose(classifier.weights.sum(1), 0, atol=1e-9)


def test_the_minimum_does_not_depend_on_the_way_there(clouds):
    """Alone from zero or from the solution of a stronger penalty: the objective is strongly convex."""
    alone = fit(*clouds, classes=CLASSES, penalties=(1e-3,), tolerance=1e-8)[1e-3]
    path = fit(*clouds, classes=CLASSES, penalties=(1e-3, 1.0), tolerance=1e-8)[1e-3]
    np.testing.assert_allclose(alone.weights, path.weights, atol=1e-4)
    assert alone.iterations > 0


def test_weights_shrink_as_the_penalty_grows(clouds):
    found = fit(*clouds, classes=CLASSES, penalties=(1.0, 1e-3, 1e-1))
    sizes = [np.linalg.norm(found[penalty].weights) for penalty in (1e-3, 1e-1, 1.0)]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2] > 0


def test_without_features_the_bias_says_how_frequent_classes_are():
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    features = np.full((10, 2), 0.1, np.float32)  # constant, and not a number that float32 has
    classifier = fit(features, labels, classes=3, penalties=(1e-6,), tolerance=1e-8)[1e-6]
    np.testing.assert_array_equal(classifier.scale, 1)
    np.testing.assert_allclose(classifier.weights, 0, atol=1e-6)
    p = scipy.special.softmax(classifier.logits(features[:1])[0])
    np.testing.assert_allclose(p, [0.5, 0.3, 0.2], rtol=1e-6)


def test_two_classes_and_one_feature_by_hand():
    """Features -1 and 1, of each three in four of its class: by symmetry w = (-a, a), b = 0, and a solves one equation.

    With p = sigmoid(2 a) the derivative by a of the objective, log-loss + penalty / 2 * 2 a^2, is 2 (p - 3/4) + 2
    penalty a.
    """
    features = np.repeat([-3.0, 7.0], 4).astype(np.float32)[:, None]
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    for penalty in (1e-6, 0.1, 1.0):
        classifier = fit(features, labels, classes=2, penalties=(penalty,), tolerance=1e-8)[penalty]
        a = scipy.optimize.brentq(lambda a, of=penalty: scipy.special.expit(2 * a) - 0.75 + of * a, 0, 5)
        np.testing.assert_allclose((classifier.mean, classifier.scale), ([2], [5]))
        np.testing.assert_allclose(classifier.weights, [[-a, a]], atol=1e-6)
        np.testing.assert_allclose(classifier.bias, 0, atol=1e-6)
        p = scipy.special.softmax(classifier.logits(features), axis=1)[:, 1]
        np.testing.assert_allclose(p, scipy.special.expit(2 * a * np.repeat([-1, 1], 4)), atol=1e-6)


def test_separable_classes_are_separated():
    generator = np.random.default_rng(2)
    labels = np.arange(90) % CLASSES
    centres = 20 * np.eye(CLASSES, 8)
    train, test = ((centres[labels] + generator.normal(size=(90, 8))).astype(np.float32) for _ in range(2))
    probe = linear_probe(train, labels, test, labels, classes=CLASSES)
    assert probe.accuracy == 1
    assert probe.held_out_accuracy[probe.classifier.penalty] == 1
    # All of the weaker penalties are right about all, and the weakest is most confident of it
    assert probe.classifier.penalty == 1e-6
    assert "chosen among 7 on held-out training images" in probe.protocol(90)


def test_the_penalty_is_chosen_on_held_out_images_and_the_rest_follows():
    """Many useless features and few images: a weak penalty fits noise, as the held-out part shows."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, CLASSES, 400)
    features = generator.normal(size=(400, 60)).astype(np.float32)
    features[np.arange(400), labels] += 1.5
    config = LinearProbeConfig(penalties=(1e-5, 1e-1))
    probe = linear_probe(features[:120], labels[:120], features[120:], labels[120:], classes=CLASSES, config=config)
    assert probe.classifier.penalty == 1e-1
    assert probe.held_out_accuracy[1e-1] > probe.held_out_accuracy[1e-5]

    held_out = held_out_part(labels[:120], 0.2, seed=0)
    fitted = fit(features[:120][~held_out], labels[:120][~held_out], classes=CLASSES, penalties=(1e-1,))[1e-1]
    own = fitted.logits(features[:120][held_out]).argmax(1) == labels[:120][held_out]
    assert probe.held_out_accuracy[1e-1] == pytest.approx(own.mean(), abs=0.05)
    again = fit(features[:120], labels[:120], classes=CLASSES, penalties=(1e-1,))[1e-1]
    np.testing.assert_array_equal(probe.classifier.weights, again.weights)
    assert probe.accuracy == np.mean(again.logits(features[120:]).argmax(1) == labels[120:])

    given = LinearProbeConfig(penalties=(1e-2,))
    alone = linear_probe(features[:120], labels[:120], features[120:], labels[120:], classes=CLASSES, config=given)
    assert alone.held_out_accuracy == {}
    assert "L2 penalty 0.01 (given)" in alone.protocol(120)


@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=4), part=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_the_held_out_part_is_balanced_and_never_a_whole_class(counts, part, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    chosen = held_out_part(labels, part, seed=seed)
    for label, count in enumerate(counts):
        assert chosen[labels == label].sum() == min(round(part * count), count - 1)
    np.testing.assert_array_equal(chosen, held_out_part(labels, part, seed=seed))


def test_seeds_hold_out_other_images():
    labels = np.zeros(100, int)
    assert (held_out_part(labels, 0.5, seed=0) != held_out_part(labels, 0.5, seed=1)).any()


def test_what_cannot_hold_is_refused(clouds):
    features, labels = clouds
    with pytest.raises(UserError, match=r"outside \[0, 2\)"):
        fit(features, labels, classes=2, penalties=(1.0,))
    with pytest.raises(UserError, match="there are none"):
        fit(features[:0], labels[:0], classes=CLASSES, penalties=(1.0,))
    with pytest.raises(UserError, match="1 images have features that are not finite"):
        fit(np.where(np.arange(300)[:, None] == 7, np.nan, features), labels, classes=CLASSES, penalties=(1.0,))
    with pytest.raises(UserError, match="needs test images"):
        linear_probe(features, labels, features[:0], labels[:0], classes=CLASSES)
    with pytest.raises(UserError, match="leaves none of 3 training images"):
        linear_probe(features[:3], np.arange(3), features, labels, classes=CLASSES)
    with pytest.raises(UserError, match="penalties must be more than 0"):
        LinearProbeConfig(penalties=(0.0, 1.0))
    with pytest.raises(UserError, match="held_out must be more than 0 and less than 1"):
        LinearProbeConfig(held_out=1.0)
