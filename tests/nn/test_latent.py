"""Gaussian latents: the divergence against Monte Carlo and densities against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vision.nn.latent import gaussian_kl, gaussian_log_density, standard_normal

moderate = st.floats(-2, 2, allow_nan=False, width=32)


def test_divergence_against_monte_carlo():
    """The mean of log q - log p over samples from q, within five standard errors; for the prior N(0, 1) and another."""
    generator = np.random.default_rng(0)
    mean, log_variance = generator.normal(size=(2, 6))
    for prior in ((np.zeros(6), np.zeros(6)), generator.normal(size=(2, 6))):
        draws = mean + np.exp(0.5 * log_variance) * generator.normal(size=(200_000, 6))
        q = stats.norm(mean, np.exp(0.5 * log_variance)).logpdf(draws)
        difference = q - stats.norm(prior[0], np.exp(0.5 * prior[1])).logpdf(draws)
        error = difference.std(0) / np.sqrt(len(draws))
        exact = gaussian_kl(*(jnp.asarray(x, jnp.float32) for x in (mean, log_variance, *prior)))
        assert np.all(np.abs(difference.mean(0) - exact) < 5 * error + 1e-5)


@given(moderate, moderate, moderate, moderate)
@settings(max_examples=50, deadline=None)
def test_divergence_is_not_negative_and_zero_for_equals(mean, log_variance, prior_mean, prior_log_variance):
    own, prior = (jnp.float32([mean]), jnp.float32([log_variance])), (jnp.float32([prior_mean]),)
    prior = (*prior, jnp.float32([prior_log_variance]))
    assert gaussian_kl(*own, *prior)[0] >= -1e-5
    assert gaussian_kl(*own, *own)[0] == pytest.approx(0.0, abs=1e-6)


def test_density_against_scipy():
    value, mean, log_variance = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5)), jnp.float32)
    want = stats.norm(mean, np.exp(0.5 * log_variance)).logpdf(value)
    np.testing.assert_allclose(gaussian_log_density(value, mean, log_variance), want, rtol=1e-5)
    np.testing.assert_allclose(gaussian_log_density(value, 0.0, 0.0), stats.norm.logpdf(value), rtol=1e-5)


def test_rows_of_noise_do_not_depend_on_how_many_there_are():
    key = jax.random.key(3)
    many = standard_normal((64, 100), key=key)
    np.testing.assert_array_equal(standard_normal((5, 100), key=key), many[:5])
    assert abs(many.mean()) < 0.05
    assert abs(many.std() - 1.0) < 0.05
    assert len(np.unique(many)) > 0.99 * many.size
