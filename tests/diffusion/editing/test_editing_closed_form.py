"""Edits by a model that is exact: images of two correlated Gaussian pixels, whose conditional distribution is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vision.diffusion.continuous import EDM, Flow
from vision.diffusion.editing.blended import blended
from vision.diffusion.editing.inverted import inverted, reconstruction_error
from vision.diffusion.editing.repaint import repaint, repaint_moves
from vision.diffusion.editing.sdedit import sdedit
from vision.diffusion.editing.strength import last_times
from vision.diffusion.grids import time_grid
from vision.diffusion.samplers.ddim import ddim
from vision.diffusion.schedules import cosine
from vision.errors import UserError

CORRELATION = 0.9
COVARIANCE = np.array([[1.0, CORRELATION], [CORRELATION, 1.0]])
PROCESSES = {"cosine": cosine(200), "flow": Flow(), "edm": EDM()}
MEAN = np.array([0.0, 0.0])


def exact(process, mean=MEAN):
    """E[x_0 | x_t] for x_0 ~ N(mean, COVARIANCE): mean + a C (a^2 C + s^2 I)^-1 (x_t - a mean)."""
    mean = jnp.asarray(mean, jnp.float32)

    def denoise(noisy, time):
        a, s = (scale[0, 0, 0, 0] for scale in process.at(time[:1]))
        gain = a * jnp.asarray(COVARIANCE) @ jnp.linalg.inv(a**2 * jnp.asarray(COVARIANCE) + s**2 * jnp.eye(2))
        return mean[None, None, :, None] + jnp.einsum("vw,bhwc->bhvc", gain, noisy - a * mean[None, None, :, None])

    return denoise


def known_first(count, value):
    """Images of one row whose first pixel is known, and the mask of the second."""
    image = jnp.zeros((count, 1, 2, 1)).at[:, 0, 0, 0].set(value)
    return image, jnp.asarray([0.0, 1.0]).reshape(1, 1, 2, 1)


def moments_error(samples, value):
    """Distances of mean and deviation of the second pixel from those of p(x_2 | x_1 = value)."""
    second = np.asarray(samples)[:, 0, 1, 0]
    return abs(second.mean() - CORRELATION * value), abs(second.std() - np.sqrt(1 - CORRELATION**2))


def test_repaint_comes_closer_to_the_conditional_distribution_with_more_resamplings():
    process, value = PROCESSES["cosine"], 1.5
    times = process.times(60)
    image, weight = known_first(2000, value)
    errors = []
    for resamplings in (1, 4, 20):
        run = jax.jit(
            lambda key, r=resamplings: repaint(
                exact(process), process, times, image, weight, resamplings=r, jump=1, key=key
            )
        )
        samples = run(jax.random.key(0))
        np.testing.assert_array_equal(samples[:, :, 0], image[:, :, 0])
        errors.append(sum(moments_error(samples, value)))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.5 * errors[0], errors


def test_the_walk_of_repaint_by_hand():
    assert repaint_moves(3, resamplings=1, jump=1) == [(0, 1), (1, 2), (2, 3)]
    # algorithm 1: every step twice, but for the last
    assert repaint_moves(3, resamplings=2, jump=1) == [(0, 1), (1, 0), (0, 1), (1, 2), (2, 1), (1, 2), (2, 3)]
    assert repaint_moves(4, resamplings=2, jump=2) == [(0, 1), (1, 2), (2, 3), (3, 1), (1, 2), (2, 3), (3, 4)]
    with pytest.raises(UserError, match="at least 1"):
        repaint_moves(4, resamplings=0, jump=2)


@pytest.mark.parametrize(("steps", "resamplings", "jump"), [(10, 3, 2), (7, 10, 3), (5, 2, 9), (1, 5, 1)])
def test_every_walk_is_connected_and_ends_at_the_image(steps, resamplings, jump):
    moves = repaint_moves(steps, resamplings=resamplings, jump=jump)
    assert moves[0][0] == 0
    assert moves[-1] == (steps - 1, steps)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(moves))
    jumps = len([place for place in range(1, steps) if (steps - 1 - place) % jump == 0 and place >= jump])
    assert sum(goal > source for source, goal in moves) == steps + jumps * (resamplings - 1) * jump


@pytest.mark.parametrize("name", PROCESSES)
def test_sdedit_without_strength_returns_the_image_and_forgets_it_at_full_strength(name):
    process = PROCESSES[name]
    times = time_grid(process, "default", 40)
    image = jnp.full((2000, 1, 2, 1), 4.0)
    run = lambda strength: jax.jit(
        lambda key: sdedit(exact(process), process, times, image, strength=strength, plan=ddim, key=key)
    )(jax.random.key(1))
    np.testing.assert_array_equal(run(0.0), image)
    away = [abs(float(run(strength).mean()) - 4.0) for strength in (0.25, 0.5, 1.0)]
    assert away[0] < away[1] < away[2]
    full = np.asarray(run(1.0))[:, 0, :, 0]
    np.testing.assert_allclose(full.mean(0), 0.0, atol=0.12)
    np.testing.assert_allclose(np.cov(full.T), COVARIANCE, atol=0.15)


def test_sdedit_of_a_gaussian_has_the_mean_of_its_closed_form():
    """One step from t: E[x_0 | x_t] with x_t ~ N(a image, s^2)."""
    process = PROCESSES["cosine"]
    image = jnp.broadcast_to(jnp.asarray([1.0, -1.0]).reshape(1, 1, 2, 1), (20_000, 1, 2, 1))
    times = np.array([150, 60])
    found = sdedit(exact(process), process, times, image, strength=0.5, plan=ddim, key=jax.random.key(2))
    a, s = (float(scale[0]) for scale in process.scales(times[1:]))
    gain = a * COVARIANCE @ np.linalg.inv(a**2 * COVARIANCE + s**2 * np.eye(2))
    np.testing.assert_allclose(found[:, 0, :, 0].mean(0), gain @ (a * np.array([1.0, -1.0])), atol=0.02)
    np.testing.assert_allclose(np.cov(found[:, 0, :, 0].T), s**2 * gain @ gain.T, atol=0.02)


def test_a_strength_outside_of_its_range_is_an_error():
    assert len(last_times(np.arange(10, 0, -1), 0.3)) == 3
    with pytest.raises(UserError, match="from 0 to 1"):
        last_times(np.arange(10, 0, -1), 1.5)


@pytest.mark.parametrize("name", PROCESSES)
def test_blended_diffusion_keeps_what_is_known_and_follows_its_condition(name):
    process = PROCESSES[name]
    times = time_grid(process, "default", 20)
    image, weight = known_first(1000, 0.5)
    of = {"key": jax.random.key(3)}
    np.testing.assert_array_equal(blended(exact(process), process, times, image, weight, strength=0.0, **of), image)
    found = blended(exact(process, mean=(0.0, 2.0)), process, times, image, weight, **of)
    np.testing.assert_array_equal(found[:, :, 0], image[:, :, 0])
    # the mean of the second pixel under the condition, pulled towards the first
    assert abs(float(found[:, 0, 1].mean()) - (2.0 + CORRELATION * 0.5)) < 0.35


@pytest.mark.parametrize("name", PROCESSES)
def test_noise_does_not_depend_on_what_is_edited_along(name):
    process = PROCESSES[name]
    times = time_grid(process, "default", 5)
    image, weight = known_first(6, 0.5)
    image = image + jnp.arange(6.0).reshape(-1, 1, 1, 1)
    whole = repaint(exact(process), process, times, image, weight, resamplings=2, jump=2, key=jax.random.key(4))
    part = repaint(
        exact(process),
        process,
        times,
        image[4:],
        weight,
        resamplings=2,
        jump=2,
        key=jax.random.key(4),
        index=jnp.array([4, 5]),
    )
    np.testing.assert_allclose(whole[4:], part, atol=1e-5)


@pytest.mark.parametrize("name", PROCESSES)
def test_inversion_and_back_is_exact_in_the_limit_of_steps(name):
    process = PROCESSES[name]
    image = jax.random.normal(jax.random.key(5), (16, 1, 2, 1))
    errors = []
    for steps, iterations in ((10, 1), (80, 1), (10, 8)):
        times = time_grid(process, "default", steps)
        both = inverted(exact(process), exact(process), process, times, image, iterations=iterations, strength=0.8)
        np.testing.assert_array_equal(both.edited, both.reconstruction)
        errors.append(float(reconstruction_error(image, both.reconstruction).mean()))
    assert errors[1] < 0.4 * errors[0]
    assert errors[2] < errors[0]


def test_an_edit_by_inversion_moves_a_gaussian_as_its_means_differ():
    """DDIM's map between Gaussians of one covariance and other means is a shift by the difference of the means."""
    process, target = PROCESSES["flow"], np.array([1.0, -1.0])
    image = jax.random.normal(jax.random.key(6), (16, 1, 2, 1))
    times = time_grid(process, "log_snr", 200)
    found = inverted(exact(process), exact(process, mean=target), process, times, image, iterations=2)
    shift = np.asarray(found.edited - image)[:, 0, :, 0]
    np.testing.assert_allclose(shift, np.broadcast_to(target, shift.shape), atol=0.1)
    unchanged = inverted(exact(process), exact(process), process, times, image, strength=0.0)
    np.testing.assert_array_equal(unchanged.edited, image)
