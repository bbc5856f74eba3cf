"""Principal components against the eigenvectors of the covariance, and their definition."""

import numpy as np

from vision.ops.principal_components import principal_components


def test_axes_are_eigenvectors_of_the_covariance():
    vectors = np.random.default_rng(0).normal(size=(50, 4)) * np.array([1.0, 4.0, 2.0, 0.5]) + 3.0
    found = principal_components(vectors)
    covariance = np.cov(vectors.T)
    np.testing.assert_allclose(found.variances, np.linalg.eigvalsh(covariance)[::-1], rtol=1e-10)
    np.testing.assert_allclose(covariance @ found.axes.T, found.axes.T * found.variances, atol=1e-10)
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(4), atol=1e-12)


def test_leading_components_approach_the_vectors():
    """The error falls with every axis: the mean with none, the vectors themselves with all."""
    vectors = np.random.default_rng(1).normal(size=(6, 9))
    found = principal_components(vectors)
    assert found.axes.shape == (5, 9)
    np.testing.assert_allclose(found.leading(vectors, 0), np.broadcast_to(vectors.mean(0), vectors.shape), atol=1e-12)
    np.testing.assert_allclose(found.leading(vectors, 5), vectors, atol=1e-12)
    errors = [np.square(found.leading(vectors, count) - vectors).sum() for count in range(6)]
    np.testing.assert_allclose(-np.diff(errors), 5 * found.variances, rtol=1e-9)
