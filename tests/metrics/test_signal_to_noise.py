"""PSNR against scikit-image (make_similarity_golden.py) and by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from similarity_images import pairs

from vision.metrics.reconstruction.signal_to_noise import peak_signal_to_noise

GOLDEN = Path(__file__).parents[1] / "golden" / "similarity.npz"


@pytest.mark.parametrize(("name", "shape"), [("colour", (27, 34, 3)), ("grey", (16, 11, 1))])
def test_scikit_images(name, shape):
    golden = np.load(GOLDEN)[f"psnr_{name}"]
    image, reference = (jnp.asarray(2 * array - 1) for array in pairs(*shape))
    np.testing.assert_allclose(peak_signal_to_noise(image, reference), golden, rtol=2e-6)


def test_by_hand():
    """One level off everywhere: 20 log10 255 = 48.13 dB, in any range."""
    level = jnp.full((1, 4, 5, 3), 17.0)
    found = peak_signal_to_noise(level, level + 1, value_range=(0.0, 255.0))
    np.testing.assert_allclose(found, [48.1308], atol=1e-4)
    black, white = -jnp.ones((2, 4, 5, 1)), jnp.ones((2, 4, 5, 1))
    np.testing.assert_allclose(peak_signal_to_noise(black, white), [0, 0], atol=1e-6)


def test_equal_images():
    """Infinity only for those, and a finite gradient."""
    image = jnp.stack([jnp.zeros((4, 5, 3)), jnp.ones((4, 5, 3))])
    assert np.isinf(peak_signal_to_noise(image, image.at[1, 0].set(0.5))).tolist() == [True, False]
    gradient = jax.grad(lambda x: peak_signal_to_noise(x, image)[0])(image)
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
