"""Averages by power functions: exponents and inner products against their definitions, and combinations of averages."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from hypothesis import given
from hypothesis import strategies as st

from vision.train.power_average import (
    Profile,
    combination,
    exponent_of,
    inner_products,
    length_of,
    power_decay,
)

LENGTHS = st.floats(0.01, 0.288)
PROFILES = st.builds(Profile, LENGTHS, st.integers(1, 1000))


def density(profile, tau):
    power = profile.exponent
    inside = (tau >= 0) & (tau <= profile.step)
    return np.where(inside, (power + 1) / profile.step * (np.abs(tau) / profile.step) ** power, 0.0)


def weights(profile, steps):
    """What each step contributes to an average: the integral of its profile."""
    edges = np.minimum(np.arange(steps + 1) / profile.step, 1.0) ** (profile.exponent + 1)
    return np.diff(edges)


@given(length=LENGTHS)
def test_a_length_is_the_relative_deviation_of_its_profile(length):
    profile = Profile(length, 7)
    moment = lambda n: scipy.integrate.quad(lambda tau: tau**n * density(profile, tau), 0, 7, epsabs=1e-12)[0]
    assert moment(0) == pytest.approx(1.0, rel=1e-8)
    assert np.sqrt(moment(2) - moment(1) ** 2) / 7 == pytest.approx(length, rel=1e-5)
    assert length_of(exponent_of(length)) == pytest.approx(length, rel=1e-10)


def test_published_exponents():
    """Karras et al. 2024, section 3.1: 6.94 and 16.97 for the relative lengths 0.10 and 0.05."""
    assert [round(exponent_of(length), 2) for length in (0.10, 0.05)] == [6.94, 16.97]


@pytest.mark.parametrize("length", [0.0, -0.1, 0.2887, float("nan")])
def test_impossible_lengths(length):
    with pytest.raises(ValueError, match=r"a length between 0 and 0\.2887"):
        exponent_of(length)


@given(one=PROFILES, other=PROFILES)
def test_inner_products_against_numerical_integration(one, other):
    last = min(one.step, other.step)
    peak = [last * (1 - 1 / (1 + one.exponent + other.exponent)), last]
    integrand = lambda tau: density(one, tau) * density(other, tau)
    expected = scipy.integrate.quad(integrand, 0, last, points=peak[:1], epsabs=0, limit=200)[0]
    found = inner_products([one, other], [other, one])
    assert found[0, 0] == pytest.approx(expected, rel=1e-6)
    assert found[0, 0] == pytest.approx(found[1, 1], rel=1e-12)


@given(length=LENGTHS)
def test_a_decay_is_the_average_by_a_power_of_the_steps(length):
    path = np.random.default_rng(0).normal(size=200)
    decay, value = power_decay(length), 99.0
    for step, target in enumerate(path):
        keep = float(decay(jnp.int32(step)))
        value = keep * value + (1 - keep) * target
    assert value == pytest.approx(weights(Profile(length, 200), 200) @ path, abs=2e-5)


def test_a_decay_keeps_its_digits_at_many_steps():
    for step in (10_000, 1_000_000):
        expected = 1 - (1 - 1 / (step + 1)) ** (exponent_of(0.05) + 1)
        assert 1 - float(power_decay(0.05)(jnp.int32(step))) == pytest.approx(expected, rel=0.005)


def stored(count, *, every=100, lengths=(0.05, 0.10)):
    return [Profile(length, every * (index + 1)) for index in range(count) for length in lengths]


@pytest.mark.parametrize(
    ("length", "largest"), [(0.03, 3e-3), (0.07, 3e-4), (0.13, 4e-4), (0.15, 6e-4), (0.2, 2e-3), (0.25, 0.02)]
)
def test_the_profile_of_another_length_from_64_snapshots_of_two(length, largest):
    wanted, profiles = Profile(length, 6400), stored(64)
    coefficients, error = combination(profiles, wanted)
    assert 0 < error < largest
    assert coefficients.sum() == pytest.approx(1.0, abs=1e-9)
    made = coefficients @ np.stack([weights(profile, 6400) for profile in profiles])
    target = weights(wanted, 6400)
    # the closed form of continuous time is the error of the weights of steps
    assert np.linalg.norm(made - target) / np.linalg.norm(target) == pytest.approx(error, rel=0.02)


def test_the_average_of_a_random_trajectory_is_reconstructed():
    """A walk whose directly tracked average moves by 1: the reconstruction is within 1e-3 of it."""
    path = np.cumsum(np.random.default_rng(0).normal(size=(6400, 50)), axis=0) / 80
    tracked = {profile: weights(profile, 6400) @ path for profile in stored(64)}
    for length, largest in ((0.07, 1e-4), (0.13, 2e-4), (0.2, 1e-3)):
        coefficients, _ = combination(list(tracked), Profile(length, 6400))
        direct = weights(Profile(length, 6400), 6400) @ path
        found = coefficients @ np.stack(list(tracked.values()))
        assert np.abs(found - direct).max() < largest
        assert np.abs(tracked[Profile(0.10, 6400)] - direct).max() > 10 * largest


def test_a_stored_average_is_itself_and_any_time_can_be_had():
    profiles = stored(20)
    for index in (0, 17, 39):
        coefficients, error = combination(profiles, profiles[index])
        np.testing.assert_array_equal(coefficients, np.eye(40)[index])
        assert error == 0
    coefficients, error = combination(profiles, Profile(0.12, 1000))
    assert error < 0.02
    assert np.abs(coefficients[20:]).max() < 0.2  # later snapshots hardly count


@given(count=st.integers(1, 6), length=LENGTHS)
def test_few_snapshots_still_average_what_stands_still_to_itself(count, length):
    coefficients, error = combination(stored(count), Profile(length, 100 * count))
    assert coefficients.sum() == pytest.approx(1.0, abs=1e-9)
    assert error >= 0


def test_more_snapshots_are_better():
    errors = [combination(stored(count, every=6400 // count), Profile(0.15, 6400))[1] for count in (4, 16, 64)]
    assert errors == sorted(errors, reverse=True)
    with pytest.raises(ValueError, match="no stored average"):
        combination([], Profile(0.1, 5))
