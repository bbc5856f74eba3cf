"""Layers that keep magnitudes: of noise through each, of weights whatever their scale, of sums and concatenations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.nn import magnitude_preserving as mp

NOISE = jax.random.normal(jax.random.key(0), (4, 16, 16, 64))


def magnitude(x, axis=None):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64)), axis=axis))


def test_silu_of_noise():
    assert magnitude(mp.mp_silu(NOISE)) == pytest.approx(1.0, abs=0.005)


@given(share=st.floats(0, 1))
def test_sums_keep_the_magnitude_and_divide_it_by_shares(share):
    one, other = NOISE[0], NOISE[1]
    total = mp.mp_sum(one, other, share)
    assert magnitude(total) == pytest.approx(1.0, abs=0.02)
    of = lambda part: float(jnp.mean(total * part))
    scale = math.hypot(1 - share, share)
    np.testing.assert_allclose([of(one), of(other)], [(1 - share) / scale, share / scale], atol=0.03)


@given(share=st.floats(0, 1), few=st.integers(1, 20))
def test_concatenated_channels_have_their_share_of_the_magnitude_however_many_they_are(share, few):
    one, other = NOISE[0], NOISE[1, ..., :few]
    both = np.asarray(mp.mp_concatenated(one, other, share))
    assert both.shape[-1] == 64 + few
    assert magnitude(both) == pytest.approx(1.0, abs=0.05)
    norms = np.sqrt([np.square(both[..., :64]).sum(), np.square(both[..., 64:]).sum()])
    np.testing.assert_allclose(
        norms / np.hypot(*norms), np.array([1 - share, share]) / math.hypot(1 - share, share), atol=0.05
    )


def test_fourier_features_keep_the_magnitude_and_tell_noise_levels_apart():
    code = np.asarray(mp.mp_fourier(jnp.linspace(-1.5, 1.5, 50), 256))
    assert code.dtype == np.float32
    np.testing.assert_allclose(magnitude(code, axis=1), 1.0, atol=0.15)
    apart = np.linalg.norm(code[:, None] - code[None], axis=-1) + 100 * np.eye(50)
    assert apart.min() > 1.0
    np.testing.assert_array_equal(code[:2], mp.mp_fourier(jnp.linspace(-1.5, 1.5, 50)[:2], 256))


def test_pixels_are_normalised_each_by_itself_and_zeros_stay():
    scaled = NOISE * jnp.arange(1, 17)[None, :, None, None]
    np.testing.assert_allclose(magnitude(mp.pixel_normalised(scaled), axis=-1), 1.0, atol=1e-3)
    zero = jnp.zeros((1, 2, 2, 3))
    value, slope = jax.value_and_grad(lambda x: jnp.sum(mp.pixel_normalised(x)))(zero)
    assert value == 0
    assert np.isfinite(slope).all()
    half = mp.pixel_normalised(scaled.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


LAYERS = {"dense": mp.MPDense(96), "conv": mp.MPConv(96), "conv 1": mp.MPConv(96, size=1)}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_keep_the_magnitude_of_noise(name):
    layer = LAYERS[name]
    variables = layer.init(jax.random.key(1), NOISE)
    made = layer.apply(variables, NOISE)
    assert made.shape == (4, 16, 16, 96)
    inner = made[:, 1:-1, 1:-1]  # beyond the border there are zeros
    assert magnitude(inner) == pytest.approx(1.0, abs=0.02)
    assert list(variables["params"]) == ["weight"]


@pytest.mark.parametrize("name", LAYERS)
def test_the_scale_of_a_weight_changes_nothing_and_gradients_are_orthogonal_to_it(name):
    layer = LAYERS[name]
    params = layer.init(jax.random.key(1), NOISE)["params"]
    scale = jnp.linspace(0.5, 20.0, 96)
    value = lambda params: layer.apply({"params": params}, NOISE[:1])
    np.testing.assert_allclose(value({"weight": params["weight"] * scale}), value(params), atol=2e-3)
    slope = jax.grad(lambda params: jnp.sum(jnp.sin(value(params))))(params)["weight"]
    along = np.abs(np.sum(np.asarray(slope * params["weight"]), axis=tuple(range(slope.ndim - 1))))
    size = np.linalg.norm(np.asarray(slope).reshape(-1, 96), axis=0) * np.linalg.norm(
        np.asarray(params["weight"]).reshape(-1, 96), axis=0
    )
    assert (along / size).max() < 1e-3
    assert size.min() > 0.1


def test_a_gain_starts_at_zero_and_learns():
    layer = mp.MPConv(8, gain=True)
    params = layer.init(jax.random.key(1), NOISE)["params"]
    assert params["gain"] == 0
    assert not np.any(layer.apply({"params": params}, NOISE))
    slope = jax.grad(lambda params: jnp.sum((1.0 + layer.apply({"params": params}, NOISE)) ** 2))(params)
    assert abs(slope["gain"]) > 1e-3


@given(seed=st.integers(0, 2**31))
def test_normalised_weights_are_a_fixed_point_and_leave_others_alone(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "conv": {"weight": 7.0 * jax.random.normal(keys[0], (3, 3, 4, 5)), "gain": jnp.float32(2.5)},
        "head": {"kernel": jax.random.normal(keys[1], (6, 2))},
    }
    found = mp.normalised_weights(params)
    np.testing.assert_allclose(magnitude(found["conv"]["weight"], axis=(0, 1, 2)), 1.0, atol=1e-3)
    np.testing.assert_array_equal(found["head"]["kernel"], params["head"]["kernel"])
    assert found["conv"]["gain"] == 2.5
    again = mp.normalised_weights(found)
    np.testing.assert_allclose(again["conv"]["weight"], found["conv"]["weight"], rtol=2e-4)
