"""Bits per dimension by closed forms, and the bound by a density against its integral over levels."""

import math

import numpy as np
import pytest
from scipy import stats

from vision.metrics.generation.bits_per_dimension import bits_per_dimension, bits_per_dimension_of_density

SHAPE = (4, 5, 3)
VALUES = math.prod(SHAPE)


def test_all_levels_alike_are_eight_bits():
    assert bits_per_dimension(VALUES * math.log(256), SHAPE) == pytest.approx(8)


@pytest.mark.parametrize("step", [1.0, 1 / 256, 1 / 127.5])
def test_a_density_that_knows_nothing_needs_eight_bits_in_any_unit(step):
    density = stats.uniform(-1, 256 * step)
    nats = -VALUES * density.logpdf(0.0)
    assert bits_per_dimension_of_density(nats, SHAPE, step=step) == pytest.approx(8)


@pytest.mark.parametrize("deviation", [0.5, 3.0])
def test_the_bound_by_dequantised_levels(deviation):
    """A normal density of levels, one value: the bound lies above the exact bits, and close for a wide one."""
    density = stats.norm(100, deviation)
    level = 101
    exact = bits_per_dimension(-math.log(density.cdf(level + 1) - density.cdf(level)), (1, 1, 1))
    noise = (np.arange(10_000) + 0.5) / 10_000
    bound = bits_per_dimension_of_density(-density.logpdf(level + noise).mean(), (1, 1, 1), step=1.0)
    gap = bound - exact
    assert gap > 0
    assert (gap < 0.01) == (deviation == 3.0)
