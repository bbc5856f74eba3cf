"""Minibatch optimal transport against SciPy's assignment."""

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from vision.diffusion.transport import coupled_noise


def test_the_assignment_is_the_best():
    images = np.asarray(jax.random.normal(jax.random.key(0), (12, 3, 3, 2)))
    noise = np.asarray(jax.random.normal(jax.random.key(1), (12, 3, 3, 2)))
    found = np.asarray(jax.jit(coupled_noise, static_argnames="group")(images, noise, group=6))
    for start in (0, 6):
        part, e = images[start : start + 6].reshape(6, -1), noise[start : start + 6].reshape(6, -1)
        cost = ((part[:, None] - e[None]) ** 2).sum(-1)
        np.testing.assert_array_equal(found[start : start + 6].reshape(6, -1), e[linear_sum_assignment(cost)[1]])
    assert sorted(found.reshape(12, -1)[:, 0]) == sorted(noise.reshape(12, -1)[:, 0])


def test_groups_of_one_change_nothing_and_must_divide():
    images, noise = jax.random.normal(jax.random.key(0), (2, 4, 2, 2, 1))
    np.testing.assert_array_equal(coupled_noise(images, noise, group=1), noise)
    with pytest.raises(ValueError, match="groups of 3 do not divide a batch of 4"):
        coupled_noise(images, noise, group=3)
