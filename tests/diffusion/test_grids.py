"""Time grids against their definitions, and in every process."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.diffusion.continuous import EDM, Flow, VarianceExploding, VariancePreserving
from vision.diffusion.grids import time_grid
from vision.diffusion.process import sigmas
from vision.diffusion.schedules import linear, scaled_linear, zero_terminal_snr
from vision.errors import UserError

PROCESSES = [linear(), zero_terminal_snr(scaled_linear()), Flow(), EDM(), VarianceExploding(), VariancePreserving()]


def test_spacings_of_lin_et_al_2024_table_2():
    """Ten of 1000 times; the table counts from 1."""
    assert (time_grid(linear(), "leading", 10) + 1).tolist() == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert (time_grid(linear(), "trailing", 10) + 1).tolist() == [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]
    assert (time_grid(linear(), "uniform", 10) + 1).tolist() == [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1]


@pytest.mark.parametrize("spacing", ["default", "uniform", "trailing", "karras", "log_snr"])
@given(process=st.sampled_from(PROCESSES), steps=st.integers(1, 60))
def test_every_grid_decreases_from_the_noisiest(spacing, process, steps):
    if spacing == "trailing" and isinstance(process, VarianceExploding):
        with pytest.raises(UserError, match="choose uniform, karras or log_snr"):
            time_grid(process, spacing, steps)
        return
    times = time_grid(process, spacing, steps)
    assert len(times) == steps
    assert (np.diff(times) < 0).all()
    assert times[0] <= process.noisiest * (1 + 1e-9)
    assert times[-1] > process.clean
    assert times[0] == pytest.approx(process.noisiest)


def test_even_spacing_in_the_logarithm():
    levels = sigmas(EDM(), time_grid(EDM(), "log_snr", 9))
    np.testing.assert_allclose(np.diff(np.log(levels)), np.log(0.002 / 80) / 8)
    levels = sigmas(linear(), time_grid(linear(), "log_snr", 9))
    np.testing.assert_allclose(np.diff(np.log(levels)), np.log(levels[-1] / levels[0]) / 8)


def test_shift_of_a_flow():
    """Esser et al. 2024, equation 23: t' = 3 t / (1 + 2 t)."""
    t = Flow().times(8)
    np.testing.assert_allclose(time_grid(Flow(), "default", 8, shift=3.0), 3 * t / (1 + 2 * t))


def test_pure_noise_stays_the_first_time():
    times = time_grid(Flow(), "karras", 6)
    assert times[0] == 1.0
    assert times[1] == pytest.approx(1 - 0.999 / 50, rel=1e-3)
    assert time_grid(Flow(), "karras", 1).tolist() == [1.0]


def test_refusals():
    with pytest.raises(UserError, match="choose at least 1"):
        time_grid(Flow(), "uniform", 0)
    with pytest.raises(UserError, match="choose 1 to 1000"):
        time_grid(linear(), "trailing", 1001)
    with pytest.raises(UserError, match=r"sampling\.grid leading is for discrete times"):
        time_grid(Flow(), "leading", 5)
    with pytest.raises(UserError, match=r"sampling\.shift 4 pushes several times to an end"):
        time_grid(linear(), "uniform", 50, shift=4.0)
