"""Colours of one image for another: luma stays, and mean and covariance are those of the target."""

import jax.numpy as jnp
import numpy as np

from vision.ops.colour_transfer import matched_colours, with_colours_of
from vision.ops.ycbcr import rgb_to_ycbcr


def test_luma_and_colours():
    rng = np.random.default_rng(0)
    image, source = (jnp.asarray(rng.uniform(0.4, 0.6, (1, 5, 6, 3)), jnp.float32) for _ in range(2))
    made = rgb_to_ycbcr(with_colours_of(image, source), value_range="full")
    np.testing.assert_allclose(made[..., 0], rgb_to_ycbcr(image, value_range="full")[..., 0], atol=1e-5)
    np.testing.assert_allclose(made[..., 1:], rgb_to_ycbcr(source, value_range="full")[..., 1:], atol=1e-5)


def test_mean_and_covariance():
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.4, 0.1], [0.0, 0.7, 0.3], [0.2, 0.0, 0.5]])
    image = np.clip(0.5 + 0.05 * rng.normal(size=(20, 30, 3)) @ mixing, 0, 1)
    target = np.clip(0.45 + 0.06 * rng.normal(size=(25, 10, 3)) @ mixing.T, 0, 1)
    made = np.asarray(matched_colours(jnp.asarray(image, jnp.float32), jnp.asarray(target, jnp.float32)))
    flat = lambda of: of.reshape(-1, 3)
    np.testing.assert_allclose(flat(made).mean(0), flat(target).mean(0), atol=1e-3)
    np.testing.assert_allclose(np.cov(flat(made).T), np.cov(flat(target).T), atol=1e-4)


def test_an_image_of_one_colour():
    made = matched_colours(jnp.full((4, 4, 3), 0.2), jnp.asarray(np.random.default_rng(0).uniform(size=(4, 4, 3))))
    assert np.isfinite(made).all()
    assert np.ptp(made.reshape(-1, 3), axis=0).max() < 1e-6
