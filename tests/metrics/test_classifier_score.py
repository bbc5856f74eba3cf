"""The score of a classifier against torch-fidelity and closed forms.

The golden values are made by make_distances_golden.py.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seeded_features import probabilities

from vision.errors import UserError
from vision.metrics.generation.classifier_score import classifier_score

GOLDEN = Path(__file__).parents[1] / "golden" / "distances.npz"


def test_is_torch_fidelitys():
    found = classifier_score(probabilities(5, 333, 10), splits=4)
    np.testing.assert_allclose([found.mean, found.deviation], np.load(GOLDEN)["score"], rtol=1e-9)


def test_extremes():
    """Confident of all classes equally often: the number of classes. Uniform, or confident of only one class: 1."""
    sure = np.eye(7)[np.arange(70) % 7]
    np.testing.assert_allclose(classifier_score(sure, splits=2).mean, 7.0, rtol=1e-12)
    assert classifier_score(np.full((20, 4), 0.25)).mean == pytest.approx(1.0)
    assert classifier_score(np.eye(4)[[2] * 20]).mean == pytest.approx(1.0)
    # sorted images, in parts of one class each, as the docstring warns
    assert classifier_score(np.repeat(np.eye(5), 8, axis=0), splits=5).mean == pytest.approx(1.0)


def test_is_the_exponential_of_the_mutual_information():
    """exp(H(y) - H(y|x))."""
    rows = probabilities(6, 50, 5)
    entropy = lambda p: -np.sum(p * np.log(p), axis=-1)
    expected = np.exp(entropy(rows.mean(0)) - entropy(rows).mean())
    found = classifier_score(rows, splits=1)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-12)
    assert found.deviation == 0


@given(seed=st.integers(0, 99), count=st.integers(3, 20), classes=st.integers(2, 6))
def test_bounds(seed, count, classes):
    score = classifier_score(probabilities(seed, count, classes), splits=3).mean
    assert 1 - 1e-12 <= score <= classes + 1e-12


def test_refuses():
    with pytest.raises(UserError, match="3 images cannot be divided into 10 parts"):
        classifier_score(probabilities(0, 3, 2))
    with pytest.raises(UserError, match="negative or have not the sum 1"):
        classifier_score(np.log(probabilities(0, 20, 3)))
    with pytest.raises(UserError, match="negative or have not the sum 1"):
        classifier_score(2 * probabilities(0, 20, 3))
