import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.nn.stochastic_depth import linear_rates, stochastic_depth


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.75])
def test_samples_are_left_out_whole_and_the_expectation_stays(rate):
    branch = jnp.broadcast_to(jnp.arange(1.0, 7.0).reshape(2, 3), (4096, 2, 3))
    out = np.asarray(stochastic_depth(branch, rate=rate, key=jax.random.key(0)))
    kept = out[:, 0, 0] != 0
    np.testing.assert_allclose(out[kept], np.asarray(branch)[kept] / (1 - rate), rtol=1e-6)
    assert (out[~kept] == 0).all()
    # five standard deviations of a mean of 4096 samples
    assert abs(kept.mean() - (1 - rate)) <= 5 * np.sqrt(rate * (1 - rate) / 4096)
    assert stochastic_depth(branch.astype(jnp.bfloat16), rate=rate, key=jax.random.key(0)).dtype == jnp.bfloat16


@given(rate=st.floats(0, 0.99), blocks=st.integers(1, 60))
def test_rates_rise_linearly_to_the_last(rate, blocks):
    """Huang et al. 2016, eq. 4."""
    rates = np.array(linear_rates(rate, blocks))
    np.testing.assert_allclose(1 - rates, 1 - np.arange(1, blocks + 1) / blocks * (1 - (1 - rate)), atol=1e-12)
