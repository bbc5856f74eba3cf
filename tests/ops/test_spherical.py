"""Interpolation along great circles against rotations in a plane."""

import numpy as np
import pytest

from vision.ops.spherical import slerp


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_quarter_turn(share):
    found = slerp(np.array([2.0, 0.0, 0.0]), np.array([0.0, 2.0, 0.0]), share)
    np.testing.assert_allclose(found, [2 * np.cos(share * np.pi / 2), 2 * np.sin(share * np.pi / 2), 0], atol=1e-6)


def test_steps_are_equal_and_keep_the_length():
    generator = np.random.default_rng(0)
    ends = generator.normal(size=(2, 1, 16))
    ends /= np.linalg.norm(ends, axis=-1, keepdims=True)
    found = slerp(ends[0], ends[1], np.linspace(0, 1, 7))
    assert found.shape == (7, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
    angles = np.arccos(np.clip((found[1:] * found[:-1]).sum(1), -1, 1))
    np.testing.assert_allclose(angles, angles[0], atol=1e-5)


def test_parallel_vectors_lie_on_a_line_and_zeros_are_refused():
    one = np.array([1.0, 1.0])
    np.testing.assert_allclose(slerp(one, 3 * one, 0.5), 2 * one, atol=1e-6)
    with pytest.raises(ValueError, match="no direction"):
        slerp(one, 0 * one, 0.5)
