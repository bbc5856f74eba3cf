"""Distributions of training times against their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vision.diffusion.continuous import EDM, Flow, VariancePreserving
from vision.diffusion.process import sigmas
from vision.diffusion.schedules import linear
from vision.diffusion.training_times import stratified, stratified_times, training_times

KEY = jax.random.key(0)
COUNT = 4096


def test_stratified_numbers_are_one_of_each_part():
    found = np.asarray(stratified(64, key=KEY))
    assert sorted((found * 64).astype(int)) == list(range(64))
    assert not (np.diff(found) > 0).all()
    times = np.asarray(stratified_times(64, 1000, key=KEY))
    np.testing.assert_array_equal(times, (found * 1000).astype(int))
    assert stratified_times(4, 1, key=KEY).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "process", [EDM(), Flow(), VariancePreserving(), linear()], ids=["edm", "flow", "vp", "linear"]
)
def test_log_normal_sigmas(process):
    """Karras et al. 2022, table 1: ln sigma ~ N(-1.2, 1.2^2), whatever the process."""
    times = np.asarray(training_times(process, "log_normal", COUNT, mean=-1.2, deviation=1.2, key=KEY), np.float64)
    logs = np.log(sigmas(process, times))
    low, high = np.log(sigmas(process, np.asarray([process.earliest, min(process.noisiest, 999.0)])))
    inside = (logs > low + 0.02) & (logs < high - 0.02)
    assert inside.mean() > 0.98
    assert (
        stats.kstest(logs[inside], stats.truncnorm((low + 1.2) / 1.2, (high + 1.2) / 1.2, -1.2, 1.2).cdf).pvalue > 0.01
    )


def test_log_normal_is_logit_normal_in_a_flow():
    """Esser et al. 2024, equation 19: logit t ~ N(m, s^2)."""
    times = np.asarray(training_times(Flow(), "log_normal", COUNT, mean=0.5, deviation=0.8, key=KEY), np.float64)
    logits = np.log(times / (1 - times))
    assert logits.mean() == pytest.approx(0.5, abs=0.02)
    assert logits.std() == pytest.approx(0.8, abs=0.02)


def test_uniform():
    times = training_times(Flow(), "uniform", COUNT, key=KEY)
    assert stats.kstest(np.asarray(times), stats.uniform(1e-3, 1 - 1e-3).cdf).pvalue > 0.5  # better than independent
    whole = training_times(linear(), "uniform", COUNT, key=KEY)
    assert jnp.issubdtype(whole.dtype, jnp.integer)
    np.testing.assert_array_equal(whole, stratified_times(COUNT, 1000, key=KEY))


def test_shift():
    plain = np.asarray(training_times(Flow(), "uniform", 64, key=KEY))
    shifted = np.asarray(training_times(Flow(), "uniform", 64, shift=3.0, key=KEY))
    np.testing.assert_allclose(shifted, 3 * plain / (1 + 2 * plain), rtol=1e-5)
    shifted = np.asarray(training_times(EDM(), "log_normal", 64, mean=-1.2, deviation=0.5, shift=2.0, key=KEY))
    plain = np.asarray(training_times(EDM(), "log_normal", 64, mean=-1.2, deviation=0.5, key=KEY))
    np.testing.assert_allclose(shifted, 2 * plain, rtol=1e-5)
