"""Latents in the plane: principal directions against the singular value decomposition, and the plot."""

import numpy as np
import pytest

from vision.report.latent_space import latent_space_plot, principal_plane


def test_principal_directions_against_svd():
    latents = np.random.default_rng(0).normal(size=(50, 5)) * [1, 5, 2, 0.1, 3] + 7
    points, shares = principal_plane(latents)
    centred = latents - latents.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(centred @ directions[:2].T), atol=1e-9)
    np.testing.assert_allclose(shares, singular[:2] ** 2 / np.sum(singular**2))


def test_two_dimensions_are_shown_as_they_are():
    latents = np.random.default_rng(0).normal(size=(50, 2)) * [1, 5] + 3
    points, shares = principal_plane(latents)
    np.testing.assert_array_equal(points, latents[:, ::-1])
    assert shares.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("classes", [3, 30])
def test_image(classes):
    latents, labels = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % classes
    picture = latent_space_plot(latents, labels, [f"class {n}" for n in range(classes)], title="codes")
    colours = {tuple(map(int, pixel)) for pixel in picture.reshape(-1, 3)}
    red = [c for c in colours if c[0] > c[1] + 60 and c[0] > c[2] + 60]
    assert bool(red) == (classes == 3)  # few classes have colours, many are grey
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3


@pytest.mark.parametrize("shape", [(2, 4), (10, 1)])
def test_no_plane(shape):
    with pytest.raises(ValueError, match="needs at least three of at least two dimensions"):
        latent_space_plot(np.zeros(shape), np.zeros(shape[0], int), ["a"], title="")
